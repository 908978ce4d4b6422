"""Every peer on every slide, each in its own environment; goes on where it stopped.

    python benchmarks/peers/run_all.py --input INPUT --output OUTPUT --environments ENVIRONMENTS

ENVIRONMENTS/<peer>/bin/python runs <peer>.py; a peer without an environment is left out. Small slides come first, so that a method that
takes long has results early. OUTPUT/<peer>/<slide>.npz is written when a slide is done; what failed, or took more than --limit seconds of CPU
(which do not depend on what else the machine does), is in OUTPUT/failed.json with the end of its messages, and is tried again only with --again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = ("nichepca", "banksy", "spatialleiden", "cellcharter", "stagate", "graphst", "novae")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--environments", type=Path, required=True)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--slides", nargs="+")
    parser.add_argument("--limit", type=int, default=7200, help="seconds of CPU for one slide")
    parser.add_argument("--again", action="store_true", help="try what failed before")
    arguments = parser.parse_args()

    notes = arguments.output / "failed.json"
    failed = json.loads(notes.read_text()) if notes.exists() and not arguments.again else {}
    sizes = {path.stem: path.stat().st_size for path in arguments.input.glob("*.h5ad")}
    slides = sorted(arguments.slides or sizes, key=sizes.__getitem__)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    for peer in arguments.peers:
        python = arguments.environments / peer / "bin" / "python"
        if not python.exists():
            print(f"{peer}: no environment", flush=True)
            continue
        for slide in slides:
            key = f"{peer} {slide}"
            if key in failed:
                continue
            command = [str(python), str(HERE / f"{peer}.py"), "--input", str(arguments.input)]
            command += ["--output", str(arguments.output / peer), "--slides", slide]
            reason = run(command, arguments.limit, os.environ | threads)
            if reason:
                failed[key] = reason
                print(f"{key}: failed", flush=True)
                notes.parent.mkdir(parents=True, exist_ok=True)
                notes.write_text(json.dumps(failed, indent=1) + "\n")


def run(command: list[str], limit: int, environment: dict[str, str]) -> str:
    """Run a peer on a slide; why it failed, empty when it did not."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 10))

    done = subprocess.run(
        command, env=environment, preexec_fn=limited, capture_output=True, text=True, check=False
    )
    print(done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "", flush=True)
    if done.returncode == -signal.SIGXCPU:
        return f"stopped after {limit} s of CPU"
    if done.returncode == -signal.SIGKILL:
        return "killed, as a process is that takes more memory than there is"
    return "" if done.returncode == 0 else done.stderr[-1500:]


if __name__ == "__main__":
    main()
