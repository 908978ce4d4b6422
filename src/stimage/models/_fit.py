from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning
import pandas as pd


def fit(
    plan: lightning.LightningModule, data: lightning.LightningDataModule, **options: Any
) -> tuple[dict[str, pd.DataFrame], int]:
    """Train with scvi-tools' trainer and return a data frame for each loss that it logged, and the number of tokens seen.

    Parameters
    ----------
    plan
        What to train.
    data
        What to train on.
    options
        Arguments of :class:`scvi.train.Trainer`.
    """
    from scvi.train import Trainer

    with _without_noise():
        trainer = Trainer(**options)
        trainer.fit(plan, data)
    logged = trainer.logger.history
    losses = {name: logged[name].astype(float) for name in logged if name.endswith("_loss")}
    return losses, round(float(logged["train_tokens"].to_numpy(dtype=float).sum()))


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
            yield
    finally:
        for handler in handlers:
            handler.removeFilter(keep)
