"""Memory and time of public calls on slides of 1,000 to 100,000 cells or spots: both should grow no faster than the slide.

    OMP_NUM_THREADS=1 python benchmarks/memory.py             # docs/results/memory.json, a few minutes
    OMP_NUM_THREADS=1 python benchmarks/memory.py --short     # small slides, seconds, writes nothing

Each figure is the peak of the resident memory during a call over what it was before it (Linux only). The slide itself, whose
size is given beside it, is not part of it; what the call returns or writes is.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

import stimage as sti

N_GENES = 300
COUNTED = 40  # genes with counts in a cell


def cells(n: int, genes: np.ndarray) -> AnnData:
    """Cells at random places, as many in each square millimetre whatever ``n``."""
    rng = np.random.default_rng(0)
    indices = rng.integers(N_GENES, size=n * COUNTED)
    counts = sparse.csr_matrix(
        (np.ones(n * COUNTED, np.float32), indices, np.arange(0, n * COUNTED + 1, COUNTED)), (n, N_GENES)
    )
    counts.sum_duplicates()
    adata = AnnData(
        counts, obs=pd.DataFrame(index=[f"cell{i}" for i in range(n)]), var=pd.DataFrame(index=genes[:N_GENES])
    )
    adata.obsm["spatial"] = rng.uniform(0, 10 * np.sqrt(n), (n, 2))
    return adata


def on_lattice(adata: AnnData) -> AnnData:
    """The same counts on a Visium lattice of pixel coordinates."""
    n_cols = int(np.sqrt(adata.n_obs))
    row, col = np.divmod(np.arange(adata.n_obs), n_cols)
    adata = AnnData(adata.X, obs=adata.obs[[]].copy(), var=adata.var)
    adata.obsm["spatial"] = np.column_stack([2 * col + row % 2, row * np.sqrt(3)]) * 50.0
    return adata


def status(key: str) -> int:
    """Bytes of resident memory: ``VmRSS`` now, ``VmHWM`` at most since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def measure(call: Callable[[], object]) -> dict[str, float]:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, start = status("VmRSS"), time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    peak = status("VmHWM") - before
    del result
    return {"seconds": round(seconds, 2), "megabytes": round(peak / 1e6, 1)}


def calls(adata: AnnData, lattice: AnnData) -> dict[str, Callable[[], object]]:
    return {
        "pp.compact_grid, lattice inferred": lambda: sti.pp.compact_grid(lattice),
        "pp.compact_grid, bins chosen": lambda: sti.pp.compact_grid(adata),
        "pp.compact_grid, bins given": lambda: sti.pp.compact_grid(adata, layout="bins", bin_size=10.0),
        "pp.aggregate_sites": lambda: sti.pp.aggregate_sites(adata),
        "pp.build_niches": lambda: sti.pp.build_niches(adata, key_added="around"),
        "pp.select_genes": lambda: sti.pp.select_genes(adata, n_genes=100),
        "data.Corpus.from_anndata": lambda: sti.data.Corpus.from_anndata(adata, genes=adata.var_names),
        "tl.embed": lambda: sti.tl.embed(adata),
        "tl.domains, 7 domains": lambda: sti.tl.domains(adata, 7, use_rep="X_any"),
        "tl.reconstruct_region": lambda: sti.tl.reconstruct_region(adata, size=6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("docs/results/memory.json"))
    arguments = parser.parse_args()
    sizes = (100, 200) if arguments.short else (1_000, 10_000, 100_000)

    genes = sti.pretrained.load().genes
    table: dict[str, dict[str, dict[str, float]]] = {}
    slide_megabytes = {}
    # Libraries and compiled code stay in memory after their first use, which is none of a slide's.
    warm_up = () if arguments.short else (100,)
    for n in (*warm_up, *sizes):
        adata = cells(n, genes)
        lattice = on_lattice(adata)
        slide_megabytes[str(n)] = round(
            sum(part.nbytes for part in (adata.X.data, adata.X.indices, adata.X.indptr)) / 1e6, 1
        )
        adata.obsm["X_any"] = np.random.default_rng(1).normal(size=(n, 30)).astype(np.float32)
        for name, call in calls(adata, lattice).items():
            figures = measure(call)
            if n in sizes:
                figures["kilobytes_per_observation"] = round(figures["megabytes"] * 1e3 / n, 2)
                table.setdefault(name, {})[str(n)] = figures
                print(f"{name:40} {n:>7} {figures}", flush=True)

    growth = {}
    for name, figures in table.items():
        (small, first), (large, last) = list(figures.items())[-2:]
        per_tenfold = np.log10(int(large) / int(small))
        # 1: as many times more memory as observations. A small call is mostly fixed cost.
        if first["megabytes"] > 0 and last["megabytes"] > 0:
            growth[name] = round(float(np.log10(last["megabytes"] / first["megabytes"]) / per_tenfold), 2)
    result = {
        "what": "peak resident memory of a call over that before it; growth 1 is linear in the number of observations",
        "machine": platform.machine(),
        "stimage": version("stimage"),
        "genes": N_GENES,
        "slide_megabytes": {str(n): slide_megabytes[str(n)] for n in sizes},
        "calls": table,
        "growth": growth,
    }
    print(json.dumps(growth, indent=2))
    if not arguments.short:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
