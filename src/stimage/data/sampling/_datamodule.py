from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from stimage.data.corpus._corpus import Corpus
from stimage.data.sampling._epoch_sampler import EpochSampler, JointBatchSampler
from stimage.data.sampling._units import SampleUnit, SpotSample, SpotSampler
from stimage.data.sampling._windows import Window, WindowSpec, hide_parts, read_window, window_origins
from stimage.data.slides._slide import Slide
from stimage.data.slides._splits import split_by_block, split_by_slide

Batch = dict[str, torch.Tensor]
"""The fields of :class:`Window`, stacked along a first axis."""

PATCH = SampleUnit()


class WindowDataset(Dataset):
    """Random windows of a set of slides: item ``i`` is the same window in every process, for a seed.

    A slide is drawn in proportion to its sites, then one of the places of a window on it, uniformly.

    Parameters
    ----------
    slides
        The slides.
    spec
        How windows are cut.
    seed
        Seed of everything random.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])[0]
    >>> windows = sti.data.WindowDataset([slide], sti.data.WindowSpec(window=8, n_genes=64), seed=0)
    >>> windows[0].expression.shape
    (64, 64)
    """

    def __init__(self, slides: list[Slide], spec: WindowSpec, *, seed: int) -> None:
        self.slides = slides
        self.spec = spec
        self.seed = seed
        self.origins = [window_origins(slide, spec.window, spec.min_occupancy) for slide in slides]
        weights = np.array([slide.active.sum() if len(o) else 0 for slide, o in zip(slides, self.origins, strict=True)])
        if weights.sum() == 0:
            raise ValueError(
                f"No slide has a window of {spec.window} x {spec.window} sites with data in at least two of them."
            )
        self.weights = weights / weights.sum()

    def __getitem__(self, index: int) -> Window:
        return self.__getitems__([index])[0]

    def place(self, index: int) -> tuple[Slide, int, int]:
        """Where a window is cut.

        Parameters
        ----------
        index
            Number of the window.

        Returns
        -------
        tuple
            The slide, top row and left column.
        """
        return self._draw_place(np.random.default_rng([self.seed, index]))

    def _draw_place(self, rng: np.random.Generator) -> tuple[Slide, int, int]:
        choice = rng.choice(len(self.slides), p=self.weights)
        top, left = self.origins[choice][rng.integers(len(self.origins[choice]))]
        return self.slides[choice], int(top), int(left)

    def __getitems__(self, indices: list[int]) -> list[Window]:
        """Windows of a batch, the same as one by one, cut on as many threads as torch uses: one in a worker process."""
        rngs = [np.random.default_rng([self.seed, index]) for index in indices]

        def read(rng: np.random.Generator) -> Window:
            return read_window(*self._draw_place(rng), self.spec, rng)

        n_threads = min(torch.get_num_threads(), len(indices))
        if n_threads < 2:
            return hide_parts([read(rng) for rng in rngs], self.spec, rngs)
        # The kernels run side by side, also on different slides. The threads end with the batch: nothing of them is left
        # in processes that are forked later.
        with ThreadPoolExecutor(n_threads) as pool:
            return hide_parts(list(pool.map(read, rngs)), self.spec, rngs)


class SpotDataset(Dataset):
    """Random spots of a set of slides, for the units without windows; item ``i`` is the same in every process.

    A slide is drawn in proportion to its sites, then as many of its spots as a window has tokens.

    Parameters
    ----------
    slides
        The slides.
    spec
        Tokens, genes and what is hidden.
    unit
        ``"spot"``, ``"neighborhood"`` or ``"slice"``.
    seed
        Seed of everything random.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])[0]
    >>> spec = sti.data.WindowSpec(window=8, n_genes=64)
    >>> spots = sti.data.SpotDataset([slide], spec, sti.data.SampleUnit("slice"), seed=0)
    >>> spots[0].expression.shape
    (64, 64)
    """

    def __init__(self, slides: list[Slide], spec: WindowSpec, unit: SampleUnit, *, seed: int) -> None:
        self.spec = spec
        self.seed = seed
        n_active = np.array([int(slide.active.sum()) for slide in slides])
        # The expression of one spot does not vary: there is nothing to predict.
        n_active[n_active < 2] = 0
        if not n_active.any():
            raise ValueError("No slide has data in at least two sites.")
        self.samplers = [SpotSampler(slide, unit, seed=seed) for slide, n in zip(slides, n_active, strict=True) if n]
        self.weights = n_active[n_active > 0] / n_active.sum()

    def __getitem__(self, index: int) -> SpotSample:
        rng = np.random.default_rng([self.seed, index])
        return self.samplers[rng.choice(len(self.samplers), p=self.weights)].draw(self.spec, rng)


def collate_windows(windows: list[Window]) -> Batch:
    """Stack windows into a batch of tensors.

    Parameters
    ----------
    windows
        Windows of one size.

    Returns
    -------
    dict
        The fields of :class:`Window`, stacked along a first axis.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])[0]
    >>> windows = sti.data.WindowDataset([slide], sti.data.WindowSpec(window=8, n_genes=64), seed=0)
    >>> sti.data.collate_windows([windows[0], windows[1]])["expression"].shape
    torch.Size([2, 64, 64])
    """
    return {
        field.name: torch.from_numpy(np.stack([getattr(window, field.name) for window in windows]))
        for field in fields(windows[0])
    }


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
        if self.unit.name == "patch":
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
