"""Alignment of histology and expression: retrieval, expression from the image, domains, figures.

    python benchmarks/alignment.py --data ../shared/data     # docs/results/alignment.json; about half an hour of one core
    python benchmarks/alignment.py --short                   # simulated, seconds, writes nothing

Sections of HER2-positive breast tumours (patients A, B and C) and of mouse olfactory bulb. In every split the genes of the
model are those that vary most among the training spots, and nothing is fitted on tested sections but the scale of their
image features, which is that of each section. --figures DIR draws niches, predictions, retrieval and domains there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from _alignment_sections import Sections, read_sections, simulated_sections
from scipy import sparse

import stimage as sti
from stimage import benchmark
from stimage.models.alignment._presets import ALIGNER_PRESETS
from stimage.modules import AlignerConfig

PATIENT_C = ("img-her2st_C2", "img-her2st_C3", "img-her2st_C4")
HER2ST = ("img-her2st_A1", "img-her2st_B4", *PATIENT_C)
BULB = "img-MOB_Rep11"
PAPER_WEIGHTS = ALIGNER_PRESETS["paper"].config.weights
"""Of spot, niche and cross-scale loss."""
SEEDS = {"sections": 5, "patients": 3, "domains": 5, "paper": 5, "genes": 2}
"""Seeds of each part; patients train on up to five sections, and the gene side on thousands of spots."""


def align(
    sections: Sections,
    names: list[str],
    genes: list[str] | None,
    *,
    shuffled: bool = False,
    config: dict | None = None,
    max_epochs: int = 20,
    **options,
) -> sti.models.STAlign:
    """Train on some sections; ``shuffled`` gives each spot the counts of another spot of its section."""
    slides = [sections.adatas[name] for name in names]
    if shuffled:
        slides = [slide.copy() for slide in slides]
        for slide in slides:
            slide.X = slide.X[np.random.default_rng(0).permutation(slide.n_obs)]
    options = {"image_encoder": sections.reader.spot_encoder, "gene_encoder": sections.gene_encoder, **options}
    config = AlignerConfig(**{**sections.config, **(config or {})})
    model = sti.models.STAlign(slides, genes=genes, n_pool_genes=1000, config=config, **sections.reading, **options)
    model.train(max_epochs, enable_progress_bar=False)
    return model


def most_variable(expression: sparse.csr_matrix, genes: np.ndarray, n_genes: int) -> list[str]:
    mean = np.asarray(expression.mean(axis=0)).ravel()
    variance = np.asarray(expression.multiply(expression).mean(axis=0)).ravel() - mean**2
    return genes[np.sort(np.argsort(-variance)[:n_genes])].tolist()


def recall(model: sti.models.STAlign, sections: Sections, name: str) -> dict[str, float]:
    """Recall of image -> gene retrieval among all spots of a section, over chance."""
    adata = sections.adatas[name]
    found = {}
    for level in ("spot", "niche") if model.niches else ("spot",):
        image, gene = (
            model.get_latent_representation(adata, modality=modality, level=level, **sections.reading)
            for modality in ("image", "gene")
        )
        scores = benchmark.retrieval_recall(image, gene, ks=[10]).iloc[0]
        found[level] = {"recall": float(scores["recall"]), "chance": float(scores["chance"])}
    return found


def expression_and_retrieval(
    sections: Sections, splits: list[tuple[list[str], list[str]]], seeds: list[int], **options
) -> dict:
    """Sections left out: scores of our two predictions and of the baselines, and recall on the tested sections."""
    names = sorted({name for pair in splits for part in pair for name in part})
    expression, genes, groups = sections.stacked(names)
    models: dict[tuple, sti.models.STAlign] = {}
    recalls: dict[str, dict] = {}

    def predictor(method: str, seed: int) -> Callable:
        def predict(train: np.ndarray, test: np.ndarray, columns: np.ndarray) -> np.ndarray:
            training, tested = sorted(set(groups[train])), sorted(set(groups[test]))
            key = (*training, seed)
            if key not in models:
                chosen = most_variable(expression[train], genes, 1000)
                models[key] = align(sections, training, chosen, seed=seed, **options)
                for name in tested:
                    recalls.setdefault(f"{', '.join(training)} to {name}", {})[seed] = recall(
                        models[key], sections, name
                    )
            model = models[key]
            column = pd.Index(model.genes).get_indexer(genes[columns])
            parts = [
                model.predict_expression(sections.adatas[name], method=method, **sections.reading) for name in tested
            ]
            return np.concatenate(parts)[:, column]

        return predict

    predictors = {
        f"stimage {method}, seed {seed}": predictor(method, seed)
        for seed in seeds
        for method in ("regression", "retrieval")
    }
    everything = np.concatenate([sections.features(name) for name in names])
    predictors["ridge, all patches and colours"] = benchmark.ridge_predictor(expression, everything, groups=groups)
    parts = [
        benchmark.Split(
            np.flatnonzero(np.isin(groups, training)), np.flatnonzero(np.isin(groups, tested)), name=", ".join(tested)
        )
        for training, tested in splits
    ]
    one_patch = np.concatenate([sections.one_patch(name) for name in names])
    records = benchmark.evaluate_expression(
        expression, one_patch, groups, predictors=predictors, splits=parts, n_genes=100
    )
    columns = ["mse", "mae", "pearson"]
    scores = records.groupby(["method", "split"], sort=False)[columns].mean().reset_index()
    return {"scores": scores.round(5).to_dict("records"), "recall": recalls}


def rotated(values: np.ndarray) -> np.ndarray:
    """The same vectors, centred, over axes of their own: as many as there are spots, where features are thousands."""
    left, singular, _ = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    return (left * singular).astype(np.float32)


def domains(sections: Sections, name: str, training: list[str], seeds: list[int], **options) -> list[dict]:
    """Adjusted Rand index of a mixture on each kind of vector, true number of domains."""
    adata = sections.adatas[name]
    labels = adata.obs["label"].astype(object)
    known = labels.notna().to_numpy()
    rows = []
    raw = {"principal components of genes": sections.components(name), "frozen image features": sections.features(name)}
    raw["both side by side"] = np.concatenate(
        [values / np.sqrt((values**2).sum(1).mean()) for values in raw.values()], axis=1
    )
    raw = {method: rotated(values) for method, values in raw.items()}
    for seed in seeds:
        model = align(sections, training, None, seed=seed, **options)
        vectors = dict(raw)
        for level in ("spot", "both") if model.niches else ("spot",):
            for modality in ("image", "gene", "fused"):
                vectors[f"{modality}, {level}"] = model.get_latent_representation(
                    adata, modality=modality, level=level, **sections.reading
                )
            pair = [vectors[f"{modality}, {level}"] for modality in ("image", "gene")]
            vectors[f"concatenation, {level}"] = np.concatenate(pair, axis=1)
        for method, values in vectors.items():
            scored = anndata.AnnData(obsm={"X": values}, obs=pd.DataFrame(index=adata.obs_names))
            sti.tl.domains(scored, int(labels[known].nunique()), use_rep="X", seed=seed)
            found = scored.obs["stimage_domain"].to_numpy()
            ari = benchmark.clustering_scores(labels[known].astype(str).to_numpy(), found[known].astype(str))["ari"]
            rows.append(
                {"section": name, "training": ", ".join(training), "method": method, "seed": seed, "ari": round(ari, 5)}
            )
    return rows


def genes_only(data: Path, seeds: list[int]) -> list[dict]:
    """A slide without an image: the gene side alone."""
    from _studies import read_study

    adata = next(slide for slide in read_study(data, "DLPFC") if slide.obs["slide"].iloc[0] == "DLPFC_151673")
    sti.pp.build_niches(adata)
    known = adata.obs["label"].notna().to_numpy()
    labels = adata.obs["label"].astype(str).to_numpy()[known]
    rows = []
    for seed in seeds:
        model = sti.tl.align(adata, image_encoder=None, seed=seed, trainer_kwargs={"enable_progress_bar": False})
        for level in ("spot", "niche", "both"):
            sti.tl.embed(adata, model, level=level)
            sti.tl.domains(adata, len(set(labels)), seed=seed)
            ari = benchmark.clustering_scores(labels, adata.obs["stimage_domain"].astype(str).to_numpy()[known])["ari"]
            rows.append({"level": level, "seed": seed, "ari": round(ari, 5)})
    return rows


def figures(sections: Sections, folder: Path, patient: list[str], bulb: str) -> None:
    """Niches on the tissue, prediction and retrieval on a section left out, domains."""
    folder.mkdir(parents=True, exist_ok=True)
    image_dir = sections.reading["image_dir"]
    for name, adata in sections.adatas.items():
        sti.pl.niches(adata, image_dir=image_dir).savefig(folder / f"niches_{name}.png", dpi=80)
    tested, *training = patient
    for name, model in ((tested, align(sections, training, None)), (bulb, align(sections, [bulb], None))):
        adata = sections.adatas[name].copy()
        sti.tl.predict_expression(adata, model, **sections.reading)
        sti.pl.alignment(adata, aligner=model, image_dir=image_dir).savefig(folder / f"alignment_{name}.png", dpi=100)
        sti.tl.embed(adata, model, level="spot", **sections.reading)
        sti.tl.domains(adata, 5)
        sti.pl.domains(adata).savefig(folder / f"domains_{name}.png", dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path("benchmarks/cache/images"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/alignment.json"))
    parser.add_argument("--figures", type=Path)
    parser.add_argument("--parts", nargs="+", choices=SEEDS, default=list(SEEDS))
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()

    if arguments.short:
        sections = simulated_sections()
        names = list(sections.adatas)
        print(expression_and_retrieval(sections, [(names[:1], names[1:])], [0], max_epochs=1)["scores"])
        print(domains(sections, names[0], names[:1], [0], max_epochs=1))
        return
    start = time.process_time()
    sections = read_sections(arguments.data, (*HER2ST, BULB), arguments.cache)
    document = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    document |= {
        "command": "python benchmarks/alignment.py",
        "versions": {package: version(package) for package in ("stimage", "torch", "numpy", "scikit-learn")},
    }
    document.setdefault("seconds of cores", {})["image features"] = round(time.process_time() - start)
    leave_section = [([name for name in PATIENT_C if name != tested], [tested]) for tested in PATIENT_C]
    a, b, c = ["img-her2st_A1"], ["img-her2st_B4"], list(PATIENT_C)
    leave_patient = [([*b, *c], a), ([*a, *c], b), ([*a, *b], c)]
    seeds = {part: list(range(number)) for part, number in SEEDS.items()}
    parts: dict[str, Callable] = {
        "sections": lambda: {
            "leave-one-section-out": expression_and_retrieval(sections, leave_section, seeds["sections"]),
            "shuffled pairs": expression_and_retrieval(sections, leave_section, [0], shuffled=True)["recall"],
        },
        "patients": lambda: {
            "leave-one-patient-out": expression_and_retrieval(sections, leave_patient, seeds["patients"])
        },
        "domains": lambda: {
            "domains": [
                *domains(sections, BULB, [BULB], seeds["domains"]),
                *domains(sections, *a, a, seeds["domains"]),
                *domains(sections, *a, [*b, *c], seeds["domains"]),
            ]
        },
        "paper": lambda: {
            "domains with the paper's weights": [
                row
                for section in (BULB, *a)
                for row in domains(sections, section, [section], seeds["paper"], config={"weights": PAPER_WEIGHTS})
            ]
        },
        "genes": lambda: {"genes only": genes_only(arguments.data, seeds["genes"])},
    }
    for part in arguments.parts:
        start = time.process_time()
        document |= parts[part]()
        document["seconds of cores"][part] = round(time.process_time() - start)
        document.setdefault("seeds of", {})[part] = seeds[part]
        arguments.output.write_text(json.dumps(document, indent=1))
        print(part, document["seconds of cores"][part], flush=True)
    if arguments.figures:
        figures(sections, arguments.figures, list(PATIENT_C), BULB)


if __name__ == "__main__":
    main()
