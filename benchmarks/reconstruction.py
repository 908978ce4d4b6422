"""Time to fill in a hidden region, against a weighted mean of the spots around it and in units of a fixed matrix product.

    OMP_NUM_THREADS=1 python benchmarks/reconstruction.py    # docs/results/reconstruction.json; a minute or two
    python benchmarks/reconstruction.py --short              # seconds, writes nothing

Squares in the middle of a simulated slide, by a random model of the default sizes; how good regions are is measured by
regions.py. Most of the time goes into practice regions elsewhere on the slide, which say how much to trust the model; the model
alone is one pass. Everything is timed in one process, in turn.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from embedding import corpus_of, simulated_slide, timed

from stimage.benchmark import inverse_distance
from stimage.data import site_positions
from stimage.models import STImage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/results/reconstruction.json"))
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()

    slide = simulated_slide(2_400 if arguments.short else 9_600)
    model = STImage(corpus_of(slide), window=8 if arguments.short else 16, spectral_start=False)
    positions = site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity)
    middle = np.array(slide.shape) // 2
    records = []
    for size in (3,) if arguments.short else (6, 12, 18):
        hidden = (np.abs(slide.site_index - middle + 0.5) < size / 2).all(axis=1)
        ways = {
            "distance-weighted mean": lambda hidden=hidden: inverse_distance(slide.expression, positions, hidden),
            "one pass of the model": lambda hidden=hidden: model.reconstruct(slide, hidden, calibrated=False),
            "reconstruct": lambda hidden=hidden: model.reconstruct(slide, hidden),
            "reconstruct with intervals": lambda hidden=hidden: model.reconstruct(slide, hidden, interval=0.9),
        }
        for name, way in ways.items():
            records.append({"side": size, "sites": int(hidden.sum()), "way": name, **timed(way)})
            print(records[-1], flush=True)
    document = {
        "command": "python benchmarks/reconstruction.py",
        "threads": torch.get_num_threads(),
        "versions": {package: version(package) for package in ("stimage", "torch", "numpy")},
        "slide": {"sites": slide.n_sites, "genes": slide.expression.shape[1]},
        "times": records,
    }
    if not arguments.short:
        arguments.output.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
