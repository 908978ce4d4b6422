"""Domains on labelled slides of other tissues and platforms, one slide at a time, beside the baselines.

    python benchmarks/slides.py --data ../shared/data       # writes docs/results/slides.json
    python benchmarks/slides.py --short                     # a simulated slide, seconds, writes nothing

Each slide is pretrained on alone, without labels, with default settings (transductive); three seeds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np

import stimage as sti
from stimage import benchmark
from stimage.data import site_positions

SLIDES = (
    "her2st_B1",
    "STARmap_V1_BY3_1k",
    "img-MOB_Rep11",
)


def baseline_embeddings(slide) -> dict[str, np.ndarray]:
    positions = site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity)
    components = benchmark.principal_components(slide.expression)
    near, far = (benchmark.neighbor_mean(components, positions, n) for n in (7, 37))
    sites = {
        "coordinates only": positions,
        "PCA-30 of one spot": components,
        "PCA-30, mean of 7": near,
        "PCA-30, mean of 7 beside 37": np.hstack([near, far]),
    }
    return {name: values[slide.site_of_observation] for name, values in sites.items()}


def score(vectors: np.ndarray, truth: np.ndarray, seeds: list[int]) -> dict[str, list[float]]:
    annotated = truth != ""
    splits = [benchmark.random_split_knn(vectors[annotated], truth[annotated], seed=seed) for seed in seeds]
    return {
        "random 20/80 k-NN accuracy": [split["accuracy"] for split in splits],
        "random 20/80 k-NN ARI": [split["ari"] for split in splits],
        "unsupervised ARI": [benchmark.unsupervised_ari(vectors, truth, annotated, seed=seed) for seed in seeds],
    }


def main() -> None:
    import anndata

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("docs/results/slides.json"))
    arguments = parser.parse_args()

    seeds = [0] if arguments.short else [0, 1, 2]
    options = {"window": 8, "n_pool_genes": 200, "n_genes": 64, "max_epochs": 1} if arguments.short else {}
    results, hashes = {}, {}
    for name in ("simulated",) if arguments.short else SLIDES:
        if arguments.short:
            adata = sti.datasets.simulate_tissue(n_rows=24, n_cols=22, n_genes=300, layout="irregular")
            truth = adata.obs["domain"].astype(str).to_numpy()
        else:
            path = arguments.data / name / f"{name}.h5ad"
            hashes[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            adata = anndata.read_h5ad(path)
            truth = adata.obs["label"].astype(object).where(adata.obs["label"].notna(), "").to_numpy().astype(str)
        sti.pp.compact_grid(adata)
        table: dict[str, dict[str, list[float]]] = {}
        for seed in seeds:
            model = sti.tl.pretrain(adata, seed=seed, enable_progress_bar=False, **options)
            for mode in ("context", "both"):
                sti.tl.embed(adata, model, mode=mode, seed=seed)
                for metric, values in score(adata.obsm["X_stimage"], truth, [seed]).items():
                    table.setdefault(f"stimage, {mode}", {}).setdefault(metric, []).extend(values)
        for baseline, vectors in baseline_embeddings(model.corpus[0]).items():
            table[baseline] = score(vectors, truth, seeds)
        for method, metrics in table.items():
            print(
                name,
                method,
                {metric: round(float(np.mean(values)), 3) for metric, values in metrics.items()},
                flush=True,
            )
        results[name] = {
            method: {metric: benchmark.mean_and_deviation(values) for metric, values in metrics.items()}
            for method, metrics in table.items()
        }
        if not arguments.short:
            write(arguments.output, hashes, seeds, results)


def write(output: Path, hashes: dict, seeds: list[int], results: dict) -> None:
    document = {
        "command": "python benchmarks/slides.py",
        "inputs_sha256": hashes,
        "versions": {package: version(package) for package in ("stimage", "torch", "numpy", "scikit-learn", "scanpy")},
        "seeds": seeds,
        "slides": results,
    }
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(document, indent=1))
    print(f"Wrote {output}", flush=True)


if __name__ == "__main__":
    main()
