from __future__ import annotations

import math
import warnings
from dataclasses import asdict, replace
from os import PathLike
from typing import Any

import torch

from stimage.data import DeviceWindowDataModule, WindowDataModule, site_limits
from stimage.data.sampling._window_checks import window_concerns
from stimage.models._fit import fit
from stimage.models._options import Sampling, check_training_options, decisive_options
from stimage.models._readout import Readout
from stimage.train import MaskedTrainingPlan, TrainingCheckpoints, from_first_process, is_first_process


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
        precision: str = "32-true",
        accumulate_grad_batches: int = 1,
        sampling: Sampling = "cpu",
        num_workers: int = 0,
        checkpoint_dir: str | PathLike[str] | None = None,
        checkpoint_every_n_epochs: int = 1,
        **trainer_kwargs: Any,
    ) -> None:
        """Train on random windows with scvi-tools' trainer.

        Parameters
        ----------
        max_epochs
            Number of epochs.
        batch_size
            Windows in a batch, of all devices together.
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
            Where to train, as in Lightning; ``"auto"`` is one device, and with torchrun or srun those that they started.
        precision
            ``"32-true"``, or ``"bf16-mixed"``: matrix products with 16 bits, for GPUs that are fast at it.
        accumulate_grad_batches
            Batches in a step of the optimiser, whose gradient is that of one batch of their joint size.
        sampling
            Where windows are cut: ``"cpu"``, or ``"device"``, where the model is trained and the expression of all slides
            is then kept, in half precision. Faster on a GPU. The windows are others for a seed, of the same distribution.
        num_workers
            Processes that prepare windows ahead on the CPU. Results do not depend on it.
        checkpoint_dir
            Folder for checkpoints. If it has some of this very training, training goes on from the last: run again after an
            interruption, the same call ends as if it had never stopped. See the guide to clusters.
        checkpoint_every_n_epochs
            Epochs between checkpoints; the last epoch always has one.
        trainer_kwargs
            Passed on to :class:`scvi.train.Trainer`, e.g. ``strategy="ddp"`` and ``num_nodes``.

        Returns
        -------
        None
            Fills :attr:`history` with a data frame per logged quantity (``train_loss``, ``validation_loss``), and adds to
            :attr:`n_tokens_seen` the number of spots with data that went through the model, repeated ones included.

        Raises
        ------
        ValueError
            If early stopping is asked for without validation, the slides are too small to hold out a block, a batch has fewer
            windows than there are devices, ``checkpoint_dir`` holds another training, or spots or neighbourhoods are to be
            sampled on a device.
        FloatingPointError
            If the loss is no longer finite. The error names the step, its windows and the file that they were written to.
        OSError
            If a checkpoint cannot be written; those before it are whole.

        Warns
        -----
        UserWarning
            Once, before anything is trained, if slides have fewer than 16 places for a window, none with enough data or none
            at all, or if ``masking`` often cannot hide a region; with numbers, and what to do.
        """
        check_training_options(
            max_epochs=max_epochs,
            batch_size=batch_size,
            windows_per_epoch=windows_per_epoch,
            learning_rate=learning_rate,
            validation_size=validation_size,
            early_stopping=early_stopping,
            precision=precision,
            accumulate_grad_batches=accumulate_grad_batches,
            sampling=sampling,
            unit=self.unit,
            num_workers=num_workers,
            checkpoint_dir=checkpoint_dir,
            checkpoint_every_n_epochs=checkpoint_every_n_epochs,
        )
        if validation_size is None:
            validation_size = 0.1 if early_stopping else 0.0
        corpus = self._corpus_for(None)
        if windows_per_epoch is None:
            n_active = sum(int(slide.active.sum()) for slide in corpus)
            windows_per_epoch = max(round(8 * n_active / self.spec.window**2), 2 * batch_size)
        data = (DeviceWindowDataModule if sampling == "device" else WindowDataModule)(
            corpus,
            self.spec,
            batch_size=batch_size,
            windows_per_epoch=windows_per_epoch,
            validation_size=validation_size,
            num_workers=num_workers,
            seed=self.seed,
            unit=self.unit,
        )
        if self.unit.name == "patch" and is_first_process():
            concerns = window_concerns(data.training_slides, self.spec)
            if concerns:
                warnings.warn(" ".join(concerns), UserWarning, stacklevel=2)
        if learning_rate is not None:
            self.optimizer = replace(self.optimizer, learning_rate=learning_rate)
        n_batches = math.ceil(windows_per_epoch / batch_size)
        n_steps = max_epochs * math.ceil(n_batches / accumulate_grad_batches)
        plan = MaskedTrainingPlan(self.module, self.optimizer, n_steps=n_steps, seed=self.seed)
        options = {
            "max_epochs": max_epochs,
            "accelerator": accelerator,
            "devices": devices,
            "precision": precision,
            "accumulate_grad_batches": accumulate_grad_batches,
            "gradient_clip_val": self.optimizer.gradient_clip,
            "early_stopping": early_stopping,
            "check_val_every_n_epoch": 1 if validation_size else None,
            "log_every_n_steps": min(n_batches, 10),
            **trainer_kwargs,
        }
        checkpoints = None
        if checkpoint_dir is not None:
            decisive = self._start() | decisive_options(
                options,
                batch_size=batch_size,
                windows_per_epoch=windows_per_epoch,
                validation_size=validation_size,
                sampling=sampling,
            )
            checkpoints = TrainingCheckpoints(checkpoint_dir, decisive, every_n_epochs=checkpoint_every_n_epochs)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.module.train()
            # Shapes that are known beforehand: a device never waits for the processor to ask how many sites are hidden.
            self.module.site_limits = site_limits(self.spec) if sampling == "device" else None
            self.history, n_tokens = fit(plan, data, checkpoints=checkpoints, **options)
        self.n_tokens_seen += n_tokens
        self.module.eval()
        self.is_trained = True
        self.readout = None
        if self.unit.name == "patch" and self.spec.masking != "site_gene":
            # Once, and not in every process: they may differ in the last digits.
            self.readout = from_first_process(self._fitted_readout)

    def _start(self) -> dict[str, Any]:
        """What a training starts from, for its checkpoints; JSON-compatible."""
        slides = self.manifest["slides"]
        return {
            "model": type(self).__name__,
            "seed": self.seed,
            "spec": asdict(self.spec),
            "unit": asdict(self.unit),
            "autoencoder": asdict(self.autoencoder),
            "optimizer": asdict(self.optimizer),
            "target_sum": self.target_sum,
            "vocabulary_sha256": self.manifest["vocabulary_sha256"],
            "adapted_from": self.manifest.get("adapted_from", ""),
            "n_tokens_seen": self.n_tokens_seen,
            "n_slides": len(slides),
            "slides": dict(zip(slides["name"], slides["counts_sha256"], strict=True)),
        }

    def fit_readout(self) -> None:
        """Fit scale and codes of the context embedding on the training slides; :meth:`train` does so at its end.

        Raises
        ------
        ValueError
            If the model was loaded without slides.
        """
        if self.corpus is None:
            raise ValueError(
                "Scale and codes of the context embedding are fitted on the slides that a model was built with, and this one "
                "was loaded without any: pass `data` to `STImage.load`, or `mode='visible'`."
            )
        self.readout = self._fitted_readout()

    def _fitted_readout(self) -> Readout:
        options = {"tile_size": 2 * self.spec.window, "batch_size": 32, "seed": self.seed}
        return Readout.fit(self.module, list(self.corpus), **options)
