"""Windows of 16 x 16 sites and 512 genes: the kernels beside dense numpy and beside reading the same numbers once.

    python benchmarks/sampling.py                      # docs/results/sampling.json; two minutes, 2 GB of memory
    python benchmarks/sampling.py --data FOLDER        # real slides too, where the folder has them
    python benchmarks/sampling.py --short              # seconds, a small slide, writes nothing

Times are per window, of the shortest of several rounds: processor time of one thread, and for batches, on one thread and
on two, time on the wall. Every window is compared with the one that dense numpy cuts for the same seed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numba import njit
from scipy import sparse

from stimage.data import Corpus, Slide, WindowDataset, WindowSpec, crop, select_window_genes
from stimage.data.sampling._kernels import gene_variances, read_genes, row_arrays
from stimage.data.sampling._windows import read_sites

REAL_SLIDES = ("colon_fetal_A3_visium", "DLPFC_151673")
SPEC = WindowSpec(window=16, n_genes=512, gene_selection="weighted")
BATCH_SIZE = 32


def simulated_slide(shape: tuple[int, int], n_genes: int, values_per_spot: int, seed: int = 0) -> Slide:
    """A full lattice whose spots hold about as many values as those of a real slide, of genes of very unequal rates."""
    rng = np.random.default_rng(seed)
    rate = rng.lognormal(0, 2.2, n_genes)
    low, high = 1e-9, 1e9
    for _ in range(100):
        scale = np.sqrt(low * high)
        low, high = (low, scale) if (1 - np.exp(-scale * rate)).sum() > values_per_spot else (scale, high)
    rows = []
    for _ in range(shape[0]):
        counts = rng.poisson(scale * rate * rng.gamma(20, 1 / 20, (shape[1], 1)))
        rows.append(sparse.csr_matrix(np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True)).astype(np.float32)))
    n_sites = shape[0] * shape[1]
    return Slide(
        name="simulated",
        expression=sparse.vstack(rows, format="csr"),
        library_size=np.ones(n_sites, dtype=np.float32),
        raster=np.arange(n_sites, dtype=np.int32).reshape(shape),
        layout="hex",
        parity=0,
        measured=np.ones(n_genes, dtype=bool),
        observation_index=np.arange(n_sites),
        site_of_observation=np.arange(n_sites),
    )


def real_slide(path: Path) -> Slide:
    import anndata

    from stimage import pp

    adata = anndata.read_h5ad(path)
    pp.compact_grid(adata)
    return replace(Corpus.from_anndata(adata, genes=adata.var_names)[0], name=path.stem)


def dense_window(
    slide: Slide, sites: np.ndarray, rng: np.random.Generator, precision: type = np.float64
) -> tuple[np.ndarray, np.ndarray]:
    """Expression and genes of a window by plain numpy: its rows as a dense array of all genes."""
    observed = sites >= 0
    observed[observed] = slide.active[sites[observed]]
    measured = np.flatnonzero(slide.measured)
    block = slide.expression[sites[observed]].toarray()
    variance = block.var(axis=0, dtype=precision)[measured]
    genes = measured[select_window_genes(variance, SPEC.n_genes, rng=rng)]
    expression = np.zeros((len(sites), SPEC.n_genes), dtype=np.float32)
    expression[observed] = block[:, genes] - slide.gene_mean[genes]
    return expression, genes


@njit(nogil=True, fastmath=True)
def read_once(indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, rows: np.ndarray) -> float:
    """Sum of the values of some rows and of their columns; ``fastmath`` lets it run as fast as memory does."""
    total, columns = 0.0, 0
    for row in rows:
        row_indices, row_data = indices[indptr[row] : indptr[row + 1]], data[indptr[row] : indptr[row + 1]]
        for k in range(len(row_data)):
            total += row_data[k]
            columns += row_indices[k]
    return total + columns


def shortest(
    functions: dict[str, Callable[[int], object]], n_windows: int, n_rounds: int, clock: Callable[[], float]
) -> dict[str, float]:
    """Milliseconds per call of each function: its shortest round. Rounds alternate, windows differ from round to round."""
    best = dict.fromkeys(functions, np.inf)
    for turn in range(n_rounds):
        for name, function in functions.items():
            start = clock()
            for number in range(turn * n_windows, (turn + 1) * n_windows):
                function(number)
            best[name] = min(best[name], (clock() - start) * 1e3 / n_windows)
    return best


def measure(slide: Slide, *, n_windows: int, n_rounds: int) -> dict:
    torch.set_num_threads(1)
    dataset = WindowDataset([slide], SPEC, seed=0)
    places = dataset.origins[0][np.random.default_rng(0).permutation(len(dataset.origins[0]))]
    windows = [crop(slide.raster, *place, SPEC.window, SPEC.window).ravel() for place in places[:100]]
    rows = [sites[sites >= 0] for sites in windows]
    rows = [row_arrays(slide.expression, part[slide.active[part]]) for part in rows]
    n_genes, n_measured = len(slide.measured), int(slide.measured.sum())
    assert n_measured > SPEC.n_genes

    def rng(number: int) -> np.random.Generator:
        return np.random.default_rng([0, number])

    def window(number: int) -> np.ndarray:
        return windows[number % len(windows)]

    same = 0
    for number in range(len(windows)):
        expression, genes = dense_window(slide, window(number), rng(number))
        _, found, found_genes, _ = read_sites(slide, window(number), SPEC, rng(number))
        same += np.array_equal(genes, found_genes) and np.array_equal(expression, found)

    variance = gene_variances(*rows[0], n_genes)
    _, expression, genes, _ = read_sites(slide, windows[0], SPEC, rng(0))
    centre = slide.gene_mean[genes]
    times = shortest(
        {
            "dense": lambda number: dense_window(slide, window(number), rng(number)),
            "dense_single_precision": lambda number: dense_window(slide, window(number), rng(number), np.float32),
            "kernels": lambda number: read_sites(slide, window(number), SPEC, rng(number)),
            "read_once": lambda number: read_once(*rows[number % len(rows)]),
            "window_with_mask_and_positions": lambda number: dataset[number],
            "part_variances": lambda number: gene_variances(*rows[number % len(rows)], n_genes),
            "part_draw": lambda number: select_window_genes(variance, SPEC.n_genes, rng=rng(number)),
            "gumbel_numbers": lambda number: rng(number).gumbel(size=n_measured),
            "part_read": lambda number: read_genes(
                *rows[number % len(rows)],
                n_genes,
                genes,
                centre,
                np.arange(len(rows[number % len(rows)][3])),
                expression,
            ),
        },
        n_windows,
        n_rounds,
        time.thread_time,
    )

    def batch(n_threads: int) -> Callable[[int], object]:
        def cut(number: int) -> object:
            torch.set_num_threads(n_threads)
            return dataset.__getitems__(range(number * BATCH_SIZE, (number + 1) * BATCH_SIZE))

        return cut

    batches = shortest({"one": batch(1), "two": batch(2)}, 1, n_rounds, time.perf_counter)
    torch.set_num_threads(1)
    return {
        "slide": slide.name,
        "sites": slide.n_sites,
        "genes": n_measured,
        "values_per_site": round(slide.expression.nnz / slide.n_sites),
        "values_per_window": round(float(np.mean([np.diff(part[0])[part[3]].sum() for part in rows]))),
        "windows_compared": len(windows),
        "windows_equal": int(same),
        "milliseconds": {name: round(value, 3) for name, value in times.items()},
        "dense_over_kernels": round(times["dense"] / times["kernels"], 1),
        "dense_single_precision_over_kernels": round(times["dense_single_precision"] / times["kernels"], 1),
        "kernels_over_read_once": round(times["kernels"] / times["read_once"], 2),
        "milliseconds_in_a_batch": {name: round(value / BATCH_SIZE, 3) for name, value in batches.items()},
        "two_threads_over_one": round(batches["one"] / batches["two"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/sampling.json"))
    parser.add_argument("--short", action="store_true")
    arguments = parser.parse_args()

    if arguments.short:
        slides = [simulated_slide((20, 20), 3000, 300)]
        options = {"n_windows": 2, "n_rounds": 2}
    else:
        slides = [simulated_slide((78, 64), 33_538, 2750)]
        paths = [arguments.data / name / f"{name}.h5ad" for name in REAL_SLIDES]
        slides += [real_slide(path) for path in paths if path.exists()]
        options = {"n_windows": 5, "n_rounds": 30}
    records = []
    for slide in slides:
        records.append(measure(slide, **options))
        print(json.dumps(records[-1], indent=1), flush=True)
        if records[-1]["windows_equal"] < records[-1]["windows_compared"]:
            raise SystemExit(f"{slide.name}: the kernels cut other windows than dense numpy does.")
    if not arguments.short:
        document = {
            "command": "python benchmarks/sampling.py",
            "cores": os.cpu_count(),
            "versions": {package: version(package) for package in ("stimage", "numpy", "numba", "torch")},
            "slides": records,
        }
        arguments.output.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
