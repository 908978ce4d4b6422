from __future__ import annotations

import sys

import lightning
import torch
from torch.utils.data import DataLoader, Dataset

from stimage.data.corpus._corpus import Corpus
from stimage.data.sampling._epoch_sampler import EpochSampler, JointBatchSampler
from stimage.data.sampling._window_dataset import WindowDataset, collate_windows
from stimage.data.sampling._windows import WindowSpec
from stimage.data.sampling.units import SampleUnit, SpotDataset
from stimage.data.slides._slide import Slide
from stimage.data.slides._splits import split_by_block, split_by_slide

PATCH = SampleUnit()


class WindowDataModule(lightning.LightningDataModule):
    """Training and validation windows of a corpus.

    Parameters
    ----------
    corpus
        The slides.
    spec
        How windows are cut.
    batch_size
        Windows in a batch, of all processes together.
    windows_per_epoch
        Windows in an epoch, of all processes together.
    validation_size
        Share of the slides, or with fewer than five slides of each slide's sites, held out; 0 for none.
    num_workers
        Processes that cut windows; the windows do not depend on it.
    seed
        Seed of windows, genes, masks and split.
    unit
        What a sample is: a window by default.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> corpus = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])
    >>> spec = sti.data.WindowSpec(window=8, n_genes=64)
    >>> windows = sti.data.WindowDataModule(corpus, spec, batch_size=4, windows_per_epoch=8)
    >>> len(windows.train_dataloader())
    2
    """

    def __init__(
        self,
        corpus: Corpus,
        spec: WindowSpec,
        *,
        batch_size: int = 32,
        windows_per_epoch: int,
        validation_size: float = 0.0,
        num_workers: int = 0,
        seed: int = 0,
        unit: SampleUnit = PATCH,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.unit = unit
        self.batch_size = batch_size
        self.windows_per_epoch = windows_per_epoch
        self.num_workers = num_workers
        self.seed = seed
        self.training_slides, self.validation_slides = list(corpus), []
        if validation_size and len(corpus) >= 5:
            self.training_slides, self.validation_slides = split_by_slide(list(corpus), validation_size, seed=seed)
        elif validation_size:
            pairs = [split_by_block(slide, validation_size, buffer=spec.window, seed=seed) for slide in corpus]
            self.training_slides, self.validation_slides = map(list, zip(*pairs, strict=True))

    def train_dataloader(self) -> DataLoader:
        """Random windows, new ones in every epoch; with several processes this one's part of every batch."""
        sampler = EpochSampler(self.windows_per_epoch)
        if self.trainer is not None:
            # A training that is resumed asks workers for windows before it says which epoch it is in.
            sampler.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)
        return self._loader(self._dataset(self.training_slides, self.seed), sampler)

    def val_dataloader(self) -> DataLoader | list:
        """A fixed set of windows of the held-out part, a quarter as many as in a training epoch."""
        if not self.validation_slides:
            return []
        sampler = EpochSampler(max(self.windows_per_epoch // 4, self.batch_size), fixed=True)
        return self._loader(self._dataset(self.validation_slides, self.seed + 1), sampler)

    def _dataset(self, slides: list[Slide], seed: int) -> WindowDataset | SpotDataset:
        if self.unit.kind.has_windows:
            return WindowDataset(slides, self.spec, seed=seed)
        return SpotDataset(slides, self.spec, self.unit, seed=seed)

    def _loader(self, dataset: Dataset, sampler: EpochSampler) -> DataLoader:
        trainer, has_workers = self.trainer, self.num_workers > 0
        part = {} if trainer is None else {"rank": trainer.global_rank, "n_processes": trainer.world_size}
        # Workers that are forked share the slides' memory with this process; others would each get a copy.
        can_fork = has_workers and sys.platform == "linux"
        return DataLoader(
            dataset,
            batch_sampler=JointBatchSampler(sampler, self.batch_size, **part),
            collate_fn=collate_windows,
            num_workers=self.num_workers,
            persistent_workers=has_workers,
            multiprocessing_context="fork" if can_fork else None,
            # Copies to a GPU from pinned memory go on while it computes.
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
            # The seeds of workers are not drawn from the random numbers that dropout takes: with persistent workers they
            # are drawn once, without workers in every epoch.
            generator=torch.Generator().manual_seed(0),
        )
