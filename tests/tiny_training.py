"""Trains tiny models and writes what they saw and learned; run in this process or, as a script, in several."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from safetensors.torch import save_file
from slides import random_slide

from stimage.data import Corpus, WindowDataModule
from stimage.models import STImage
from stimage.models.embedding._predicted import predicted_components
from stimage.train import MaskedTrainingPlan
from stimage.train._fit import fit

MODELS: dict[str, dict[str, Any]] = {
    "values": {"masking": "site_gene"},
    "sites": {"masking": "mixed"},
    "spot": {"unit": "spot"},
    "neighborhood": {"unit": "neighborhood", "n_neighbors": 4},
    "slice": {"unit": "slice", "n_macro_domains": 3},
    "paper": {"preset": "paper", "masking": "site_gene", "window": 3},
}
TRAINING = {
    "max_epochs": 2,
    "batch_size": 5,
    "windows_per_epoch": 13,
    "accelerator": "cpu",
    "enable_progress_bar": False,
}


class Recorder(lightning.Callback):
    """Notes the windows of each step and the gradient of the first one."""

    def __init__(self) -> None:
        self.windows: list[list[str]] = []
        self.gradient: dict[str, torch.Tensor] = {}

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: dict[str, torch.Tensor], batch_idx: int
    ) -> None:
        shown = [expression.numpy().tobytes() + genes.numpy().tobytes() for expression, genes in windows_of(batch)]
        self.windows.append([hashlib.sha256(window).hexdigest() for window in shown])

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if not self.gradient:
            # Parts that are accumulated are weighted by the plan, whose hook comes after those of callbacks.
            assert trainer.accumulate_grad_batches == 1
            named = pl_module.module.named_parameters()
            self.gradient = {name: value.grad.clone() for name, value in named if value.grad is not None}


def windows_of(batch: dict[str, torch.Tensor]) -> zip:
    """Expression and genes of each window of a batch."""
    return zip(batch["expression"], batch["genes"], strict=True)


def tiny_corpus(n_slides: int = 5) -> Corpus:
    """Slides of random expression."""
    slides = [random_slide(10, 9 + i, n_genes=20, name=f"slide{i}", seed=i) for i in range(n_slides)]
    return Corpus(slides, [f"gene{i}" for i in range(20)])


def tiny_model(kind: str = "values", corpus: Corpus | None = None, **options: Any) -> STImage:
    """An untrained model."""
    sizes = {"window": 6, "n_genes": 12, "spectral_start": False}
    return STImage(tiny_corpus() if corpus is None else corpus, **{**sizes, **MODELS[kind], **options})


def train(model: STImage, **options: Any) -> STImage:
    """Train for a moment, on one device unless told otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.train(**{**TRAINING, **options})
    return model


def train_without_readout(model: STImage, **options: Any) -> STImage:
    """The training alone: a readout takes longer."""
    options = {"devices": 1, **TRAINING, **options}
    batch_size, n_windows = options.pop("batch_size"), options.pop("windows_per_epoch")
    data = WindowDataModule(
        model.corpus, model.spec, batch_size=batch_size, windows_per_epoch=n_windows, unit=model.unit
    )
    n_steps = options["max_epochs"] * math.ceil(n_windows / batch_size)
    plan = MaskedTrainingPlan(model.module.train(), model.optimizer, n_steps=n_steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.history, model.n_tokens_seen, _ = fit(plan, data, gradient_clip_val=1.0, **options)
    model.module.eval()
    return model


def record(model: STImage, path: Path, **options: Any) -> STImage:
    """Train and write windows and losses as JSON, weights and the first gradient beside it."""
    recorder = Recorder()
    callbacks = [] if "accumulate_grad_batches" in options else [recorder]
    (train_without_readout if model.spec.masking == "mixed" else train)(model, callbacks=callbacks, **options)
    losses = {name: frame.iloc[:, 0].tolist() for name, frame in model.history.items()}
    found = {"windows": recorder.windows, "losses": losses, "model_id": model.model_id, "tokens": model.n_tokens_seen}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(found))
    weights = {f"weight.{name}": value.contiguous() for name, value in model.module.state_dict().items()}
    save_file(weights | {f"gradient.{n}": v for n, v in recorder.gradient.items()}, path.with_suffix(".safetensors"))
    return model


def main(directory: Path) -> None:
    """What one of two processes does."""
    from torch import distributed

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    options = {"devices": 2, "strategy": "ddp"}
    train(tiny_model("spot"), max_epochs=1, **options)  # only now do the processes know of each other
    rank = distributed.get_rank()

    def place(name: str) -> Path:
        return directory / name / f"process{rank}"

    for kind in MODELS:
        record(tiny_model(kind), place(kind), **options)
    record(tiny_model(), place("validated"), validation_size=0.2, early_stopping=True, **options)
    record(tiny_model(), place("accumulated"), batch_size=4, accumulate_grad_batches=2, **options)
    record(tiny_model(), place("joined"), batch_size=6, **options)
    for name in ("kept", "resumed"):
        record(tiny_model(), place(name), checkpoint_dir=directory / "checkpoints", **options)
    whole = train(tiny_model(corpus=tiny_corpus(1), masking="site"), **options)
    whole.save(directory / "saved")
    (directory / f"readout{rank}.txt").write_text(whole.model_id)
    slide, tiling = tiny_corpus(1)[0], {"tile_size": 6, "batch_size": 2, "seed": 0}
    np.save(
        directory / f"predicted{rank}.npy",
        [predicted_components(whole.module, slide, np.eye(20), **tiling, shared=shared) for shared in (True, False)],
    )
    try:
        train(tiny_model(), batch_size=1, **options)
    except ValueError as error:
        (directory / f"error{rank}.txt").write_text(str(error))
    if (directory / "corpus").exists():
        record(tiny_model(corpus=Corpus.open(directory / "corpus")), place("stored"), **options)
    np.save(directory / f"done{rank}.npy", np.ones(1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
