"""Trains in a child process that is killed at random moments and started again, and compares with a run of its own."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from tiny_training import tiny_model, train

OPTIONS = {"max_epochs": 6, "validation_size": 0.2}


def in_a_child(directory: Path, **options: Any) -> int:
    """Start a training, which writes ``done.json`` at its end."""
    child = os.fork()
    if child:
        return child
    model = train(tiny_model(), **OPTIONS, **options)
    losses = {name: frame.iloc[:, 0].tolist() for name, frame in model.history.items()}
    found = {"losses": losses, "model_id": model.model_id, "tokens": model.n_tokens_seen}
    (directory / "done.json").write_text(json.dumps(found))
    os._exit(0)


def main(directory: Path, n_kills: int, seed: int) -> None:
    """Kill so often, and start anew in another folder whenever a training gets to its end before."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    rng = random.Random(seed)
    plain = directory / "plain"
    plain.mkdir()
    start = time.monotonic()
    assert os.waitpid(in_a_child(plain), 0)[1] == 0
    duration = time.monotonic() - start
    expected = json.loads((plain / "done.json").read_text())
    n_done, killed_after, run = 0, [], directory / "run0"
    while len(killed_after) < n_kills or not (run / "done.json").exists():
        if (run / "done.json").exists():
            run = directory / f"run{n_done}"
        run.mkdir(exist_ok=True)
        child = in_a_child(run, checkpoint_dir=run / "checkpoints")
        if len(killed_after) < n_kills:
            time.sleep(rng.uniform(0, 0.8 * duration))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            found = [path.name for path in (run / "checkpoints").glob("*")]
            killed_after.append(sorted(found, key=lambda name: name.removeprefix(".writing-")))
        else:
            assert status == 0
            n_done += 1
            assert json.loads((run / "done.json").read_text()) == expected
    print(json.dumps({"killed_after": killed_after, "n_done": n_done}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
