from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from stimage.data import WindowDataModule
from stimage.models._fit import fit
from stimage.models._options import check_training_options
from stimage.models._readout import Readout
from stimage.train import MaskedTrainingPlan


class TrainMixin:
    """Training of a model that owns a corpus, a module and a way to cut windows."""

    def train(
        self,
        max_epochs: int = 40,
        *,
        batch_size: int = 32,
        windows_per_epoch: int | None = None,
        learning_rate: float | None = None,
        validation_size: float | None = None,
        early_stopping: bool = False,
        accelerator: str = "auto",
        devices: int | str | list[int] = "auto",
        num_workers: int = 0,
        **trainer_kwargs: Any,
    ) -> None:
        """Train on random windows with scvi-tools' trainer.

        Parameters
        ----------
        max_epochs
            Number of epochs.
        batch_size
            Windows in a batch.
        windows_per_epoch
            Windows in an epoch. By default so many that each site is in about eight of them, at least two batches.
        learning_rate
            Highest learning rate. By default what the preset says.
        validation_size
            Share held out for validation, spatially separate: whole slides when there are five or more, else a block of
            each slide with a buffer of a window's width around it that training does not use either. By default 0, and
            0.1 with early stopping.
        early_stopping
            Stop when the validation loss no longer falls.
        accelerator, devices
            Where to train, as in Lightning.
        num_workers
            Processes that prepare windows. Results do not depend on it.
        trainer_kwargs
            Passed on to :class:`scvi.train.Trainer`.

        Returns
        -------
        None
            Fills :attr:`history` with a data frame per logged quantity (``train_loss``, ``validation_loss``), and adds to
            :attr:`n_tokens_seen` the number of spots with data that went through the model, repeated ones included.

        Raises
        ------
        ValueError
            If early stopping is asked for without validation, or the slides are too small to hold out a block.
        """
        check_training_options(
            max_epochs=max_epochs,
            batch_size=batch_size,
            windows_per_epoch=windows_per_epoch,
            learning_rate=learning_rate,
            validation_size=validation_size,
            early_stopping=early_stopping,
            num_workers=num_workers,
        )
        if validation_size is None:
            validation_size = 0.1 if early_stopping else 0.0
        corpus = self._corpus_for(None)
        if windows_per_epoch is None:
            n_active = sum(int(slide.active.sum()) for slide in corpus)
            windows_per_epoch = max(round(8 * n_active / self.spec.window**2), 2 * batch_size)
        data = WindowDataModule(
            corpus,
            self.spec,
            batch_size=batch_size,
            windows_per_epoch=windows_per_epoch,
            validation_size=validation_size,
            num_workers=num_workers,
            seed=self.seed,
            unit=self.unit,
        )
        if learning_rate is not None:
            self.optimizer = replace(self.optimizer, learning_rate=learning_rate)
        n_batches = math.ceil(windows_per_epoch / batch_size)
        plan = MaskedTrainingPlan(self.module, self.optimizer, n_steps=max_epochs * n_batches)
        options = {
            "max_epochs": max_epochs,
            "accelerator": accelerator,
            "devices": devices,
            "gradient_clip_val": self.optimizer.gradient_clip,
            "early_stopping": early_stopping,
            "early_stopping_monitor": "validation_loss",
            "check_val_every_n_epoch": 1 if validation_size else None,
            "log_every_n_steps": min(n_batches, 10),
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.module.train()
            self.history, n_tokens = fit(plan, data, **{**options, **trainer_kwargs})
        self.n_tokens_seen += n_tokens
        self.module.eval()
        self.is_trained = True
        self.readout = None
        if self.unit.name == "patch" and self.spec.masking != "site_gene":
            self.fit_readout()

    def fit_readout(self) -> None:
        """Fit scales and codes of the combined embedding on the training slides; :meth:`train` does so at its end.

        Raises
        ------
        ValueError
            If the model was loaded without slides.
        """
        if self.corpus is None:
            raise ValueError(
                "The combined embedding of an untrained model is fitted on the slides that it was built with, and this one "
                "was loaded without any: pass `data` to `STImage.load`, or another `mode`."
            )
        self.readout = Readout.fit(
            self.module,
            list(self.corpus),
            tile_size=2 * self.spec.window,
            n_repeats=3,
            batch_size=32,
            seed=self.seed,
        )
