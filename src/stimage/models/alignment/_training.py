"""Training of an aligner on slides with their niches and images."""

from __future__ import annotations

from typing import Any

import torch

from stimage import _validate
from stimage.data import AlignmentDataModule, PairedSlide
from stimage.data.sampling._alignment_data import NEGATIVES, Negatives
from stimage.models._options import trainer_keys
from stimage.modules import SpotNicheAligner
from stimage.train import AlignmentOptimizerConfig, AlignmentPlan
from stimage.train._fit import Fitted, fit


def check_alignment_options(
    *, max_epochs: Any, batch_size: Any, negatives: Any = "slide", num_workers: Any = 0, **trainer_kwargs: Any
) -> None:
    """Raise ``ValueError`` or ``TypeError`` for options that an aligner cannot be trained with."""
    _validate.check_positive("max_epochs", max_epochs)
    _validate.check_positive("batch_size", batch_size, smallest=2)
    _validate.check_positive("num_workers", num_workers, smallest=0)
    _validate.check_choice("negatives", negatives, NEGATIVES)
    if trainer_kwargs:
        own = ("max_epochs", "batch_size", "negatives", "num_workers", "plan_kwargs")
        _validate.check_keys("train", trainer_kwargs, [*own, *trainer_keys()])


def train_aligner(
    module: SpotNicheAligner,
    slides: list[PairedSlide],
    *,
    optimizer: AlignmentOptimizerConfig,
    batch_size: int,
    negatives: Negatives,
    num_workers: int,
    trainer: dict[str, Any],
    seed: int,
) -> Fitted:
    """Train a module in place.

    Parameters
    ----------
    module
        The module.
    slides
        Slides as it sees them.
    optimizer
        How it is trained.
    batch_size, negatives, num_workers
        As in :meth:`stimage.models.STAlign.train`.
    trainer
        Arguments of scvi-tools' trainer.
    seed
        Seed of everything random.

    Returns
    -------
    Fitted
        A data frame for each logged loss, the number of spots seen and the device.
    """
    data = AlignmentDataModule(slides, batch_size=batch_size, negatives=negatives, num_workers=num_workers, seed=seed)
    n_batches = data.dataset.n_batches
    n_steps = trainer["max_epochs"] * n_batches
    plan = AlignmentPlan(module, optimizer, n_steps=n_steps, own_batches=negatives == "slide")
    options = {
        "gradient_clip_val": optimizer.gradient_clip,
        "check_val_every_n_epoch": None,
        "log_every_n_steps": min(n_batches, 10),
        **trainer,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module.train()
        fitted = fit(plan, data, **options)
    module.eval()
    return fitted
