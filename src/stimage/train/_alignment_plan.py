from __future__ import annotations

import lightning
import torch

from stimage.modules import AlignmentBatch, SpotNicheAligner
from stimage.train._optimizer import AlignmentOptimizerConfig, adamw_with_cosine, half_cosine


class AlignmentPlan(lightning.LightningModule):
    """Trains a :class:`stimage.modules.SpotNicheAligner` on batches of spots and their niches.

    Parameters
    ----------
    module
        The aligner.
    optimizer
        How it is optimised.
    n_steps
        Steps of the whole training on one device, for the schedules.
    own_batches
        Whether each of several devices may have batches of its own, as when spots are compared within a slide.

    Examples
    --------
    >>> from stimage.modules import AlignerConfig, SpotNicheAligner
    >>> from stimage.train import AlignmentOptimizerConfig, AlignmentPlan
    >>> module = SpotNicheAligner(AlignerConfig(dim=16), n_spot_genes=50, n_niche_genes=50)
    >>> plan = AlignmentPlan(module, AlignmentOptimizerConfig(), n_steps=10)
    >>> round(plan.weight_decay_at(5), 2)
    0.22

    References
    ----------
    ST-Align, Section 4.1.
    """

    def __init__(
        self,
        module: SpotNicheAligner,
        optimizer: AlignmentOptimizerConfig,
        *,
        n_steps: int,
        own_batches: bool = False,
    ) -> None:
        super().__init__()
        self.n_steps = n_steps
        self.own_batches = own_batches
        self.module = module
        self.optimizer = optimizer

    def setup(self, stage: str) -> None:
        """Take as many steps fewer as there are devices, or refuse several.

        Raises
        ------
        ValueError
            If there are several without batches of their own: each would tell a spot apart from its own part of the batch
            only.
        """
        n_devices = self.trainer.world_size
        if n_devices == 1:
            return
        if not self.own_batches:
            raise ValueError(
                f"An aligner that compares spots of all slides is trained on one device, found {n_devices}: its loss compares "
                "all spots of a batch with each other. Pass `devices=1`, or `negatives='slide'`."
            )
        n_batches = self.n_steps // self.trainer.max_epochs
        if n_batches < n_devices:
            raise ValueError(f"An epoch has {n_batches} batches, fewer than {n_devices} devices: pass fewer `devices`.")
        self.n_steps = self.trainer.max_epochs * (n_batches // n_devices)

    def training_step(self, batch: AlignmentBatch | dict[str, torch.Tensor], batch_index: int) -> torch.Tensor:
        """Loss of a batch of spots and niches, an :class:`stimage.modules.AlignmentBatch` or its parts by name."""
        batch = _as_batch(batch)
        losses = self.module.loss(batch)
        for name, value in losses.items():
            shown = name == "loss"
            how = {"on_step": False, "on_epoch": True, "sync_dist": True}
            self.log(f"train_{name}", value, prog_bar=shown, batch_size=batch.n_spots, **how)
        self.log("train_tokens", float(batch.n_spots), on_step=False, on_epoch=True, reduce_fx="sum", sync_dist=True)
        return losses["loss"]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the weight decay of this step."""
        for group in optimizer.param_groups:
            if group["decays"]:
                group["weight_decay"] = self.weight_decay_at(self.global_step)

    def weight_decay_at(self, step: int) -> float:
        """Weight decay of matrices at a step: half a cosine from the first value to the last.

        Parameters
        ----------
        step
            Steps done before.

        Returns
        -------
        float
            Weight decay.
        """
        first, last = self.optimizer.weight_decay
        return last + (first - last) * half_cosine(step / self.n_steps)

    def configure_optimizers(self) -> dict:
        """AdamW and the schedule of its learning rate, stepped after every batch."""
        decayed, plain = [], []
        for parameter in self.module.parameters():
            if parameter.requires_grad:
                (decayed if parameter.dim() > 1 else plain).append(parameter)
        config = self.optimizer
        groups = [
            {"params": decayed, "weight_decay": config.weight_decay[0], "decays": True},
            {"params": plain, "weight_decay": 0.0, "decays": False},
        ]
        n_warmup = round(config.warmup * self.n_steps)
        return adamw_with_cosine(groups, learning_rate=config.learning_rate, n_warmup=n_warmup, n_steps=self.n_steps)


def _as_batch(batch: AlignmentBatch | dict[str, torch.Tensor]) -> AlignmentBatch:
    """Data sets, which know no module, give the parts of a batch by name."""
    return batch if isinstance(batch, AlignmentBatch) else AlignmentBatch(**batch)
