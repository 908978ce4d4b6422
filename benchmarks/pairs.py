"""Memory of an aligner's training from a corpus on disk and in memory, as slides are added.

    python benchmarks/pairs.py            # docs/results/pairs.json, minutes
    python benchmarks/pairs.py --short    # seconds, writes nothing

Copies of one simulated slide, with an encoder of 1,280 random features. The sample that axes of the images are fitted on, 20,000
spots by default, is set to the spots of one slide: what is left is what grows with the slides. Each measurement is a process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

OUTPUT = Path("docs/results/pairs.json")
COPIES = (2, 8)
PITCH, SCALE = 80.0, 0.1


def encoder(width: int):
    """Random features of patches of 8 x 8 pixels."""
    import torch
    from torch import nn

    from stimage.modules import ImageEncoder, ImageEncoderConfig

    torch.manual_seed(0)
    return ImageEncoder(
        nn.Sequential(nn.Flatten(), nn.Linear(192, width)), ImageEncoderConfig("random", width, "random", input_size=8)
    )


def write_slides(folder: Path, n_slides: int, side: int) -> list[str]:
    """Copies of a slide that differ in the names of their spots."""
    import stimage as sti

    adata = sti.datasets.simulate_tissue(n_rows=side, n_cols=side, n_genes=1000, pitch=PITCH)
    size = (np.ceil(adata.obsm["spatial"].max(axis=0) + PITCH) * SCALE).astype(int)
    pixels = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
    factors = {"tissue_hires_scalef": SCALE, "spot_diameter_fullres": 0.55 * PITCH}
    adata.uns["spatial"] = {"slide": {"images": {"hires": pixels}, "scalefactors": factors}}
    names, paths = adata.obs_names.to_numpy().astype(str), []
    for number in range(n_slides):
        adata.obs_names = [f"{name}-{number}" for name in names]
        paths.append(str(folder / f"slide{number}.h5ad"))
        adata.write_h5ad(paths[-1])
    return paths


def build(folder: Path, n_slides: int, side: int, width: int) -> dict:
    """Add features to a corpus; peak of this step beyond what imports and the corpus take."""
    import stimage as sti

    import_all()
    paths = write_slides(folder, n_slides, side)
    sti.pp.build_corpus(paths, folder / "corpus", n_pool_genes=500)
    before, start = peak(), time.perf_counter()
    pairs = sti.pp.build_pairs(paths, folder / "corpus", image_encoder=encoder(width), accelerator="cpu")
    n_spots = sum(slide.n_spots for slide in pairs.slides)
    stored = sum(file.stat().st_size for file in (folder / "corpus" / "pairs.zarr").rglob("*") if file.is_file())
    return {
        "spots": n_spots,
        "bytes": stored,
        "seconds": round(time.perf_counter() - start, 1),
        "grown": peak() - before,
    }


def train(folder: Path, place: str, width: int) -> dict:
    """Train for an epoch; peak beyond what imports take, and the time to read a batch."""
    import stimage as sti
    from stimage.models.alignment import _image_basis

    import_all()
    paths = sorted(map(str, folder.glob("*.h5ad")))
    sti.data.Corpus.open(folder / "corpus")
    before = peak()
    options = {"image_encoder": encoder(width), "accelerator": "cpu"}
    pairs = sti.data.StoredPairs.open(folder / "corpus")
    _image_basis._MOST_SPOTS = pairs.slides[0].n_spots
    if place == "disk":
        data = pairs
    else:
        data = []
        options |= {"genes": pairs.corpus.genes.tolist(), "cache_dir": folder / "cache"}
        for path in paths:
            data.append(sti.io.read(path))
            sti.pp.compact_grid(data[-1])
            sti.pp.build_niches(data[-1])
    model = sti.models.STAlign(data, **options)
    model.train(1, accelerator="cpu", enable_progress_bar=False)
    batches = sti.data.AlignmentDataset(model.paired.slides, batch_size=128)
    start = time.perf_counter()
    for number in range(10):
        batches[number]
    return {"grown": peak() - before, "milliseconds_per_batch": round(100 * (time.perf_counter() - start), 1)}


def import_all() -> None:
    """Load what is loaded when it is needed, and takes memory of its own."""
    import lightning  # noqa: F401
    import scvi  # noqa: F401
    import sklearn.decomposition  # noqa: F401
    import zarr  # noqa: F401

    import stimage.models  # noqa: F401


def peak() -> int:
    """Most memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_a_process(*arguments: object) -> dict:
    """What another process of this script finds."""
    done = subprocess.run([sys.executable, __file__, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("step", nargs="*")
    arguments = parser.parse_args()
    if arguments.step:
        step, folder, *rest = arguments.step
        found = build(Path(folder), *map(int, rest)) if step == "build" else train(Path(folder), rest[0], int(rest[1]))
        print(json.dumps(found))
        return
    side, width = (16, 64) if arguments.short else (44, 1280)
    result: dict = {"features": width, "copies": {}}
    for n_slides in COPIES[:1] if arguments.short else COPIES:
        with tempfile.TemporaryDirectory() as folder:
            found = {"build": in_a_process("build", folder, n_slides, side, width)}
            found |= {place: in_a_process("train", folder, place, width) for place in ("disk", "memory")}
        result["copies"][str(n_slides)] = found
        print(n_slides, found)
    if not arguments.short:
        OUTPUT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
