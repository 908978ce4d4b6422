"""AdamW with linear warm-up and cosine decay, of both training plans."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from stimage import _validate


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

    Raises
    ------
    TypeError, ValueError
        If a value is invalid.

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

    def __post_init__(self) -> None:
        _check_optimizer(self, [self.weight_decay])


@dataclass(frozen=True)
class AlignmentOptimizerConfig:
    """How an aligner is optimised: AdamW with linear warm-up, cosine decay to zero and rising weight decay.

    Parameters
    ----------
    learning_rate
        Highest learning rate.
    weight_decay
        Weight decay of matrices at the start and at the end of training, half a cosine in between; biases, norms and
        the temperature have none.
    warmup
        Share of the steps in which the learning rate rises.
    gradient_clip
        Largest norm of the gradient.

    Raises
    ------
    TypeError, ValueError
        If a value is invalid.

    Examples
    --------
    >>> from stimage.train import AlignmentOptimizerConfig
    >>> AlignmentOptimizerConfig(learning_rate=1e-4).weight_decay
    (0.04, 0.4)
    """

    learning_rate: float = 5e-4
    weight_decay: tuple[float, float] = (0.04, 0.4)
    warmup: float = 0.02
    gradient_clip: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.weight_decay, tuple) or len(self.weight_decay) != 2:
            raise ValueError(f"`weight_decay` must be a pair of numbers, found {self.weight_decay!r}.")
        _check_optimizer(self, self.weight_decay)


def _check_optimizer(config: OptimizerConfig | AlignmentOptimizerConfig, weight_decay: Iterable[float]) -> None:
    _validate.check_range("learning_rate", config.learning_rate, 0, 1)
    _validate.check_range("gradient_clip", config.gradient_clip, 0, math.inf)
    for name, value in [("warmup", config.warmup), *(("weight_decay", value) for value in weight_decay)]:
        _validate.check_share(name, value)


def half_cosine(progress: float) -> float:
    """From 1 to 0 as training goes on, and 0 from there."""
    return 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def adamw_with_cosine(
    groups: list[dict[str, Any]], *, learning_rate: float, n_warmup: int, n_steps: int, fused: bool | None = None
) -> dict[str, Any]:
    """AdamW and the schedule of its learning rate, stepped after every batch, as Lightning takes them.

    Parameters
    ----------
    groups
        Groups of parameters.
    learning_rate
        Highest learning rate.
    n_warmup
        Steps in which it rises.
    n_steps
        Steps of the whole training.
    fused
        Update all weights by one kernel.

    Returns
    -------
    dict
        What ``configure_optimizers`` returns.
    """
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, fused=fused)

    def factor(step: int) -> float:
        if step < n_warmup:
            return (step + 1) / n_warmup
        return half_cosine((step - n_warmup) / max(n_steps - n_warmup, 1))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
