from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

Result = TypeVar("Result")


def n_processes() -> int:
    """Number of processes that train together, 1 where no training on many devices was started."""
    # Where torch was never loaded, nothing trains: it need not be loaded to say so.
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return 1
    return distributed.get_world_size()


def is_first_process() -> bool:
    """Whether this is the process that writes files: the first of a training on many devices, or the only one.

    Returns
    -------
    bool
        True also where no training on many devices was started.

    Examples
    --------
    >>> from stimage.train import is_first_process
    >>> is_first_process()
    True
    """
    return n_processes() == 1 or sys.modules["torch.distributed"].get_rank() == 0


def sum_over_processes(values: torch.Tensor) -> torch.Tensor:
    """Sum of a small tensor over all processes, without a gradient.

    Parameters
    ----------
    values
        The tensor, of the same shape in every process.

    Returns
    -------
    torch.Tensor
        The sum, float64 where there are several processes.
    """
    if n_processes() == 1:
        return values.detach()
    from torch import distributed

    values = values.detach().double()
    distributed.all_reduce(values)
    return values


def from_first_process(compute: Callable[[], Result]) -> Result:
    """Compute something once, and give it to every process.

    Parameters
    ----------
    compute
        What to call in the first process.

    Returns
    -------
    Result
        What it returned there.
    """
    if n_processes() == 1:
        return compute()
    from torch import distributed

    box = [compute() if is_first_process() else None]
    distributed.broadcast_object_list(box)
    return box[0]
