from __future__ import annotations

import math
from dataclasses import dataclass

import lightning
import torch

from stimage.modules import MaskedAutoencoder, SpotAutoencoder


@dataclass(frozen=True)
class OptimizerConfig:
    """How a model is optimised: AdamW with linear warm-up and cosine decay to zero.

    Parameters
    ----------
    learning_rate
        Highest learning rate.
    weight_decay
        Weight decay of matrices; biases, norms and the gene embeddings have none.
    warmup
        Share of the steps in which the learning rate rises.
    gradient_clip
        Largest norm of the gradient.

    Examples
    --------
    >>> from stimage.train import OptimizerConfig
    >>> OptimizerConfig(learning_rate=1e-4).weight_decay
    0.01
    """

    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    warmup: float = 0.05
    gradient_clip: float = 1.0


class MaskedTrainingPlan(lightning.LightningModule):
    """Trains a :class:`stimage.modules.MaskedAutoencoder` on windows, or the autoencoder of another sample unit.

    Parameters
    ----------
    module
        The autoencoder, with a method ``loss``.
    optimizer
        How it is optimised.
    n_steps
        Steps of the whole training, for the schedule.

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
        self, module: MaskedAutoencoder | SpotAutoencoder, optimizer: OptimizerConfig, *, n_steps: int
    ) -> None:
        super().__init__()
        self.n_steps = n_steps
        self.module = module
        self.optimizer = optimizer

    def training_step(self, batch: dict[str, torch.Tensor], batch_index: int) -> torch.Tensor:
        """Loss of a batch of windows."""
        loss = self.module.loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(batch["genes"]))
        tokens = batch["observed"].sum().float()
        self.log("train_tokens", tokens, on_step=False, on_epoch=True, reduce_fx="sum", sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, torch.Tensor], batch_index: int) -> None:
        """Loss of a batch of held-out windows."""
        loss = self.module.loss(batch)
        self.log("validation_loss", loss, on_epoch=True, prog_bar=True, batch_size=len(batch["genes"]))

    def configure_optimizers(self) -> dict:
        """AdamW and its schedule, stepped after every batch."""
        decayed, plain = [], []
        for name, parameter in self.module.named_parameters():
            is_matrix = parameter.dim() > 1 and not name.endswith("embedding")
            (decayed if is_matrix else plain).append(parameter)
        config = self.optimizer
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=config.learning_rate)
        n_warmup = max(round(config.warmup * self.n_steps), 1)

        def factor(step: int) -> float:
            if step < n_warmup:
                return (step + 1) / n_warmup
            return 0.5 * (1 + math.cos(math.pi * min((step - n_warmup) / max(self.n_steps - n_warmup, 1), 1.0)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
