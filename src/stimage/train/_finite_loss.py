from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from stimage.data import JointBatchSampler


class FiniteLoss(lightning.Callback):
    """Stops training when the loss is NaN or infinite, and keeps the batch at which it became so.

    On a GPU the loss of a step is looked at after the next step was started, and that of the last step of an epoch at its
    end: the GPU is not kept waiting. At the end of an epoch the weights are looked at too, since they may break after the
    last loss.

    Parameters
    ----------
    directory
        Where to write the batch; a new folder among the temporary files when ``None``.

    Examples
    --------
    >>> import torch
    >>> from stimage.train import FiniteLoss
    >>> FiniteLoss(None).directory is None
    True
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory = directory
        self._waiting: _Step | None = None

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: dict[str, torch.Tensor],
        batch: dict[str, torch.Tensor],
        batch_idx: int,
    ) -> None:
        """Look at the loss of this step, on a GPU at that of the step before.

        Raises
        ------
        FloatingPointError
            If it is not finite.
        """
        loss = outputs.get("joint_loss", outputs["loss"]).detach()
        step = _Step(trainer.global_step, trainer.current_epoch, batch_idx, batch)
        if loss.device.type == "cuda":
            step.loss = torch.empty((), dtype=loss.dtype, pin_memory=True)
            step.loss.copy_(loss, non_blocking=True)
            step.copied = torch.cuda.Event()
            step.copied.record()
            step, self._waiting = self._waiting, step
        else:
            step.loss = loss
        self._check(step, trainer)

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Look at the last loss of the epoch and at the weights.

        Raises
        ------
        FloatingPointError
            If they are not finite.
        """
        step, self._waiting = self._waiting, None
        self._check(step, trainer)
        broken = [name for name, value in pl_module.named_parameters() if not value.isfinite().all()]
        if broken:
            raise FloatingPointError(
                f"After step {trainer.global_step} (epoch {trainer.current_epoch}) weights are not finite, e.g. "
                f"{broken[0]!r}: lower `learning_rate`. No checkpoint of this state was written."
            )

    def _check(self, step: _Step | None, trainer: lightning.Trainer) -> None:
        if step is None:
            return
        if step.copied is not None:
            step.copied.synchronize()
        if not step.loss.isfinite():
            raise FloatingPointError(
                f"The loss is {float(step.loss)} at step {step.number} (epoch {step.epoch}, {_windows(step, trainer)}): "
                f"lower `learning_rate`, or look for infinite values in the slides. {self._save(step, trainer)} No checkpoint "
                "of this state was written."
            )

    def _save(self, step: _Step, trainer: lightning.Trainer) -> str:
        """Write the batch and say where it is."""
        directory = Path(tempfile.mkdtemp(prefix="stimage-")) if self.directory is None else self.directory
        path = directory / f"nonfinite-step-{step.number}-process-{trainer.global_rank}.safetensors"
        tensors = {name: values.detach().cpu().contiguous() for name, values in step.batch.items()}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            save_file(tensors, path)
        except (OSError, SafetensorError) as error:
            return f"The batch could not be saved in {str(path)!r} ({error})."
        return f"The batch was saved in {str(path)!r}."


@dataclass
class _Step:
    number: int
    epoch: int
    batch_index: int
    batch: dict[str, Any]
    loss: torch.Tensor | None = None
    copied: torch.cuda.Event | None = None


def _windows(step: _Step, trainer: lightning.Trainer) -> str:
    """Which windows this process had in the step."""
    sampler = getattr(trainer.train_dataloader, "batch_sampler", None)
    if not isinstance(sampler, JointBatchSampler):
        return f"batch {step.batch_index}"
    return f"windows {', '.join(map(str, sampler.windows(step.batch_index)))}"
