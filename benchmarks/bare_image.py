"""Expression of an image that has no spots: time and memory of a picture of 9,000 x 9,000 pixels on two cores.

    python benchmarks/bare_image.py             # docs/results/bare_image.json, some minutes
    python benchmarks/bare_image.py --short     # 1,000 x 1,000 pixels, seconds, writes nothing

The picture is a simulated section, enlarged to half a micrometre per pixel and written as a tiled TIFF; expression is predicted at
places 100 micrometres apart, as on Visium, by an aligner with the default encoder. Memory is that of the whole process, its
libraries included (Linux only). Seconds of the cores do not depend on what else a machine does, those of the clock do.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tifffile
import torch
from memory import status
from PIL import Image

import stimage as sti

MICROMETRES_PER_PIXEL = 0.5
PITCH = 100.0
N_CORES = 2


def trained(cache: Path) -> sti.models.STAlign:
    """An aligner of default size; what it has learned matters to no time."""
    adata = sti.datasets.simulate_tissue(n_rows=8, n_cols=8, n_genes=1200, image=True)
    sti.pp.compact_grid(adata, layout="hex", micrometres_per_unit=PITCH / 137)
    sti.pp.build_niches(adata)
    model = sti.models.STAlign(adata, n_pool_genes=1000, cache_dir=cache)
    model.train(1, enable_progress_bar=False)
    return model


def write_picture(path: Path, side: int) -> None:
    """A square picture of a simulated section, with glass around the tissue."""
    n_rows = max(int(side * MICROMETRES_PER_PIXEL / PITCH), 4)
    adata = sti.datasets.simulate_tissue(n_rows=n_rows, n_cols=n_rows, layout="square", n_genes=50, image=True)
    (library,) = adata.uns["spatial"].values()
    picture = Image.fromarray(library["images"]["hires"]).resize((side, side), Image.Resampling.BICUBIC)
    tifffile.imwrite(path, np.asarray(picture), tile=(256, 256), compression="jpeg", photometric="rgb")


def measure(model: sti.models.STAlign, path: Path) -> dict[str, float | int]:
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, start, start_cores = status("VmRSS"), time.perf_counter(), time.process_time()
    predicted = sti.tl.predict_expression(
        aligner=model, image=path, micrometres_per_pixel=MICROMETRES_PER_PIXEL, pitch=PITCH, spot_distance=PITCH
    )
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "seconds_of_cores": round(time.process_time() - start_cores, 1),
        "megabytes_before": round(before / 1e6),
        "megabytes_at_most": round(status("VmHWM") / 1e6),
        "places": predicted.n_obs,
        "genes": predicted.n_vars,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=9000, help="pixels")
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("docs/results/bare_image.json"))
    arguments = parser.parse_args()
    side = 1000 if arguments.short else arguments.side
    torch.set_num_threads(N_CORES)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.tiff"
        write_picture(path, side)
        model = trained(Path(folder))
        found = measure(model, path)
    result = {
        "command": "python benchmarks/bare_image.py",
        "versions": {package: version(package) for package in ("stimage", "torch", "numpy")},
        "machine": platform.machine(),
        "pixels": [side, side],
        "micrometres_per_pixel": MICROMETRES_PER_PIXEL,
        "pitch": PITCH,
        "image_encoder": model.image_encoder.config.name,
        "threads": N_CORES,
        **found,
    }
    print(json.dumps(found))
    if not arguments.short:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
