"""Every peer on every slide, each in its own environment; goes on where it stopped.

    python benchmarks/peers/run_all.py --input INPUT --output OUTPUT --environments ENVIRONMENTS

ENVIRONMENTS/<peer>/bin/python runs <peer>.py; a peer without an environment is left out. OUTPUT/<peer>/<slide>.npz is written when a
slide is done, small slides first. Why one failed, or that it took more than --limit seconds of CPU (which do not depend on what else
the machine does), is in OUTPUT/<peer>/<slide>.failed.txt; it is tried again only with --again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = ("closed_form", "nichepca", "banksy", "spatialleiden", "cellcharter", "stagate", "graphst", "novae")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--environments", type=Path, required=True)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=PEERS)
    parser.add_argument("--slides", nargs="+", help="all of the input folder by default")
    parser.add_argument("--limit", type=int, default=7200, help="seconds of CPU for one slide")
    parser.add_argument("--again", action="store_true", help="try what failed before")
    arguments = parser.parse_args()

    options = ["--input", str(arguments.input), "--limit", str(arguments.limit)]
    options += ["--slides", *arguments.slides] if arguments.slides else []
    options += ["--again"] if arguments.again else []
    for peer in arguments.peers:
        python = arguments.environments / peer / "bin" / "python"
        if not python.exists():
            print(f"{peer}: no environment", flush=True)
            continue
        command = [str(python), "-W", "ignore", str(HERE / f"{peer}.py"), "--output", str(arguments.output / peer)]
        environment = os.environ | dict.fromkeys(THREADS, "1")
        if subprocess.run([*command, *options], env=environment, check=False).returncode:
            print(f"{peer}: failed before any slide", flush=True)


if __name__ == "__main__":
    main()
