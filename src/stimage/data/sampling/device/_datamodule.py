from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import Dataset

from stimage.data.sampling._datamodule import WindowDataModule
from stimage.data.sampling._window_dataset import Batch
from stimage.data.sampling.device._dense_expression import DenseExpression
from stimage.data.sampling.device._windows import DeviceWindows
from stimage.data.slides._slide import Slide


class DeviceWindowDataModule(WindowDataModule):
    """Training and validation windows that are cut on the device where the model is trained.

    Loaders give window numbers, from which :class:`DeviceWindows` makes a batch once they are on the device. Which numbers
    a process gets is as in :class:`WindowDataModule`; ``num_workers`` has nothing to do. When the expression does not fit
    on the device, windows are cut on the CPU as there, and a warning says so.

    Parameters
    ----------
    arguments, options
        As for :class:`WindowDataModule`; the sample unit is a window.
    dtype
        Type in which expression is kept on the device.
    memory_limit
        Most bytes for it, see :class:`DeviceWindows`.

    Raises
    ------
    ValueError
        If the sample unit is another.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> corpus = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])
    >>> spec = sti.data.WindowSpec(window=8, n_genes=64)
    >>> windows = sti.data.DeviceWindowDataModule(corpus, spec, batch_size=4, windows_per_epoch=8)
    >>> numbers = next(iter(windows.train_dataloader()))
    >>> windows.on_after_batch_transfer(numbers, 0)["expression"].shape
    torch.Size([4, 64, 64])
    """

    def __init__(
        self,
        *arguments: Any,
        dtype: torch.dtype = torch.float16,
        memory_limit: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        if not self.unit.kind.has_windows:
            raise ValueError(
                f"Only windows are cut on a device, not the sample unit {self.unit.name!r}: cut on the CPU."
            )
        self.dtype = dtype
        self.memory_limit = memory_limit
        self._expression: DenseExpression | None = None
        self._fits: bool | None = None
        self._windows: dict[str, DeviceWindows] = {}

    def setup(self, stage: str | None = None) -> None:
        """Bring the expression to the device, once; Lightning calls this in every process."""
        if self._fits is not None:
            return
        device = torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device
        slides = [*self.training_slides, *self.validation_slides]
        try:
            self._expression = DenseExpression.from_slides(
                slides, device=device, dtype=self.dtype, memory_limit=self.memory_limit
            )
        except MemoryError as error:
            warnings.warn(f"Windows are cut on the CPU. {error}", UserWarning, stacklevel=2)
        self._fits = self._expression is not None
        if self._fits:
            self.num_workers = 0

    def _dataset(self, slides: list[Slide], seed: int) -> Dataset:
        self.setup()
        if not self._fits:
            return super()._dataset(slides, seed)
        part = _HeldOutNumber if slides is self.validation_slides else _TrainingNumber
        (field,) = part.__dataclass_fields__
        device = self._expression.values.device
        self._windows[field] = DeviceWindows(slides, self.spec, device=device, seed=seed, expression=self._expression)
        return _Numbers(part)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Make the batch of window numbers that are on the device."""
        for field, windows in self._windows.items():
            if field in batch:
                return windows.batch(batch[field])
        return batch


@dataclass(frozen=True)
class _TrainingNumber:
    training_window: int


@dataclass(frozen=True)
class _HeldOutNumber:
    held_out_window: int


class _Numbers(Dataset):
    """Window numbers, which are what is loaded."""

    def __init__(self, part: type) -> None:
        self.part = part

    def __getitem__(self, index: int) -> _TrainingNumber | _HeldOutNumber:
        return self.part(index)
