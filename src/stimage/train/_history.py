from __future__ import annotations

from typing import Any

import lightning


class LossHistory(lightning.Callback):
    """Losses of each epoch and the number of tokens, the same in every process; a checkpoint holds them.

    Examples
    --------
    >>> from stimage.train import LossHistory
    >>> history = LossHistory()
    >>> history.load_state_dict({"losses": {"train_loss": {0: 0.5, 1: 0.25}}, "n_tokens": 1024})
    >>> history.losses["train_loss"][1], history.n_tokens
    (0.25, 1024)
    """

    def __init__(self) -> None:
        self.losses: dict[str, dict[int, float]] = {}
        self.n_tokens = 0

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Note the losses of the validation windows."""
        if not trainer.sanity_checking:
            self._note(trainer, "validation")

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Note the losses of the epoch."""
        self._note(trainer, "train")
        self.n_tokens += round(float(trainer.callback_metrics["train_tokens"]))

    def _note(self, trainer: lightning.Trainer, stage: str) -> None:
        for name, value in trainer.callback_metrics.items():
            if name.startswith(stage) and name.endswith("_loss"):
                self.losses.setdefault(name, {})[trainer.current_epoch] = float(value)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"losses": self.losses, "n_tokens": self.n_tokens}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.losses = state_dict["losses"]
        self.n_tokens = state_dict["n_tokens"]
