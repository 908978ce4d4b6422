from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from stimage import _validate
from stimage.data import AlignmentDataModule
from stimage.data._alignment_data import NEGATIVES, Negatives
from stimage.models._fit import fit
from stimage.models._head_penalty import unseen_penalty
from stimage.train import AlignmentPlan

if TYPE_CHECKING:
    from stimage.models._stalign import STAlign

_OF_ONE_TRAINING = ("callbacks", "logger", "default_root_dir", "enable_checkpointing")
"""Options of the trainer that are not repeated when an aligner is trained without some donors."""


class AlignmentTrainMixin:
    """Training of an aligner that owns slides with their niches and a module."""

    def train(
        self,
        max_epochs: int = 20,
        *,
        batch_size: int = 128,
        negatives: Negatives = "slide",
        learning_rate: float | None = None,
        accelerator: str = "auto",
        devices: int | str | list[int] = "auto",
        num_workers: int = 0,
        **trainer_kwargs: Any,
    ) -> None:
        """Train with scvi-tools' trainer; at the end, the regression from image to expression is fitted.

        Its penalty is the one that predicts donors best whom neither it nor its aligner has seen: up to three aligners are
        trained for that, each without some donors (without some slides, where all are of one donor). With a single slide, or
        an image encoder that is trained along, it is chosen on vectors of the aligner itself.

        Parameters
        ----------
        max_epochs
            Number of epochs, in each of which every spot with counts is seen once.
        batch_size
            Most spots in a batch.
        negatives
            What a spot is told apart from: ``"slide"``, other spots of its slide, so that stain and sequencing depth of a
            slide do not tell pairs apart; ``"batch"``, spots of all slides.
        learning_rate
            Highest learning rate; by default 1e-4 (the paper, on 1.3 million spots: 5e-4).
        accelerator, devices
            Where to train, as in Lightning, on one device: a spot is told apart from those of its batch, which several
            devices would divide.
        num_workers
            Processes that prepare batches. Results do not depend on it.
        trainer_kwargs
            Passed on to :class:`scvi.train.Trainer`.

        Returns
        -------
        None
            Fills :attr:`history` with a data frame for each loss: ``train_loss``, ``train_spot_loss``,
            ``train_niche_loss`` and ``train_cross_loss``.

        Raises
        ------
        ValueError
            If the model was loaded without slides.
        """
        check_alignment_options(
            max_epochs=max_epochs,
            batch_size=batch_size,
            negatives=negatives,
            learning_rate=learning_rate,
            num_workers=num_workers,
        )
        self._paired_for(None, image_dir=None, cache_dir=None)  # raises without slides
        if learning_rate is not None:
            self.optimizer = replace(self.optimizer, learning_rate=learning_rate)
        data_options = {"batch_size": batch_size, "negatives": negatives, "num_workers": num_workers}
        options = {"max_epochs": max_epochs, "accelerator": accelerator, "devices": devices, **trainer_kwargs}
        self.history, n_tokens = _fit_module(self, data_options, options)
        self.n_tokens_seen += n_tokens
        self.is_trained = True
        if self.image_encoder is not None:
            beside = {name: value for name, value in options.items() if name not in _OF_ONE_TRAINING}
            self._fit_head(unseen_penalty(self, lambda part: _fit_module(part, data_options, beside)))


def _fit_module(
    model: STAlign, data_options: dict[str, Any], trainer_options: dict[str, Any]
) -> tuple[dict[str, pd.DataFrame], int]:
    """Train the module of an aligner on its slides; losses and number of tokens seen."""
    data = AlignmentDataModule(model.paired.slides, **data_options, seed=model.seed)
    n_batches = data.dataset.n_batches
    plan = AlignmentPlan(model.module, model.optimizer, n_steps=trainer_options["max_epochs"] * n_batches)
    options = {
        "gradient_clip_val": model.optimizer.gradient_clip,
        "check_val_every_n_epoch": None,
        "log_every_n_steps": min(n_batches, 10),
        **trainer_options,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model.seed)
        model.module.train()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="You defined a `validation_step`")  # no spots are held out
            result = fit(plan, data, **options)
    model.module.eval()
    return result


def check_alignment_options(
    *, max_epochs: Any, batch_size: Any, negatives: Any, learning_rate: Any, num_workers: Any
) -> None:
    """Raise ``ValueError`` or ``TypeError`` for options that an aligner cannot be trained with."""
    _validate.check_positive("max_epochs", max_epochs)
    _validate.check_positive("batch_size", batch_size, smallest=2)
    _validate.check_positive("num_workers", num_workers, smallest=0)
    _validate.check_choice("negatives", negatives, NEGATIVES)
    if learning_rate is not None:
        _validate.check_range("learning_rate", learning_rate, 0, 1)
