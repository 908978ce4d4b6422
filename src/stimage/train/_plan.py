from __future__ import annotations

import lightning
import numpy as np
import torch
from torchmetrics import MeanMetric

from stimage.modules import MaskedAutoencoder, SpotAutoencoder
from stimage.train._optimizer import OptimizerConfig, adamw_with_cosine
from stimage.train._processes import n_processes, sum_over_processes


class MaskedTrainingPlan(lightning.LightningModule):
    """Trains a :class:`stimage.modules.MaskedAutoencoder` on windows, or the autoencoder of another sample unit.

    The loss of a batch is a mean over its hidden values. A batch may be in parts: one for each process of a training on
    many devices, and ``accumulate_grad_batches`` one after the other. Sums and counts are added up over the parts, so that
    the gradient is that of the whole batch however it was divided.

    Parameters
    ----------
    module
        The autoencoder, with a method ``loss_terms``.
    optimizer
        How it is optimised.
    n_steps
        Steps of the whole training, for the schedule.
    seed
        Seed of dropout. PyTorch's random numbers are set at the start of each epoch, from it, the epoch and the process:
        a training that is resumed goes on as if it had not stopped.

    Examples
    --------
    >>> from stimage.modules import AutoencoderConfig, MaskedAutoencoder
    >>> from stimage.train import MaskedTrainingPlan, OptimizerConfig
    >>> module = MaskedAutoencoder(100, AutoencoderConfig(dim=16))
    >>> plan = MaskedTrainingPlan(module, OptimizerConfig(), n_steps=10)
    >>> plan.configure_optimizers()["lr_scheduler"]["interval"]
    'step'
    """

    def __init__(
        self, module: MaskedAutoencoder | SpotAutoencoder, optimizer: OptimizerConfig, *, n_steps: int, seed: int = 0
    ) -> None:
        super().__init__()
        self.n_steps = n_steps
        self.seed = seed
        self.module = module
        self.optimizer = optimizer
        self._counts: list[torch.Tensor] = []
        # Lightning's own means round the number of windows where the parts of a batch differ in size.
        self.train_loss, self.validation_loss = MeanMetric(), MeanMetric()

    def on_train_epoch_start(self) -> None:
        """Set the random numbers of the epoch."""
        key = np.random.SeedSequence([self.seed, self.current_epoch, self.global_rank])
        torch.manual_seed(int(key.generate_state(1)[0]))

    def training_step(self, batch: dict[str, torch.Tensor], batch_index: int) -> dict[str, torch.Tensor]:
        """Loss of this process's part of a batch of windows, and that of the whole batch."""
        total, count, joint_loss = self._loss(batch)
        self.train_loss.update(joint_loss, weight=len(batch["genes"]))
        self.log("train_loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        tokens = batch["observed"].sum().float()
        self.log("train_tokens", tokens, on_step=False, on_epoch=True, reduce_fx="sum", sync_dist=True)
        # All parts that are accumulated are divided by the count of the first, until the counts of all are known.
        self._counts.append(count)
        # Processes average their gradients, which belong to parts of a sum.
        return {"loss": total * n_processes() / self._counts[0], "joint_loss": joint_loss}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide a gradient that was accumulated by the count of all its parts."""
        counts, self._counts = self._counts, []
        if self.trainer.accumulate_grad_batches > 1:
            # Lightning has divided by the number of parts that a step usually has.
            factor = self.trainer.accumulate_grad_batches * counts[0] / torch.stack(counts).sum()
            for parameter in self.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient; Lightning itself refuses to with one kernel for all weights and ``bf16-mixed``."""
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
        else:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def validation_step(self, batch: dict[str, torch.Tensor], batch_index: int) -> None:
        """Loss of a batch of held-out windows."""
        self.validation_loss.update(self._loss(batch)[2], weight=len(batch["genes"]))
        self.log("validation_loss", self.validation_loss, on_epoch=True, prog_bar=True)

    def _loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sum of the errors of this process's windows, count of all processes' hidden values, and loss of the batch."""
        total, count = self.module.loss_terms(batch)
        joint_total, joint_count = sum_over_processes(torch.stack([total, count.to(total.dtype)]))
        joint_count = joint_count.clamp(min=1)
        return total, joint_count.to(total.dtype), (joint_total / joint_count).to(total.dtype)

    def configure_optimizers(self) -> dict:
        """AdamW and its schedule, stepped after every batch."""
        decayed, plain = [], []
        for name, parameter in self.module.named_parameters():
            is_matrix = parameter.dim() > 1 and not name.endswith("embedding")
            (decayed if is_matrix else plain).append(parameter)
        config = self.optimizer
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        return adamw_with_cosine(
            groups,
            learning_rate=config.learning_rate,
            n_warmup=max(round(config.warmup * self.n_steps), 1),
            n_steps=self.n_steps,
            fused=self._can_fuse(),
        )

    def _can_fuse(self) -> bool | None:
        """One kernel updates all weights, but not with 16-bit floats, whose gradients it would scale itself."""
        fusing = all(parameter.device.type in ("cpu", "cuda") for parameter in self.module.parameters())
        return True if fusing and not (self._trainer and self.trainer.precision == "16-mixed") else None
