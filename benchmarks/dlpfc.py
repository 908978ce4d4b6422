"""Domains and region reconstruction on two DLPFC sections, five seeds, beside the baselines.

    python benchmarks/dlpfc.py --data ../shared/data        # writes docs/results/dlpfc.json
    python benchmarks/dlpfc.py --short                      # simulated sections, seconds, writes nothing

The folder must hold DLPFC_151673/DLPFC_151673.h5ad and DLPFC_151674/DLPFC_151674.h5ad with raw counts and obs["label"]
(adjacent sections of one donor; Maynard et al. 2021). No label is used before scoring. Pretraining sees the expression of
the spots that are scored (transductive), except where a line says "other section".
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

import stimage as sti
from stimage import benchmark
from stimage.data import site_positions
from stimage.models._region import random_block, region_errors

SECTIONS = ("DLPFC_151673", "DLPFC_151674")
REGION_SIZES = (4, 8, 10, 14, 16, 18)
BASELINES = {
    "mean of the slide": benchmark.gene_mean,
    "mean of 16 nearest spots": benchmark.nearest_spots,
    "inverse distance": benchmark.inverse_distance,
}


def read_sections(folder: Path) -> tuple[list, dict]:
    import anndata

    adatas, hashes = [], {}
    for name in SECTIONS:
        path = folder / name / f"{name}.h5ad"
        hashes[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        adata = anndata.read_h5ad(path)
        adata.obs["truth"] = adata.obs["label"].astype(object).where(adata.obs["label"].notna(), "")
        adatas.append(adata)
    return adatas, hashes


def simulate_sections() -> tuple[list, dict]:
    both = sti.datasets.simulate_tissue(n_rows=26, n_cols=24, n_genes=300, n_slides=2, seed=0)
    adatas = [both[both.obs["slide"] == name].copy() for name in both.obs["slide"].cat.categories]
    for adata in adatas:
        adata.obs["truth"] = adata.obs["domain"].astype(str)
    return adatas, {"simulate_tissue": "seed 0"}


def score_embedding(vectors: list[np.ndarray], adatas: list, seeds: list[int], n_splits: int) -> dict[str, list[float]]:
    """Every protocol on one embedding of both sections, one value for each seed of a protocol."""
    labels = [adata.obs["truth"].to_numpy().astype(str) for adata in adatas]
    annotated = [section != "" for section in labels]
    scores: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        scores.setdefault(name, []).append(value)

    known = [(v[a], y[a]) for v, y, a in zip(vectors, labels, annotated, strict=True)]
    for split in range(n_splits):
        results = [benchmark.random_split_knn(*section, seed=split) for section in known]
        note("random 20/80 k-NN accuracy", np.mean([result["accuracy"] for result in results]))
        note("random 20/80 k-NN ARI", np.mean([result["ari"] for result in results]))
    for training, test in ((0, 1), (1, 0)):
        result = benchmark.transfer_knn(*known[training], *known[test])
        note("other section k-NN accuracy", result["accuracy"])
        note("other section k-NN ARI", result["ari"])
    for seed in seeds:
        per_section = [
            benchmark.unsupervised_ari(v, y, a, seed=seed) for v, y, a in zip(vectors, labels, annotated, strict=True)
        ]
        note("unsupervised ARI", np.mean(per_section))
    return scores


def baseline_embeddings(adatas: list, slides: list) -> dict[str, list[np.ndarray]]:
    from scipy import sparse

    components = benchmark.principal_components(sparse.vstack([slide.expression for slide in slides]))
    sizes = np.cumsum([slide.n_sites for slide in slides])[:-1]
    per_slide = [part - part.mean(axis=0) for part in np.split(components, sizes)]
    positions = [site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity) for slide in slides]

    def of_observations(sites: list[np.ndarray]) -> list[np.ndarray]:
        return [values[slide.site_of_observation] for values, slide in zip(sites, slides, strict=True)]

    table = {"coordinates only": of_observations(positions), "PCA-30 of one spot": of_observations(per_slide)}
    means = {
        n: [benchmark.neighbor_mean(v, p, n) for v, p in zip(per_slide, positions, strict=True)] for n in (7, 19, 37)
    }
    for n, values in means.items():
        table[f"PCA-30, mean of {n}"] = of_observations(values)
    table["PCA-30, mean of 7 beside 37"] = of_observations(
        [np.hstack(pair) for pair in zip(means[7], means[37], strict=True)]
    )
    return table


def score_regions(models: dict[str, list], slides: dict, sizes: tuple[int, ...], n_repeats: int) -> dict:
    """Errors of each method for each section and region size; ``models`` gives one model for each section."""
    results: dict = {}
    for number, (name, slide) in enumerate(slides.items()):
        variance = np.asarray(slide.expression.multiply(slide.expression).mean(axis=0)).ravel() - slide.gene_mean**2
        genes = np.sort(np.argsort(-variance)[:512])
        positions = site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity)
        expression = slide.expression[:, genes]
        for size in sizes:
            table: dict[str, dict[str, list[float]]] = {}
            for repeat in range(n_repeats):
                hidden = np.isin(slide.observation_index, random_block([slide], size, repeat))
                hidden = np.isin(np.arange(slide.n_sites), slide.site_of_observation[hidden])
                truth = expression[hidden].toarray()
                predictions = {method: predict(expression, positions, hidden) for method, predict in BASELINES.items()}
                for method, per_section in models.items():
                    predictions[method] = per_section[number].reconstruct(slide, hidden)[:, genes]
                for method, prediction in predictions.items():
                    errors = region_errors(prediction, truth, genes).mean()
                    # The mean of the slide is constant over the region: it has no correlation.
                    for metric, value in errors.dropna().items():
                        table.setdefault(method, {}).setdefault(metric, []).append(value)
            results.setdefault(name, {})[str(size)] = {
                method: {metric: benchmark.mean_and_deviation(values) for metric, values in metrics.items()}
                for method, metrics in table.items()
            }
            line = ", ".join(f"{method} {np.mean(metrics['mse']):.4f}" for method, metrics in table.items())
            print(f"{name} region {size}: MSE {line}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("docs/results/dlpfc.json"))
    arguments = parser.parse_args()

    short = arguments.short
    adatas, hashes = simulate_sections() if short else read_sections(arguments.data)
    seeds = [0] if short else [0, 1, 2, 3, 4]
    options = {"window": 8, "n_pool_genes": 200, "n_genes": 64, "max_epochs": 1} if short else {}
    for adata in adatas:
        sti.pp.compact_grid(adata)

    models, scores, seconds = [], {}, []
    for seed in seeds:
        start = time.perf_counter()
        models.append(sti.tl.pretrain(adatas, seed=seed, enable_progress_bar=False, **options))
        seconds.append(time.perf_counter() - start)
        for mode in ("visible", "context", "both"):
            vectors = []
            for adata in adatas:
                sti.tl.embed(adata, models[-1], mode=mode, seed=seed)
                vectors.append(adata.obsm["X_stimage"])
            for name, values in score_embedding(vectors, adatas, [seed], 1 if short else 10).items():
                scores.setdefault(f"stimage, {mode}", {}).setdefault(name, []).append(float(np.mean(values)))
        line = {name: round(values[-1], 4) for name, values in scores["stimage, both"].items()}
        print(f"seed {seed}: pretrained in {seconds[-1]:.0f} s; {line}", flush=True)
    slides = models[0].corpus.slides
    for name, vectors in baseline_embeddings(adatas, slides).items():
        scores[name] = score_embedding(vectors, adatas, seeds, 1 if short else 10)
        print(f"{name}: { {metric: round(float(np.mean(values)), 4) for metric, values in scores[name].items()} }")

    # One model for each section, pretrained on the other one: nothing of the section that is scored was seen.
    others = [
        sti.tl.pretrain(adata, genes=models[0].genes, enable_progress_bar=False, **options) for adata in adatas[::-1]
    ]
    regions = score_regions(
        {"stimage": [models[0]] * 2, "stimage, pretrained on the other section": others},
        dict(zip(SECTIONS, slides, strict=True)),
        (3,) if short else REGION_SIZES,
        1 if short else 20,
    )
    if short:
        return
    document = {
        "command": "python benchmarks/dlpfc.py",
        "inputs_sha256": hashes,
        "versions": {name: version(name) for name in ("stimage", "torch", "numpy", "scikit-learn", "scanpy")},
        "seeds": seeds,
        "pretraining_seconds": benchmark.mean_and_deviation(seconds),
        "note": "Two sections pretrained jointly without labels (transductive), 2,000 genes shared by both; k = 15; "
        "unsupervised: tied Gaussian mixture on 15 principal components, true number of domains given, no refinement; "
        "stimage: spread over seeds of pretraining (each the mean of 10 splits); baselines: over splits and seeds of the "
        "clustering. Regions: squares of r x r sites, 512 most variable genes of the slide, log1p of counts per 10,000, "
        "20 places, model of seed 0.",
        "domains": {
            name: {metric: benchmark.mean_and_deviation(values) for metric, values in metrics.items()}
            for name, metrics in scores.items()
        },
        "regions": regions,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(document, indent=1, allow_nan=False))
    print(f"Wrote {arguments.output}")


if __name__ == "__main__":
    main()
