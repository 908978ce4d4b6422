"""What each part of ST-Align brings, the rows of the paper's Table 3 and more, for any pair of encoders.

    python benchmarks/alignment_ablation.py --data ../shared/data    # docs/results/alignment_ablation.json; 15 minutes of one core
    python benchmarks/alignment_ablation.py --image-encoder uni --image-weights UNI/pytorch_model.bin --gene-encoder scGPT_human
    python benchmarks/alignment_ablation.py --short                  # simulated, seconds, writes nothing

``--gene-encoder`` is the folder of scGPT or of a saved STImage; by default genes of spots are encoded by a perceptron that is
trained along. Every row is an aligner with the paper's weights of the losses, trained with one part left out; the one without the
cross-scale loss is the default, whose fused vectors are in closed form. Domains are those of the fused vectors of spots, by
tl.domains with the true number, on sections that the aligner was trained on (no labels are used). Recall and expression are of
a section whose patient's two others trained the aligner: by retrieval, which sees the aligned vectors; regression sees the image
encoder alone, so that its row is the encoder's.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from _alignment_sections import Sections, read_sections, simulated_sections
from alignment import BULB, PAPER_WEIGHTS, PATIENT_C, align, most_variable, recall

import stimage as sti
from stimage import benchmark
from stimage.models import STImage
from stimage.modules import ScGPTEncoder, load_image_encoder

ALL_LOSSES = {"weights": PAPER_WEIGHTS}
ROWS: dict[str, dict] = {
    "no adaptive encoders": {"config": {**ALL_LOSSES, "adaptive": False}},
    "no fusion": {"config": {**ALL_LOSSES, "fusion": False}},
    "no cross-scale loss": {},
    "no niche loss": {"config": {"weights": (0.4, 0.0, 0.3)}},
    "no niches": {"niches": False, "config": ALL_LOSSES},
    "all": {"config": ALL_LOSSES},
}
N_GENES = 100
"""Genes of expression that are scored: those that vary most among the training spots."""


def ari(sections: Sections, name: str, vectors: np.ndarray, seed: int) -> float:
    labels = sections.adatas[name].obs["label"].astype(object)
    known = labels.notna().to_numpy()
    scored = anndata.AnnData(obsm={"X": vectors}, obs=pd.DataFrame(index=labels.index))
    sti.tl.domains(scored, int(labels[known].nunique()), use_rep="X", seed=seed)
    found = scored.obs["stimage_domain"].to_numpy()[known].astype(str)
    return round(benchmark.clustering_scores(labels[known].astype(str).to_numpy(), found)["ari"], 5)


def expression_scores(sections: Sections, training: list[str], tested: str, predict: object) -> dict[str, float]:
    """Scores of one prediction on the tested section."""
    expression, _, groups = sections.stacked([*training, tested])
    split = benchmark.Split(np.flatnonzero(np.isin(groups, training)), np.flatnonzero(groups == tested), name=tested)
    records = benchmark.evaluate_expression(
        expression, None, groups, predictors={"it": predict}, splits=[split], n_genes=N_GENES, baselines=False
    )
    return {metric: round(float(records[metric].iloc[0]), 5) for metric in ("mse", "pearson")}


def frozen_rows(sections: Sections, labelled: list[str], training: list[str], tested: str, seeds: list[int]) -> dict:
    """The encoders alone: clustered as they are, and ridge regression on what the image encoder says."""
    expression, _, groups = sections.stacked([*training, tested])
    features = np.concatenate([sections.features(name) for name in [*training, tested]])
    ridge = benchmark.ridge_predictor(expression, features, groups=groups)
    found = {}
    for row, vectors in (("image encoder alone", sections.features), ("gene encoder alone", sections.frozen_genes)):
        found[row] = [
            {"seed": seed, "ari": {name: ari(sections, name, vectors(name), seed) for name in labelled}}
            for seed in seeds
        ]
    for entry in found["image encoder alone"]:
        entry["regression"] = expression_scores(sections, training, tested, ridge)
    return found


def row(
    sections: Sections, labelled: list[str], training: list[str], tested: str, seed: int, **options: object
) -> dict:
    """Scores of an aligner without a part."""
    domains = {}
    for name in labelled:
        model = align(sections, [name], None, seed=seed, **options)
        vectors = model.get_latent_representation(
            sections.adatas[name], modality="fused", level="spot", **sections.reading
        )
        domains[name] = ari(sections, name, vectors, seed)
    expression, genes, groups = sections.stacked([*training, tested])
    chosen = most_variable(expression[np.isin(groups, training)], genes, 10 * N_GENES)
    model = align(sections, training, chosen, seed=seed, **options)

    def retrieved(train: np.ndarray, test: np.ndarray, columns: np.ndarray) -> np.ndarray:
        predicted = model.predict_expression(sections.adatas[tested], method="retrieval", **sections.reading)
        return predicted[:, pd.Index(model.genes).get_indexer(genes[columns])]

    return {
        "seed": seed,
        "ari": domains,
        "recall": recall(model, sections, tested),
        "retrieval": expression_scores(sections, training, tested, retrieved),
    }


def read_gene_encoder(folder: Path | None) -> STImage | ScGPTEncoder | None:
    if folder is None:
        return None
    return ScGPTEncoder.from_directory(folder) if (folder / "vocab.json").exists() else STImage.load(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path("benchmarks/cache/images"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/alignment_ablation.json"))
    parser.add_argument("--image-encoder", default="efficientnet_lite0")
    parser.add_argument("--image-weights", type=Path)
    parser.add_argument("--gene-encoder", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, help="measure these again; all, and encoders alone, by default"
    )
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()

    start = time.process_time()
    rows, seeds, options = ROWS, arguments.seeds, {}
    if arguments.short:
        sections, seeds, options = simulated_sections(), [0], {"max_epochs": 1}
        rows = {name: ROWS[name] for name in ("no niches", "no fusion")}
        tested, *training = sections.adatas
        labelled = training
    else:
        labelled = [BULB, "img-her2st_A1"]
        *training, tested = PATIENT_C
        sections = read_sections(
            arguments.data,
            (*labelled, *PATIENT_C),
            arguments.cache,
            image_encoder=load_image_encoder(arguments.image_encoder, weights=arguments.image_weights),
            gene_encoder=read_gene_encoder(arguments.gene_encoder),
        )
    split = (labelled, list(training), tested)
    earlier = json.loads(arguments.output.read_text()) if arguments.rows else {}
    if arguments.rows:
        found, rows = earlier["rows"], {name: ROWS[name] for name in arguments.rows}
    else:
        found = frozen_rows(sections, *split, seeds)
    for name, changed in rows.items():
        found[name] = [row(sections, *split, seed, **changed, **options) for seed in seeds]
        print(name, json.dumps(found[name][-1]), flush=True)
    if not arguments.short:
        document = {
            "command": "python benchmarks/alignment_ablation.py",
            "versions": {package: version(package) for package in ("stimage", "torch", "numpy", "scikit-learn")},
            "image_encoder": arguments.image_encoder,
            "gene_encoder": "trained along" if sections.gene_encoder is None else type(sections.gene_encoder).__name__,
            "labelled": labelled,
            "training": list(training),
            "tested": tested,
            "seeds": seeds,
            "seconds_of_cores": earlier.get("seconds_of_cores", round(time.process_time() - start)),
            "rows": found,
        }
        arguments.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
