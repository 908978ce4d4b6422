from __future__ import annotations

import sys
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


def part_of_process() -> slice:
    """Every how many-th item is this process's own, where all divide a list among them."""
    if n_processes() == 1:
        return slice(None)
    return slice(sys.modules["torch.distributed"].get_rank(), None, n_processes())


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


def of_first_process(value: Result) -> Result:
    """What the first process computed, where all have computed the same: the last digits may differ between machines.

    Nobody waits for long, since all come here at about the same time. Work that the first process did alone would keep the
    others waiting until they give up.

    Parameters
    ----------
    value
        What this process computed.

    Returns
    -------
    Result
        The value of the first process.

    Examples
    --------
    >>> from stimage.train import of_first_process
    >>> of_first_process([1, 2])
    [1, 2]
    """
    if n_processes() == 1:
        return value
    from torch import distributed

    box = [value]
    distributed.broadcast_object_list(box)
    return box[0]
