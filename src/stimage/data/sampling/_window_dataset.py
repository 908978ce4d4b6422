from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

import numpy as np
import torch
from torch.utils.data import Dataset

from stimage.data.sampling._windows import Window, WindowSpec, hide_parts, read_window, slide_shares, window_origins
from stimage.data.slides._slide import Slide

Batch = dict[str, torch.Tensor]
"""The fields of :class:`Window`, stacked along a first axis."""


class WindowDataset(Dataset):
    """Random windows of a set of slides: item ``i`` is the same window in every process, for a seed.

    A slide is drawn in proportion to the root of its sites, then one of the places of a window on it, uniformly.

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
        self.weights = slide_shares(slides, self.origins, spec)

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
