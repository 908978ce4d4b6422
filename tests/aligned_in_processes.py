"""Trains a tiny aligner from a corpus on disk; as a script, in one of two processes."""

from __future__ import annotations

import logging
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from stained import QUIET, TINY, tiny_encoder

from stimage.data import StoredPairs
from stimage.models import STAlign

TRAINING = {"max_epochs": 2, "batch_size": 40}
"""Two batches of each section: four in an epoch, two for each of two processes."""
RATE = {"learning_rate": 1e-3}


def tiny_aligner(folder: Path) -> STAlign:
    """An untrained aligner without chance in its steps."""
    config = replace(TINY, dropout=0.0)
    return STAlign(StoredPairs.open(folder), image_encoder=tiny_encoder(), config=config, n_image_components=4)


def train(model: STAlign, **options: Any) -> STAlign:
    """Train for a moment."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train(**{**TRAINING, "plan_kwargs": RATE, **QUIET, **options})
    return model


def main(directory: Path) -> None:
    """What one of two processes does."""
    from torch import distributed

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    options = {"devices": 2, "strategy": "ddp"}
    model = train(tiny_aligner(directory / "corpus"), **options)
    rank = distributed.get_rank()
    losses = {f"loss.{name}": torch.tensor(frame.to_numpy()) for name, frame in model.history.items()}
    tokens = {"tokens": torch.tensor([model.n_tokens_seen])}
    save_file(model._tensors() | losses | tokens, directory / f"process{rank}.safetensors")
    try:
        train(tiny_aligner(directory / "corpus"), negatives="batch", **options)
    except ValueError as error:
        (directory / f"error{rank}.txt").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
