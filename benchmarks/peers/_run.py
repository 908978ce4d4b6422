"""What the peer scripts share: one fresh process for each slide, its time and peak memory, one .npz for each slide.

Only numpy and anndata are needed, so that the file runs in every peer's environment.
"""

from __future__ import annotations

import argparse
import hashlib
import resource
import subprocess
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

    ``method`` returns ``embedding`` (observations x dimensions) or ``labels`` (seeds x observations), and may add notes.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder that export_inputs.py wrote")
    parser.add_argument("--output", type=Path, required=True, help="folder for <slide>.npz")
    parser.add_argument("--slides", nargs="+", help="all slides of the input folder by default")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    slides = arguments.slides or sorted(path.stem for path in arguments.input.glob("*.h5ad"))
    if len(slides) == 1:
        if is_stored(arguments.input / f"{slides[0]}.h5ad", arguments.output / f"{slides[0]}.npz"):
            print(f"{package} {slides[0]}: stored already", flush=True)
            return
        run(method, package, arguments.input / f"{slides[0]}.h5ad", arguments.output, arguments.seed)
        return
    failed = []
    for slide in slides:
        command = [sys.executable, sys.argv[0], "--input", str(arguments.input), "--output", str(arguments.output)]
        if subprocess.run([*command, "--seed", str(arguments.seed), "--slides", slide], check=False).returncode:
            failed.append(slide)
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


def is_stored(path: Path, result: Path) -> bool:
    """Whether a slide was run on this very input before: a run that was interrupted goes on where it stopped."""
    if not result.exists():
        return False
    with np.load(result) as archive:
        return str(archive["input_sha256"]) == hashlib.sha256(path.read_bytes()).hexdigest()


def run(method: Callable[..., dict[str, np.ndarray]], package: str, path: Path, output: Path, seed: int) -> None:
    """One slide: seconds span the method, not imports or reading; the peak of memory is that of the whole process."""
    import anndata

    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    adata = anndata.read_h5ad(path)
    start, cpu_start = time.perf_counter(), time.process_time()
    result = method(adata, seed)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    # Linux counts in kilobytes, macOS in bytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    output.mkdir(parents=True, exist_ok=True)
    target = output / path.with_suffix(".npz").name
    part = target.with_suffix(".part.npz")
    np.savez_compressed(
        part,
        **result,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        peak_mib=peak,
        package=package,
        version=version(package),
        input_sha256=digest,
        seed=seed,
    )
    part.replace(target)
    print(f"{package} {path.stem}: {seconds:.1f} s ({cpu_seconds:.1f} s of CPU), {peak:.0f} MiB", flush=True)
