"""What single settings do to the scores on two DLPFC sections: one change at a time, seed 0.

    python benchmarks/ablations.py --data ../shared/data    # writes docs/results/ablations.json
    python benchmarks/ablations.py --short                  # simulated sections, seconds, writes nothing

Protocols as in dlpfc.py, with one seed: differences below the spread over seeds that is reported there mean nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from dlpfc import read_sections, score_embedding, score_regions, simulate_sections

import stimage as sti

SETTINGS = {
    "default": {},
    "mask 0.3": {"mask_ratio": 0.3},
    "sites and regions": {"masking": "mixed"},
    "random start": {"spectral_start": False},
    "random genes": {"gene_selection": "random"},
    "window 8": {"window": 8},
    "10 epochs": {"max_epochs": 10},
    "rank lattice": {"layout": "rank"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--short", action="store_true")
    parser.add_argument(
        "--only", nargs="+", choices=SETTINGS, help="run only these settings and keep the stored others"
    )
    parser.add_argument("--output", type=Path, default=Path("docs/results/ablations.json"))
    arguments = parser.parse_args()

    short = arguments.short
    adatas, hashes = simulate_sections() if short else read_sections(arguments.data)
    small = {"n_pool_genes": 200, "n_genes": 64, "max_epochs": 1, "window": 8} if short else {}
    stored = json.loads(arguments.output.read_text())["settings"] if arguments.only and not short else {}
    results = dict(stored)
    for name in ("default", "random start") if short else arguments.only or SETTINGS:
        options = dict(SETTINGS[name])
        for adata in adatas:
            sti.pp.compact_grid(adata, layout=options.get("layout", "auto"))
        options.pop("layout", None)
        start = time.perf_counter()
        model = sti.tl.pretrain(adatas, enable_progress_bar=False, **{**options, **small})
        entry: dict = {"pretraining_seconds": time.perf_counter() - start}
        for mode in ("context", "both"):
            vectors = []
            for adata in adatas:
                sti.tl.embed(adata, model, mode=mode)
                vectors.append(adata.obsm["X_stimage"])
            scores = score_embedding(vectors, adatas, [0], 1 if short else 5)
            entry[mode] = {metric: float(np.mean(values)) for metric, values in scores.items()}
        regions = score_regions(
            {"stimage": [model] * 2}, model.corpus.slides, (3,) if short else (4, 10, 18), 1 if short else 5
        )
        entry["region mse"] = {
            size: float(np.mean([by_size[size]["stimage"]["mse"]["mean"] for by_size in regions.values()]))
            for size in next(iter(regions.values()))
        }
        results[name] = entry
        print(name, json.dumps(entry), flush=True)
        if short:
            continue
        document = {
            "command": "python benchmarks/ablations.py",
            "inputs_sha256": hashes,
            "versions": {package: version(package) for package in ("stimage", "torch", "numpy", "scikit-learn")},
            "settings": results,
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
