from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from stimage._files import sync_folder, write_durably
from stimage._paths import path_of
from stimage.train._processes import is_first_process

STATE = "state.pt"
ABOUT = "about.json"
FORMAT_VERSION = 1
N_KEPT = 2
"""Checkpoints that are kept: should the last be damaged, the one before it can be read."""
N_SHOWN = 5
"""Differences that an error names."""


@dataclass(frozen=True)
class Progress:
    """A training as its last checkpoint has it.

    Parameters
    ----------
    path
        Where it was read from.
    state
        What Lightning saved: weights, optimiser, schedule, epoch and losses.
    is_complete
        Whether the training had ended.
    """

    path: Path
    state: dict[str, Any]
    is_complete: bool


class TrainingCheckpoints(lightning.Callback):
    """Checkpoints of a training at the ends of epochs, from which it is resumed exactly.

    A checkpoint is a folder ``epoch-00012`` with the state of the training and a JSON file with its checksum and the
    options. It is written under another name, brought to the disk and renamed: a folder of that name is whole, whenever the
    process or the computer stops. The last two are kept. With many processes the first one writes.

    Parameters
    ----------
    directory
        Where to write; made when absent.
    options
        Everything that decides what is learned, JSON-compatible. A checkpoint of a training with other options is refused.
    every_n_epochs
        Epochs between checkpoints. The last epoch always has one.

    Examples
    --------
    >>> import tempfile
    >>> from stimage.train import TrainingCheckpoints
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     print(TrainingCheckpoints(directory, {"seed": 0}).latest())
    None
    """

    def __init__(self, directory: str | os.PathLike[str], options: dict[str, Any], *, every_n_epochs: int = 1) -> None:
        self.directory = path_of(directory)
        self.options = _flat(json.loads(json.dumps(options)))
        self.every_n_epochs = every_n_epochs

    def fit(
        self, trainer: lightning.Trainer, plan: lightning.LightningModule, data: lightning.LightningDataModule
    ) -> None:
        """Train from the last checkpoint, or from the start when there is none; a training that is complete is read only.

        Parameters
        ----------
        trainer
            The trainer, which has this among its callbacks.
        plan
            What to train.
        data
            What to train on.

        Raises
        ------
        ValueError
            As :meth:`latest`.
        """
        progress = self.latest()
        if progress is None:
            trainer.fit(plan, data)
        elif progress.is_complete:
            plan.load_state_dict(progress.state["state_dict"])
            for callback in trainer.callbacks:
                if callback.state_key in progress.state["callbacks"]:
                    callback.load_state_dict(progress.state["callbacks"][callback.state_key])
        else:
            trainer.strategy.checkpoint_io = _AlreadyRead(progress.state)
            path = str(progress.path)
            del progress  # the state is large, and not needed once it was loaded
            trainer.fit(plan, data, ckpt_path=path)

    def latest(self) -> Progress | None:
        """Read the last checkpoint that is whole.

        Returns
        -------
        Progress or None
            The training so far; ``None`` when there is no checkpoint yet.

        Raises
        ------
        ValueError
            If the checkpoints are of a training with other options, or none can be read.

        Warns
        -----
        UserWarning
            If the last is damaged and the one before it is taken.
        """
        found = sorted(self.directory.glob("epoch-*"), reverse=True)
        problems = []
        for path in found:
            try:
                progress = self._read(path)
            except _DamagedError as error:
                problems.append(f"{str(path)!r} ({error})")
                continue
            if problems:
                warnings.warn(
                    f"Training goes on from {str(path)!r}: damaged are {', '.join(problems)}.",
                    UserWarning,
                    stacklevel=2,
                )
            return progress
        if problems:
            raise ValueError(
                f"No checkpoint in `checkpoint_dir`={str(self.directory)!r} can be read: {', '.join(problems)}. Remove them, "
                "or pass another folder, to train from the start."
            )
        return None

    def _read(self, path: Path) -> Progress:
        try:
            about = json.loads((path / ABOUT).read_text(encoding="utf-8"))
            content = (path / STATE).read_bytes()
            version, options, checksum = about["format_version"], about["options"], about["state_sha256"]
        except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
            raise _DamagedError(f"{type(error).__name__}: {error}") from error
        if version != FORMAT_VERSION:
            raise ValueError(
                f"Checkpoint {str(path)!r} has format version {version!r:.50}, this version of stimage reads "
                f"{FORMAT_VERSION}: pass another `checkpoint_dir`."
            )
        if hashlib.sha256(content).hexdigest() != checksum:
            raise _DamagedError(f"the checksum of {STATE} does not match")
        differences = _differences(options, self.options)
        if differences:
            shown = "; ".join(differences[:N_SHOWN]) + ("; ..." if len(differences) > N_SHOWN else "")
            raise ValueError(
                f"`checkpoint_dir`={str(self.directory)!r} holds checkpoints of another training: {shown}. Pass the same data "
                "and options to go on with it, or another folder."
            )
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
            raise _DamagedError(f"{type(error).__name__}: {error}") from error
        return Progress(path, state, bool(about.get("is_complete")))

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """See that all processes go on from the same epoch.

        Raises
        ------
        RuntimeError
            If they found different checkpoints.
        """
        first = trainer.strategy.broadcast(trainer.current_epoch)
        if first != trainer.current_epoch:
            raise RuntimeError(
                f"Process {trainer.global_rank} goes on from epoch {trainer.current_epoch} and the first process from {first}: "
                f"`checkpoint_dir`={str(self.directory)!r} must be one folder that all processes see."
            )

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Write a checkpoint when it is time to.

        Raises
        ------
        OSError
            If it cannot be written, in every process; earlier checkpoints stay as they were.
        """
        n_epochs = trainer.current_epoch + 1
        is_complete = trainer.should_stop or n_epochs == trainer.max_epochs
        if n_epochs % self.every_n_epochs and not is_complete:
            return
        state = _state_of(trainer)
        problem = None
        if is_first_process():
            try:
                self._write(n_epochs, state, is_complete=is_complete)
            except OSError as error:
                problem = (error.errno, error.strerror or str(error), error.filename)
        problem = trainer.strategy.broadcast(problem)
        if problem is not None:
            number, reason, path = problem
            reason = f"The checkpoint of epoch {n_epochs} could not be written, those before it are whole: {reason}"
            raise OSError(number, reason, path)

    def _write(self, n_epochs: int, state: dict[str, Any], *, is_complete: bool) -> None:
        # Written to memory first: PyTorch's own writer does not say what went wrong with a file.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        about = {
            "format_version": FORMAT_VERSION,
            "n_epochs": n_epochs,
            "is_complete": is_complete,
            "state_sha256": hashlib.sha256(content).hexdigest(),
            "options": self.options,
        }
        target = self.directory / f"epoch-{n_epochs:05d}"
        self.directory.mkdir(parents=True, exist_ok=True)
        for leftover in self.directory.glob(".writing-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        scratch = self.directory / f".writing-{target.name}"
        try:
            scratch.mkdir()
            write_durably(scratch / STATE, content)
            write_durably(scratch / ABOUT, json.dumps(about, indent=1, sort_keys=True).encode())
            sync_folder(scratch)
            # There is one already only where it was damaged.
            shutil.rmtree(target, ignore_errors=True)
            os.replace(scratch, target)
            sync_folder(self.directory)
        except OSError:
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        for old in sorted(self.directory.glob("epoch-*"), reverse=True)[N_KEPT:]:
            shutil.rmtree(old, ignore_errors=True)


class _AlreadyRead(TorchCheckpointIO):
    """Gives Lightning a checkpoint that was read and checked, so that it unpickles nothing."""

    def __init__(self, state: dict[str, Any]) -> None:
        super().__init__()
        self.states = [state]

    def load_checkpoint(self, path: str | Path, *args: Any, **options: Any) -> dict[str, Any]:
        return self.states.pop()


class _KeptInMemory(TorchCheckpointIO):
    """Takes a checkpoint from Lightning and writes nothing."""

    state: dict[str, Any] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, *args: Any, **options: Any) -> None:
        self.state = checkpoint


def _state_of(trainer: lightning.Trainer) -> dict[str, Any] | None:
    """What Lightning saves of a training, in the first process; ``None`` in the others."""
    usual, kept = trainer.strategy.checkpoint_io, _KeptInMemory()
    trainer.strategy.checkpoint_io = kept
    try:
        trainer.save_checkpoint("nowhere")
    finally:
        trainer.strategy.checkpoint_io = usual
    return kept.state


class _DamagedError(Exception):
    """A checkpoint is not whole."""


def _flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested options by their dotted names."""
    flat = {}
    for name, value in options.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What differs between two sets of options, in words."""
    absent = object()

    def shown(value: Any) -> str:
        return "absent" if value is absent else f"{value!r:.40}"

    names = [*new, *(name for name in old if name not in new)]
    pairs = [(name, old.get(name, absent), new.get(name, absent)) for name in names]
    return [f"`{name}` was {shown(before)} and is {shown(now)}" for name, before, now in pairs if before != now]
