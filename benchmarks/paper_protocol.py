"""The paper's protocol with its MLP head on the two DLPFC sections, beside coordinates alone.

    python benchmarks/paper_protocol.py --data ../shared/data     # docs/results/paper_protocol.json; needs the cache of domains.py
    python benchmarks/paper_protocol.py --short                   # simulated, seconds, writes nothing

A random fifth of a section's annotated spots trains an MLP [512, 256, 128] for 800 epochs, the others test it.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from _studies import read_study, simulated_study
from domains import trained

from stimage import benchmark


def score(slides: list, embeddings: dict[str, list[np.ndarray]], **options) -> dict[str, dict]:
    """Accuracy, ARI and macro-F1 of each method and head, mean over slides; spread over splits."""
    records = benchmark.evaluate_domains(
        {name: np.concatenate(parts) for name, parts in embeddings.items()},
        labels=np.concatenate([adata.obs["label"].to_numpy(dtype=object) for adata in slides]),
        slides=np.concatenate([adata.obs["slide"].to_numpy(dtype=str) for adata in slides]),
        positions=np.concatenate([adata.obsm["X_grid"] for adata in slides]),
        protocols=["random"],
        **options,
    )
    records = records[records["slide"] != "pooled"]
    return {
        method: {
            head: {
                metric: benchmark.mean_and_deviation(found.groupby("repeat")[metric].mean())
                for metric in ("accuracy", "ari", "macro_f1")
            }
            for head, found in part.groupby("head")
        }
        for method, part in records.groupby("method")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path("benchmarks/cache"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/paper_protocol.json"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()

    slides = simulated_study() if arguments.short else read_study(arguments.data, "DLPFC")
    embeddings = {"coordinates only": [adata.obsm["X_grid"] for adata in slides]}
    if not arguments.short:
        embeddings["stimage, trained"] = trained(slides, "DLPFC", arguments.cache)["trained, seed 0"]
    options = {"n_repeats": arguments.repeats, "mlp_epochs": 2 if arguments.short else 800}
    scores = score(slides, embeddings, heads=["knn", "mlp"], **options)
    print({m: {h: round(v["accuracy"]["mean"], 3) for h, v in heads.items()} for m, heads in scores.items()})
    if not arguments.short:
        document = {
            "command": "python benchmarks/paper_protocol.py",
            "repeats": arguments.repeats,
            "versions": {package: version(package) for package in ("stimage", "torch", "numpy", "scikit-learn")},
            "scores": scores,
        }
        arguments.output.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
