from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """Window numbers of an epoch: every epoch gets new ones. Lightning calls ``set_epoch``.

    Parameters
    ----------
    n_windows
        Windows in an epoch.
    fixed
        Every epoch gets the same windows instead, as validation does.
    rank, n_processes
        Which of several processes this is, each of which takes every how many-th; those at the end that do not go round
        are left out.

    Examples
    --------
    >>> from stimage.data import EpochSampler
    >>> sampler = EpochSampler(3)
    >>> sampler.set_epoch(2)
    >>> list(sampler)
    [6, 7, 8]
    """

    def __init__(self, n_windows: int, *, fixed: bool = False, rank: int = 0, n_processes: int = 1) -> None:
        self.n_windows = n_windows
        self.fixed = fixed
        self.rank = rank
        self.n_processes = n_processes
        self.epoch = 0

    @property
    def numbers(self) -> range:
        """The window numbers of the epoch."""
        start = 0 if self.fixed else self.epoch * self.n_windows
        return range(start + self.rank, start + len(self) * self.n_processes, self.n_processes)

    def set_epoch(self, epoch: int) -> None:
        """Move on to another epoch's windows."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n_windows // self.n_processes

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)


class JointBatchSampler(Sampler[list[int]]):
    """One process's part of every batch, where a batch is what all processes see together in a step.

    The parts of a batch are runs of its window numbers that differ in length by one at most. No window is in two parts
    and none is left out. A last batch with fewer windows than there are processes joins the one before it, so that
    every process has a window in every batch; with one process batches are those of a plain loader.

    Parameters
    ----------
    sampler
        Window numbers of an epoch of all processes together; Lightning calls its ``set_epoch``.
    batch_size
        Windows in a batch of all processes together.
    rank
        Which process this is.
    n_processes
        Number of processes.

    Raises
    ------
    ValueError
        If a batch or the epoch has fewer windows than there are processes.

    Examples
    --------
    >>> from stimage.data import EpochSampler, JointBatchSampler
    >>> [list(JointBatchSampler(EpochSampler(9), 5, rank=rank, n_processes=2)) for rank in (0, 1)]
    [[[0, 1], [5, 6]], [[2, 3, 4], [7, 8]]]
    """

    def __init__(self, sampler: EpochSampler, batch_size: int, *, rank: int = 0, n_processes: int = 1) -> None:
        for name, size in (("batch_size", batch_size), ("windows_per_epoch", len(sampler))):
            if size < n_processes:
                raise ValueError(
                    f"`{name}`={size} is less than the {n_processes} devices that share a batch: pass at least "
                    f"`{name}={n_processes}`, or train on fewer devices."
                )
        self.sampler = sampler
        self.batch_size = batch_size
        self.rank = rank
        self.n_processes = n_processes

    def __len__(self) -> int:
        n_whole, rest = divmod(len(self.sampler), self.batch_size)
        return n_whole + (rest >= self.n_processes)

    def __iter__(self) -> Iterator[list[int]]:
        # The epoch is read when the first batch is asked for: Lightning makes the iterator before it sets the epoch.
        for step in range(len(self)):
            yield self.windows(step)

    def windows(self, step: int) -> list[int]:
        """Window numbers of this process in a step of the epoch.

        Parameters
        ----------
        step
            Number of the batch in the epoch.

        Returns
        -------
        list of int
            The window numbers.
        """
        numbers = self.sampler.numbers
        first = step * self.batch_size
        last = len(numbers) if step == len(self) - 1 else first + self.batch_size
        start, stop = ((last - first) * part // self.n_processes for part in (self.rank, self.rank + 1))
        return list(numbers[first + start : first + stop])
