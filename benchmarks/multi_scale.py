"""Slides of few counts: the closed form with the widths that it chooses, with fixed widths, and plain means of several sizes.

    python benchmarks/multi_scale.py --data ../shared/data     # docs/results/multi_scale.json, half an hour
    python benchmarks/multi_scale.py --short                   # simulated, seconds, writes nothing

Simulated bins of several counts each, and real slides whose counts are thinned binomially; as they are, real slides keep the
factor 1. All methods share the principal axes of the slide, so that they differ in their means alone. Scores are those of
:func:`stimage.benchmark.evaluate_domains`: k-NN in spatial blocks, and k-means with the true number of domains.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from importlib.metadata import version
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from _studies import read_slides
from scoreboard import positions_of

import stimage as sti
from stimage.benchmark import evaluate_domains, neighbor_mean
from stimage.models._setup import corpus_of
from stimage.models._smoothed_pca import MOST_SITES, TARGET_SUM, own_axes
from stimage.models.embedding._neighbors import width_factor
from stimage.models.embedding._readout import MARGIN, Readout, sample

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.data import Slide

REAL = ("DLPFC_151673", "DLPFC_151674", "breast_xenium_IDC_labelled", "osmFISH_mouse_cortex")
PATTERNS = ("layers", "patches")
COUNTS = (20, 40, 150, 600)
THINNED = (10, 20, 40, 100)
SIDE, LARGE_SIDE = 100, 240
SIZES = (7, 19, 37, 91, 169)
CHOSEN, FIXED = "stimage", "stimage, factor 1"


def simulated(seeds: int) -> Iterator[tuple[dict, AnnData]]:
    """Square bins, those of the larger slides with domains that are larger as well."""
    for side, counts in ((SIDE, COUNTS), (LARGE_SIDE, COUNTS[1:3])):
        for pattern in PATTERNS:
            for count in counts:
                for seed in range(seeds if side == SIDE else 1):
                    facts = {"slide": f"simulated {pattern}, {side} bins", "counts": count, "seed": seed}
                    yield facts, bins(pattern, side, count, seed)


def bins(pattern: str, side: int, count: int, seed: int) -> AnnData:
    options = {"layout": "square", "n_rows": side, "n_cols": side}
    adata = sti.datasets.simulate_tissue(pattern=pattern, library_size=count, seed=seed, **options)
    adata.obs["label"] = adata.obs["domain"].astype(str).to_numpy(dtype=object)
    sti.pp.compact_grid(adata)
    return adata


def thinned(folder: Path, seeds: int) -> Iterator[tuple[dict, AnnData]]:
    """Real slides as they are, and with a share of their counts, so that the median observation has so many."""
    for adata in read_slides(folder, REAL):
        slide = adata.obs["slide"].iloc[0]
        median = float(np.median(np.asarray(adata.X.sum(axis=1))))
        yield {"slide": slide, "counts": round(median), "seed": 0}, adata
        for count in THINNED:
            for seed in range(seeds):
                part = adata.copy()
                rng = np.random.default_rng(seed)
                part.X.data = rng.binomial(part.X.data.astype(np.int64), count / median).astype(np.float32)
                part.X.eliminate_zeros()
                yield {"slide": slide, "counts": count, "seed": seed}, part


def vectors_of(slide: Slide, axes: np.ndarray, factor: float) -> np.ndarray:
    """The closed form with a factor of its widths."""
    (part, sites), *_ = sample([slide], MOST_SITES, seed=0, margin=ceil(factor * MARGIN)).values()
    return Readout.fit([part], [sites], axes, [None], seed=0, width_factor=factor)(slide)


def score(adata: AnnData, *, n_repeats: int) -> dict:
    """Factor that is chosen, seconds that this takes, and scores of each method."""
    (slide,) = corpus_of(adata, n_pool_genes=2000).to_target_sum(TARGET_SUM)
    axes = own_axes([slide])
    start = time.process_time()
    factor = width_factor([slide], axes, seed=0)
    seconds = time.process_time() - start
    positions = positions_of(slide)
    own = slide.expression @ axes - slide.gene_mean @ axes
    rows = {f"mean of {size}": neighbor_mean(own, positions, size) for size in SIZES}
    rows[FIXED] = vectors_of(slide, axes, 1.0)
    if factor != 1:
        rows[CHOSEN] = vectors_of(slide, axes, factor)
    site = slide.site_of_observation
    records = evaluate_domains(
        {name: vectors[site] for name, vectors in rows.items()},
        labels=adata.obs["label"].to_numpy(dtype=object)[slide.observation_index],
        slides=np.repeat(slide.name, len(site)),
        positions=positions[site],
        protocols=["block", "unsupervised"],
        heads=["knn"],
        n_repeats=n_repeats,
        n_seeds=1,
        n_seeds_estimated=0,
    )
    records = records[records["slide"] != "pooled"]
    scores = {}
    for name in rows:
        of_name = records[records["method"] == name].set_index("protocol")
        scores[name] = {
            "block": round(float(of_name.loc[["block"], "accuracy"].mean()), 4),
            "ari": round(float(of_name.loc["unsupervised", "ari"]), 4),
        }
    scores.setdefault(CHOSEN, scores[FIXED])  # the same vectors
    return {"observations": len(site), "factor": round(factor, 2), "seconds": round(seconds, 2), "scores": scores}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/multi_scale.json"))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()
    if arguments.short:
        print(score(bins("layers", 40, 20, 0), n_repeats=2))
        return
    document = {
        "what": "accuracy of k-NN in blocks and adjusted Rand index of k-means, by counts of the median observation",
        "command": "python benchmarks/multi_scale.py",
        "versions": {name: version(name) for name in ("stimage", "numpy", "scipy", "scikit-learn")},
        "simulated": [],
        "thinned": [],
    }
    for part, slides in (
        ("thinned", thinned(arguments.data, arguments.seeds)),
        ("simulated", simulated(arguments.seeds)),
    ):
        for facts, adata in slides:
            found = score(adata, n_repeats=5)
            document[part].append({**facts, **found})
            print(facts, found, flush=True)
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
