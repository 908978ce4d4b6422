"""A corpus of a million spots on disk: how fast it is built and opened, what a window costs, and how much memory it takes.

    python benchmarks/corpus.py             # docs/results/corpus.json; 17 GB of disk for some minutes
    python benchmarks/corpus.py --short     # 20,000 spots of 2,000 genes, seconds, writes nothing

Slides are simulated from one template whose blocks of rows come in another order in each, with a tenth of the genes in every
spot. Windows are those that training sees (16 x 16 sites, 512 genes drawn by variance). The corpus is measured in a process of
its own, beside one of 10,000 spots: the cost of a window must not depend on the size. "Not cached" means that the operating
system was told to forget the files before.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy import sparse

from stimage.data import Corpus, CorpusWriter, Slide, WindowDataset, WindowSpec

SIDE = 64
BLOCKS = 16
DENSITY = 0.1
SMALL = 10_000
LARGEST_RATIO, LARGEST_GIB = 1.5, 2.0


def template(n_genes: int) -> sparse.csr_matrix:
    """Log expression of the sites of a slide: four kinds of tissue, each with genes of its own."""
    rng = np.random.default_rng(0)
    blocks = []
    for block in range(BLOCKS):
        share = np.random.default_rng(block % 4).lognormal(sigma=1.0, size=n_genes)
        present = rng.random((SIDE**2 // BLOCKS, n_genes), dtype=np.float32) < DENSITY * share / share.mean()
        counts = sparse.csr_matrix(present, dtype=np.float32)
        counts.data = np.log1p(0.2 * rng.geometric(0.5, counts.nnz)).astype(np.float32)
        blocks.append(counts)
    return sparse.vstack(blocks, format="csr")


def slides(n_spots: int, n_genes: int, expression: sparse.csr_matrix) -> Iterator[Slide]:
    raster = np.arange(SIDE**2, dtype=np.int32).reshape(SIDE, SIDE)
    pieces = [expression[start : start + SIDE**2 // BLOCKS] for start in range(0, SIDE**2, SIDE**2 // BLOCKS)]
    for number in range(round(n_spots / SIDE**2)):
        rng = np.random.default_rng([1, number])
        yield Slide(
            name=f"slide{number}",
            expression=sparse.vstack([pieces[block] for block in rng.permutation(BLOCKS)], format="csr"),
            library_size=rng.integers(1000, 20_000, SIDE**2).astype(np.float32),
            raster=raster,
            layout="hex",
            parity=0,
            measured=np.ones(n_genes, dtype=bool),
            observation_index=np.arange(SIDE**2),
            site_of_observation=np.arange(SIDE**2),
            target_sum=1e3,
        )


def build(path: Path, n_spots: int, n_genes: int, expression: sparse.csr_matrix) -> dict:
    seconds, n_sites = 0.0, 0
    with CorpusWriter(path, [f"gene{i}" for i in range(n_genes)]) as writer:
        for slide in slides(n_spots, n_genes, expression):
            start = time.perf_counter()
            writer.append(slide)
            seconds += time.perf_counter() - start
            n_sites += slide.n_sites
    gigabytes = sum(file.stat().st_size for file in (path / "slides").iterdir()) / 1e9
    return {
        "spots": n_sites,
        "slides": n_sites // SIDE**2,
        "gigabytes": round(gigabytes, 2),
        "seconds_to_build": round(seconds, 1),
        "spots_per_second": round(n_sites / seconds),
    }


def memory() -> dict[str, float]:
    """Peak resident memory and memory that is no file's, in MiB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kib = {name: int(status[name].split()[0]) for name in ("VmHWM", "RssAnon")}
    return {"peak_mib": kib["VmHWM"] / 1024, "anonymous_mib": kib["RssAnon"] / 1024}


def forget(path: Path) -> None:
    """Take the files of a corpus out of the page cache."""
    for file in path.rglob("*"):
        if file.is_file():
            with file.open("rb") as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def milliseconds(windows: dict[str, WindowDataset], n_windows: int) -> dict[str, dict[str, float]]:
    """Median time of a window of each corpus, in turn, so that whatever else the machine does slows both down.

    Beside the time that passed, that of the processor, which other programs and waiting for the disk do not change.
    """
    spent = {name: [] for name in windows}
    for index in range(n_windows):
        for name, dataset in windows.items():
            start = time.perf_counter(), time.process_time()
            dataset[index]
            spent[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    medians = {name: 1000 * np.median(times, axis=0) for name, times in spent.items()}
    return {name: {"passed": round(passed, 3), "processor": round(cpu, 3)} for name, (passed, cpu) in medians.items()}


def measure(folder: Path, n_windows: int) -> dict:
    before = memory()
    seconds_to_open = []
    forget(folder)
    for _ in range(2):
        start = time.perf_counter()
        corpora = {"large": Corpus.open(folder / "large")}
        seconds_to_open.append(round(time.perf_counter() - start, 3))
    corpora["small"] = Corpus.open(folder / "small")
    windows = {name: WindowDataset(corpus.slides, WindowSpec(), seed=0) for name, corpus in corpora.items()}
    milliseconds(windows, 10)  # compiles
    forget(folder)
    not_cached = milliseconds(windows, n_windows)
    cached = milliseconds(windows, n_windows)
    after = memory()
    return {
        "seconds_to_open": seconds_to_open[0],
        "seconds_to_open_cached": seconds_to_open[1],
        "spots_of_small_corpus": corpora["small"].n_sites,
        "milliseconds_per_window": cached,
        "milliseconds_per_window_not_cached": not_cached,
        "ratio": round(cached["large"]["processor"] / cached["small"]["processor"], 2),
        "peak_mib": round(after["peak_mib"]),
        "anonymous_mib": round(after["anonymous_mib"]),
        "anonymous_mib_before_opening": round(before["anonymous_mib"]),
    }


def measured_apart(folder: Path, n_windows: int) -> dict:
    command = [sys.executable, __file__, "--measure", str(folder), "--windows", str(n_windows)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spots", type=int, default=1_000_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--windows", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="where the corpora lie while they are measured")
    parser.add_argument("--output", type=Path, default=Path("docs/results/corpus.json"))
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure, arguments.windows)))
        return
    if arguments.short:
        arguments.spots, arguments.genes, arguments.windows = 20_000, 2000, 100

    needed = (arguments.spots + SMALL) * arguments.genes * DENSITY * 8 * 1.1
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="stimage-corpus-") as folder:
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise SystemExit(
                f"{needed / 1e9:.1f} GB are needed in {folder}, {free / 1e9:.1f} GB are free: use --folder."
            )
        expression = template(arguments.genes)
        built = build(Path(folder) / "large", arguments.spots, arguments.genes, expression)
        print(built, flush=True)
        build(Path(folder) / "small", SMALL, arguments.genes, expression)
        measured = measured_apart(Path(folder), arguments.windows)
    document = {
        "command": "python benchmarks/corpus.py",
        "cores": os.cpu_count(),
        "versions": {package: version(package) for package in ("stimage", "numpy", "scipy", "torch")},
        "genes": arguments.genes,
        "values_per_spot": round(expression.nnz / SIDE**2),
        "windows": arguments.windows,
        "built": built,
        "measured": measured,
    }
    print(json.dumps(document, indent=1))
    if measured["ratio"] > LARGEST_RATIO or measured["peak_mib"] > 1024 * LARGEST_GIB:
        print(f"Over budget: a ratio of {LARGEST_RATIO} and {LARGEST_GIB} GiB.", file=sys.stderr)
    if not arguments.short:
        arguments.output.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
