from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import lightning
import pandas as pd
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment

from stimage.train import FiniteLoss, LossHistory, TrainingCheckpoints

EARLY_STOPPING = {"min_delta": 0.0, "patience": 45, "warmup_epochs": 0, "mode": "min"}
"""Defaults of scvi-tools' trainer."""


class Fitted(NamedTuple):
    """What a training leaves beside the weights."""

    losses: dict[str, pd.DataFrame]
    """A data frame for each loss that was logged."""
    n_tokens: int
    """Tokens seen."""
    device: torch.device
    """Where this process trained; the module is back on the CPU."""


def fit(
    plan: lightning.LightningModule,
    data: lightning.LightningDataModule,
    *,
    checkpoints: TrainingCheckpoints | None = None,
    early_stopping: bool = False,
    **options: Any,
) -> Fitted:
    """Train with scvi-tools' trainer and return the losses that it logged, the number of tokens seen and the device.

    Parameters
    ----------
    plan
        What to train.
    data
        What to train on.
    checkpoints
        Where checkpoints are written, and from which training resumes.
    early_stopping
        Stop when ``validation_loss`` no longer falls.
    options
        Arguments of :class:`scvi.train.Trainer`.

    Raises
    ------
    KeyboardInterrupt
        If training was stopped by Ctrl-C.
    """
    history = LossHistory()
    callbacks = [
        *options.pop("callbacks", []),
        *_early_stopping(early_stopping, options),
        FiniteLoss(None if checkpoints is None else checkpoints.directory),
        history,
        *([] if checkpoints is None else [checkpoints]),
    ]
    with _without_noise(), _interruptible():
        trainer = make_trainer(callbacks=callbacks, **options)
        if checkpoints is None:
            trainer.fit(plan, data)
        else:
            checkpoints.fit(trainer, plan, data)
    losses = {
        name: pd.DataFrame({name: list(values.values())}, index=pd.Index(list(values), name="epoch"))
        for name, values in history.losses.items()
    }
    return Fitted(losses, history.n_tokens, trainer.strategy.root_device)


def make_trainer(*, devices: int | str | list[int], **options: Any) -> lightning.Trainer:
    """scvi-tools' trainer; by itself it takes one device, or those that torchrun or srun started processes for.

    Raises
    ------
    ValueError
        If it would start processes that the losses do not come back from.
    """
    from scvi.train import Trainer

    if devices == "auto" and not _was_launched():
        devices = 1
    # Lightning's own way to share windows among processes repeats some, and scvi-tools' default logger writes to the disk.
    options = {"use_distributed_sampler": False, "logger": False, **options}
    if _by_srun():
        # Lightning's own way to requeue a job goes on from the middle of an epoch, and unpickles what it finds.
        options.setdefault("plugins", [SLURMEnvironment(auto_requeue=False)])
    elif SLURMEnvironment.detect() and not TorchElasticEnvironment.detect():
        # A job without srun is one process, whatever number of tasks its variables say, and would wait for the others.
        options.setdefault("plugins", [LightningEnvironment()])
    trainer = Trainer(devices=devices, **options)
    if type(trainer.strategy.launcher).__module__.endswith("launchers.multiprocessing"):
        raise ValueError(
            f"{trainer.world_size} devices cannot be used from a notebook or with `strategy={options.get('strategy')!r}`: run "
            "a script with `strategy='ddp'`, or pass `devices=1`."
        )
    return trainer


def _was_launched() -> bool:
    """Whether torchrun or srun started several processes of this script."""
    if _by_srun():
        return SLURMEnvironment().world_size() > 1
    return TorchElasticEnvironment.detect() and TorchElasticEnvironment().world_size() > 1


def _by_srun() -> bool:
    """Whether srun started this process, which numbers its steps; a batch script and an interactive job have none."""
    return SLURMEnvironment.detect() and bool({"SLURM_STEP_ID", "SLURM_STEPID"} & set(os.environ))


def _early_stopping(wanted: bool, options: dict[str, Any]) -> list[lightning.Callback]:
    """The callback, with the arguments of the trainer that are meant for it, which are taken out."""
    from scvi.train import LoudEarlyStopping

    chosen = {name: options.pop(f"early_stopping_{name}", default) for name, default in EARLY_STOPPING.items()}
    monitor = options.pop("early_stopping_monitor", "validation_loss")
    # At the end of validation: a checkpoint, written at the end of the epoch, must know of it.
    return [LoudEarlyStopping(monitor=monitor, check_on_train_epoch_end=False, **chosen)] if wanted else []


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C be what it is: Lightning makes of it an exit from Python, which no caller expects."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as stop:
        if not isinstance(stop.__context__, KeyboardInterrupt):
            raise
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGINT, handler)


@contextmanager
def _without_noise() -> Iterator[None]:
    """Silence what Lightning says that a user can do nothing about; warnings that help remain."""

    def keep(record: logging.LogRecord) -> bool:
        return "Tip:" not in record.getMessage()

    # Lightning logs through the module that calls, so that the filter belongs on the handlers of its root.
    handlers = logging.getLogger("lightning.pytorch").handlers
    for handler in handlers:
        handler.addFilter(keep)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
            # Windows are cut in milliseconds: more workers would not help where a GPU is not waiting for them.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            # It is not: scvi-tools does so, here every process sees the same validation loss.
            warnings.filterwarnings("ignore", message="early_stopping was automatically disabled")
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(keep)
