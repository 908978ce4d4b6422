from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from stimage.data.sampling._epoch_sampler import EpochSampler
from stimage.data.sampling._paired_slide import PairedSlide

Negatives = Literal["slide", "batch"]
NEGATIVES: tuple[str, ...] = get_args(Negatives)


class AlignmentDataset(Dataset):
    """Batches of spots: item ``i`` is the same batch in every process, for a seed.

    In an epoch each measured spot is in one batch. With negatives from the slide a batch is of one slide, and the batches of
    a slide differ in size by one at most; otherwise spots of all slides are mixed.

    Parameters
    ----------
    slides
        The slides.
    batch_size
        Most spots in a batch.
    negatives
        ``"slide"`` or ``"batch"``: what the spots of a batch are compared with.
    seed
        Seed of the order of the spots.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> sti.pp.build_niches(adata)
    >>> slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])[0]
    >>> batches = sti.data.AlignmentDataset(
    ...     [sti.data.PairedSlide(slide, adata.obsp["niche_connectivities"])], batch_size=64
    ... )
    >>> batches.n_batches, batches[0]["spot_genes"].shape
    (5, torch.Size([60, 100]))
    """

    def __init__(
        self, slides: list[PairedSlide], *, batch_size: int, negatives: Negatives = "slide", seed: int = 0
    ) -> None:
        self.slides = slides
        self.negatives = negatives
        self.seed = seed
        self.spots = [np.flatnonzero(slide.measured) for slide in slides]
        sizes = [len(spots) for spots in self.spots]
        if negatives == "batch":
            sizes = [sum(sizes)]
        self.batches_of = [-(-size // batch_size) for size in sizes]
        self._drawn: tuple[int, list[np.ndarray], np.ndarray] | None = None

    @property
    def n_batches(self) -> int:
        """Batches in an epoch."""
        return sum(self.batches_of)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        epoch, number = divmod(index, self.n_batches)
        orders, mixed = self._orders_of(epoch)
        if self.negatives == "slide":
            order = mixed[number]
            slide = int(np.searchsorted(np.cumsum(self.batches_of), order, side="right"))
            part = order - sum(self.batches_of[:slide])
            chosen = {slide: np.array_split(orders[slide], self.batches_of[slide])[part]}
        else:
            owner = np.repeat(np.arange(len(orders)), [len(order) for order in orders])
            part = np.sort(np.array_split(mixed, self.n_batches)[number])
            spots = np.concatenate(orders)
            chosen = {int(slide): spots[part[owner[part] == slide]] for slide in np.unique(owner[part])}
        batches = [self.slides[slide].batch(spots) for slide, spots in chosen.items()]
        return {name: torch.from_numpy(np.concatenate([batch[name] for batch in batches])) for name in batches[0]}

    def _orders_of(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Spots of each slide in the order of an epoch, and the order of all batches, or spots, of all slides.

        Every process draws all of them, once in an epoch, so that any can make any batch.
        """
        if self._drawn is None or self._drawn[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch])
            orders = [rng.permutation(spots) for spots in self.spots]
            n_mixed = self.n_batches if self.negatives == "slide" else sum(map(len, orders))
            self._drawn = epoch, orders, rng.permutation(n_mixed)
        return self._drawn[1:]


class AlignmentDataModule(lightning.LightningDataModule):
    """Batches of spots with their niches for training.

    Parameters
    ----------
    slides
        The slides.
    batch_size
        Most spots in a batch.
    negatives
        What the spots of a batch are compared with.
    num_workers
        Processes that make batches; the batches do not depend on it.
    seed
        Seed of the order of the spots.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> sti.pp.build_niches(adata)
    >>> slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])[0]
    >>> paired = sti.data.PairedSlide(slide, adata.obsp["niche_connectivities"])
    >>> len(sti.data.AlignmentDataModule([paired], batch_size=64).train_dataloader())
    5
    """

    def __init__(
        self,
        slides: list[PairedSlide],
        *,
        batch_size: int = 128,
        negatives: Negatives = "slide",
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.dataset = AlignmentDataset(slides, batch_size=batch_size, negatives=negatives, seed=seed)
        self.num_workers = num_workers

    def train_dataloader(self) -> DataLoader:
        """Every measured spot once in an epoch, in a new order; with several processes this one's own batches."""
        trainer = self.trainer
        part = {} if trainer is None else {"rank": trainer.global_rank, "n_processes": trainer.world_size}
        return DataLoader(
            self.dataset,
            batch_size=None,
            sampler=EpochSampler(self.dataset.n_batches, **part),
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            # The seeds of workers are not drawn from the random numbers that dropout takes: with persistent workers they
            # are drawn once, without workers in every epoch.
            generator=torch.Generator().manual_seed(0),
        )


def in_order(
    slides: list[PairedSlide], batch_size: int, chosen: list[np.ndarray] | None = None
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """All spots of all slides, or those chosen of each, batch after batch in their order, with the number of the slide."""
    for number, slide in enumerate(slides):
        of_slide = np.arange(slide.n_spots) if chosen is None else chosen[number]
        for start in range(0, len(of_slide), batch_size):
            spots = of_slide[start : start + batch_size]
            yield number, {name: torch.from_numpy(values) for name, values in slide.batch(spots).items()}
