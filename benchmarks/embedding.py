"""Embedding: time per site and peak memory as slides grow, and the time of the shipped checkpoint on one slide.

    python benchmarks/embedding.py            # docs/results/embedding.json; a minute or two
    python benchmarks/embedding.py --short    # small slides, seconds, writes nothing

Slides are simulated bins on disk, embedded by a random model of the default sizes to a zarr array; each in a process of its
own, whose largest resident memory is read from the system. Seconds are also given in units of a fixed matrix product,
timed in the same process before and after.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from scipy import sparse

from stimage.data import Corpus, Slide, Vocabulary

N_GENES, GENES_PER_SITE, N_COLUMNS = 2000, 100, 240
SITES = (10_000, 100_000)
SLIDE = Path(__file__).parents[2] / "shared" / "data" / "DLPFC_151673" / "DLPFC_151673.h5ad"


def simulated_slide(n_sites: int, seed: int = 0) -> Slide:
    """A slide of some columns and as many rows as it takes; genes are expressed in waves along them."""
    rng = np.random.default_rng(seed)
    n_rows = -(-n_sites // N_COLUMNS)
    raster = np.arange(n_rows * N_COLUMNS, dtype=np.int32).reshape(n_rows, N_COLUMNS)
    raster[raster >= n_sites] = -1
    indices = rng.integers(N_GENES, size=(n_sites, GENES_PER_SITE), dtype=np.int32)
    indices.sort(axis=1)
    wave = np.sin(np.arange(n_sites)[:, None] // N_COLUMNS / 20 + indices % 7)
    values = np.log1p(rng.gamma(1.0, 2 + wave).astype(np.float32))
    indptr = np.arange(n_sites + 1) * GENES_PER_SITE
    expression = sparse.csr_matrix((values.ravel(), indices.ravel(), indptr), shape=(n_sites, N_GENES))
    expression.sum_duplicates()
    return Slide(
        name="slide",
        expression=expression,
        library_size=np.full(n_sites, 500.0, dtype=np.float32),
        raster=raster,
        layout="square",
        parity=0,
        measured=np.ones(N_GENES, dtype=bool),
        observation_index=np.arange(n_sites),
        # Barcodes do not come in the order of the raster.
        site_of_observation=rng.permutation(n_sites),
        target_sum=1e3,
    )


def matrix_product() -> float:
    """Seconds of a fixed piece of work."""
    left = torch.ones(1024, 1024)
    start = time.perf_counter()
    for _ in range(10):
        left @ left
    return time.perf_counter() - start


def peak_megabytes() -> float:
    """Largest resident memory of this process so far."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def timed(work) -> dict:
    matrix_product()
    reference = [matrix_product()]
    start, cpu = time.perf_counter(), time.process_time()
    work()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    reference.append(matrix_product())
    return {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu, 2),
        "in_matrix_products": round(seconds / np.mean(reference), 2),
        "seconds_of_matrix_product": round(float(np.mean(reference)), 3),
    }


def corpus_of(slide: Slide) -> Corpus:
    return Corpus([slide], Vocabulary([f"gene{number}" for number in range(N_GENES)]))


def embed_slide(n_sites: int, folder: Path) -> None:
    from stimage.models import STImage

    model = STImage(corpus_of(simulated_slide(240)), window=16, spectral_start=False)
    model.fit_readout()
    corpus = Corpus.open(folder / "corpus")
    before = peak_megabytes()
    record = timed(lambda: model.get_latent_representation(corpus, output=folder / "embedding"))
    record = {
        "sites": n_sites,
        **record,
        "milliseconds_per_site": round(1e3 * record["seconds"] / n_sites, 4),
        "matrix_products_per_1000_sites": round(1e3 * record["in_matrix_products"] / n_sites, 3),
        "peak_megabytes": round(peak_megabytes()),
        "peak_megabytes_before": round(before),
    }
    print(json.dumps(record))


def embed_shipped() -> None:
    """All that a user waits for after the import."""
    import anndata

    import stimage as sti

    adata = anndata.read_h5ad(SLIDE)
    sti.pp.compact_grid(adata)
    sti.tl.embed, sti.pretrained.load  # noqa: B018 - loaded on first use
    print(json.dumps({"spots": adata.n_obs, **timed(lambda: sti.tl.embed(adata, "human"))}))


def in_fresh_process(*arguments: str | int | Path) -> dict:
    command = [sys.executable, __file__, "--part", *map(str, arguments)]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", nargs="+", type=int, default=list(SITES))
    parser.add_argument("--output", type=Path, default=Path("docs/results/embedding.json"))
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        name, *rest = arguments.part
        if name == "shipped":
            embed_shipped()
        else:
            embed_slide(int(rest[0]), Path(rest[1]))
        return

    document = {
        "command": "python benchmarks/embedding.py",
        "threads": torch.get_num_threads(),
        "versions": {package: version(package) for package in ("stimage", "torch", "zarr")},
        "slides": [],
    }
    for n_sites in (2000, 4000) if arguments.short else arguments.sites:
        with tempfile.TemporaryDirectory() as folder:
            corpus_of(simulated_slide(n_sites)).write(f"{folder}/corpus")
            document["slides"].append(in_fresh_process("slide", n_sites, folder))
        print(document["slides"][-1], flush=True)
    if SLIDE.exists() and not arguments.short:
        document["shipped_checkpoint"] = in_fresh_process("shipped")
        print(document["shipped_checkpoint"], flush=True)
    if not arguments.short:
        arguments.output.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
