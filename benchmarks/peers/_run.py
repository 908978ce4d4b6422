"""What the peer scripts share: one process for each slide, its time and peak memory, one .npz for each slide.

Only numpy and anndata are needed, so that the file runs in every peer's environment.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import resource
import signal
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np

# The scripts here are called like the packages that they import.
sys.path = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]


def main(method: Callable[..., dict[str, np.ndarray]], package: str, description: str) -> None:
    """Run ``method(adata, seed)`` on each slide in a process of its own and store what it returns.

    ``method`` returns ``embedding`` (observations x dimensions) or ``labels`` (seeds x observations), and may add notes. Processes
    are forks, so that a peer is imported once. What was stored before, or failed, is left as it is.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder that export_inputs.py wrote")
    parser.add_argument("--output", type=Path, required=True, help="folder for <slide>.npz, or <slide>.failed.txt")
    parser.add_argument("--slides", nargs="+", help="all slides of the input folder by default, the smallest first")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=7200, help="seconds of CPU for one slide")
    parser.add_argument("--again", action="store_true", help="try what failed before")
    arguments = parser.parse_args()

    paths = sorted(arguments.input.glob("*.h5ad"), key=lambda path: path.stat().st_size)
    arguments.output.mkdir(parents=True, exist_ok=True)
    for path in paths:
        result = arguments.output / f"{path.stem}.npz"
        failure = result.with_suffix(".failed.txt")
        if arguments.slides and path.stem not in arguments.slides:
            continue
        if is_stored(path, result) or (failure.exists() and not arguments.again):
            continue
        failure.unlink(missing_ok=True)
        task = (method, package, path, result, failure, arguments.seed, arguments.limit)
        process = multiprocessing.get_context("fork").Process(target=run, args=task)
        process.start()
        process.join()
        if process.exitcode == -signal.SIGXCPU:
            failure.write_text(f"stopped after {arguments.limit:,} s of CPU\n")
        elif process.exitcode == -signal.SIGKILL:
            failure.write_text("killed, as a process is that takes more memory than there is\n")
        elif process.exitcode and not failure.exists():
            failure.write_text(f"exit code {process.exitcode}\n")
        if failure.exists():
            print(f"{package} {path.stem}: {failure.read_text().strip()}", flush=True)


def is_stored(path: Path, result: Path) -> bool:
    """Whether a slide was run on this very input before: a run that was interrupted goes on where it stopped."""
    if not result.exists():
        return False
    with np.load(result) as archive:
        return str(archive["input_sha256"]) == hashlib.sha256(path.read_bytes()).hexdigest()


def run(
    method: Callable[..., dict[str, np.ndarray]],
    package: str,
    path: Path,
    result: Path,
    failure: Path,
    seed: int,
    limit: int,
) -> None:
    """One slide: seconds span the method, not imports or reading; the peak of memory is that of the whole process."""
    import anndata

    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 10))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    adata = anndata.read_h5ad(path)
    start, cpu_start = time.perf_counter(), time.process_time()
    try:
        found = method(adata, seed)
    except Exception as error:  # noqa: BLE001, whatever a peer raises is noted
        failure.write_text(f"{type(error).__name__}: {error}".splitlines()[0] + "\n")
        return
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    # Linux counts in kilobytes, macOS in bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    part = result.with_suffix(".part.npz")
    np.savez_compressed(
        part,
        **found,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        peak_mib=peak,
        package=package,
        version=version(package),
        input_sha256=digest,
        seed=seed,
    )
    part.replace(result)
    print(f"{package} {path.stem}: {seconds:.1f} s ({cpu_seconds:.1f} s of CPU), {peak:.0f} MiB", flush=True)
