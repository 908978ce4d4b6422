from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stimage.data.sampling._gene_selection import SMOOTHING
from stimage.data.sampling._windows import WindowSpec, slide_shares, window_origins
from stimage.data.sampling.device._counter_random import CounterRandom
from stimage.data.sampling.device._dense_expression import DenseExpression
from stimage.data.sampling.masking import MASKINGS
from stimage.data.slides._slide import Slide, site_positions

_MASKS = 1
"""Second seed of the random numbers of masks."""


class DeviceWindows:
    """Random windows that are cut on the device where a model is trained.

    The expression of all slides lies there as a dense matrix, and all windows of a batch are cut together: no process
    prepares data and nothing is copied in a step. Distributions are those of :class:`WindowDataset`; a window is
    another one than there, and the same for a seed and a window number in every batch and process. Genes are chosen from
    variances in single precision, whose last digits may depend on the device and on the size of a batch.

    Parameters
    ----------
    slides
        The slides, over one vocabulary.
    spec
        How windows are cut.
    device
        Where they are cut.
    seed
        Seed of everything random.
    dtype
        Type in which expression is kept.
    memory_limit
        Most bytes for the expression, see the error; on a GPU by default four fifths of what is free.
    expression
        Expression that is on the device already: of these slides, and possibly others.

    Raises
    ------
    ValueError
        If no slide has a window.
    MemoryError
        If the expression does not fit.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])[0]
    >>> spec = sti.data.WindowSpec(window=8, n_genes=64)
    >>> windows = sti.data.DeviceWindows([slide], spec, device="cpu", seed=0)
    >>> windows.batch([0, 1, 2])["expression"].shape
    torch.Size([3, 64, 64])
    """

    def __init__(
        self,
        slides: Sequence[Slide],
        spec: WindowSpec,
        *,
        device: torch.device | str,
        seed: int,
        dtype: torch.dtype = torch.float16,
        memory_limit: int | None = None,
        expression: DenseExpression | None = None,
    ) -> None:
        self.slides = list(slides)
        self.spec = spec
        self.seed = seed
        self.device = torch.device(device)
        origins = [window_origins(slide, spec.window, spec.min_occupancy) for slide in self.slides]
        shares = slide_shares(self.slides, origins, spec)
        if expression is None:
            expression = DenseExpression.from_slides(self.slides, device=device, dtype=dtype, memory_limit=memory_limit)
        self.expression = expression
        up_to = np.cumsum(shares)
        # Whole numbers, as drawn ones are: not every device has double precision.
        self._up_to = self._tensor(np.ceil(up_to / up_to[-1] * 2.0**32).astype(np.int64))
        self._origins = self._tensor(np.concatenate(origins))
        counts = np.array([len(own) for own in origins])
        self._n_origins = self._tensor(counts)
        self._first_origin = self._tensor(counts.cumsum() - counts)
        shapes = np.array([slide.shape for slide in self.slides])
        self._shape = self._tensor(shapes)
        pixels = shapes.prod(axis=1)
        self._first_pixel = self._tensor(pixels.cumsum() - pixels)
        self._rows = self._tensor(np.concatenate([self._table_rows(slide) for slide in self.slides]))
        self._gene_mean = self._tensor(np.stack([slide.gene_mean for slide in self.slides]).astype(np.float32))
        self._measured = self._tensor(np.stack([slide.measured for slide in self.slides]))
        self._parity = self._tensor(np.array([slide.parity for slide in self.slides]))
        layouts = sorted({slide.layout for slide in self.slides})
        self._layout = self._tensor(np.array([layouts.index(slide.layout) for slide in self.slides]))
        self._positions = self._tensor(np.stack([_positions(layout, spec.window) for layout in layouts]))

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def _table_rows(self, slide: Slide) -> np.ndarray:
        """Row of the expression that each pixel of a slide shows."""
        first = self.expression.first_row(slide)
        rows = np.where(slide.active, first + np.arange(slide.n_sites), self.expression.empty_row)
        return np.append(rows, self.expression.empty_row)[slide.raster.ravel()]

    @torch.no_grad()
    def batch(self, window_numbers: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """Cut windows.

        Parameters
        ----------
        window_numbers
            Their numbers (windows).

        Returns
        -------
        dict
            The fields of :class:`Window`, stacked along a first axis, as :func:`collate_windows` gives them.
        """
        numbers = torch.as_tensor(window_numbers, dtype=torch.int64, device=self.device)
        random = CounterRandom(self.seed, numbers)
        slide, top, left = self._places(random)
        rows = self._window_rows(slide, top, left)
        observed = rows != self.expression.empty_row
        genes, gene_valid = self._choose_genes(slide, rows, observed, random)
        expression = self.expression.values[rows.unsqueeze(2), genes.unsqueeze(1)].float()
        expression -= self._gene_mean[slide].gather(1, genes).unsqueeze(1)
        known = observed.unsqueeze(2) & gene_valid.unsqueeze(1)
        expression *= known
        # Random numbers of their own: a rule from outside may name its streams as it likes.
        random = CounterRandom([self.seed, _MASKS], numbers)
        image = observed.unflatten(1, (self.spec.window, self.spec.window))
        hidden = MASKINGS[self.spec.masking].hide(image, gene_valid, self.spec.mask_ratio, random).flatten(1, 2)
        return {
            "expression": expression,
            "genes": genes,
            "gene_valid": gene_valid,
            "observed": observed,
            "hidden": hidden,
            "positions": self._positions[self._layout[slide], (top + self._parity[slide]) % 2],
        }

    def places(self, window_numbers: Sequence[int] | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where windows are cut.

        Parameters
        ----------
        window_numbers
            Their numbers (windows).

        Returns
        -------
        tuple of Tensor
            Number of the slide, top row and left column (windows).
        """
        numbers = torch.as_tensor(window_numbers, dtype=torch.int64, device=self.device)
        return self._places(CounterRandom(self.seed, numbers))

    def _places(self, random: CounterRandom) -> tuple[Tensor, Tensor, Tensor]:
        slide = torch.searchsorted(self._up_to, random.integers("slide"), right=True)
        origin = self._first_origin[slide] + (random.integers("origin") * self._n_origins[slide] >> 32)
        top, left = self._origins[origin].unbind(dim=1)
        return slide, top, left

    def _window_rows(self, slide: Tensor, top: Tensor, left: Tensor) -> Tensor:
        """Row of the expression of each site of windows (windows x sites)."""
        along = torch.arange(self.spec.window, device=self.device)
        row, column = top.unsqueeze(1) + along, left.unsqueeze(1) + along
        n_rows, n_columns = self._shape[slide].unsqueeze(2).unbind(dim=1)
        inside = ((row >= 0) & (row < n_rows)).unsqueeze(2) & ((column >= 0) & (column < n_columns)).unsqueeze(1)
        pixel = self._first_pixel[slide].view(-1, 1, 1) + (row * n_columns).unsqueeze(2) + column.unsqueeze(1)
        rows = self._rows[torch.where(inside, pixel, 0)]
        return torch.where(inside, rows, self.expression.empty_row).flatten(1)

    def _choose_genes(
        self, slide: Tensor, rows: Tensor, observed: Tensor, random: CounterRandom
    ) -> tuple[Tensor, Tensor]:
        """Sorted genes of windows, and which of them are real (windows x genes)."""
        measured = self._measured[slide]
        n_genes = measured.shape[1]
        n_chosen = min(self.spec.n_genes, n_genes)
        if self.spec.gene_selection == "random":
            key = random.uniform("genes", n_genes)
        else:
            variance = _variances(self.expression.values, rows, observed)
            key = -variance
            if self.spec.gene_selection == "weighted":
                # Exponential waiting times of these rates: the first to arrive are drawn in proportion to the rates that
                # remain (the paper, Eq. 7).
                key = -torch.log1p(-random.uniform("genes", n_genes)) / (variance + SMOOTHING)
        key = key.masked_fill(~measured, torch.inf)
        # Of equal keys the first counts.
        ordered = key.argsort(dim=1, stable=True) if self.spec.gene_selection == "hvg" else None
        chosen = key.topk(n_chosen, dim=1, largest=False).indices if ordered is None else ordered[:, :n_chosen]
        chosen = torch.where(measured.gather(1, chosen), chosen, n_genes).sort(dim=1).values
        chosen = torch.nn.functional.pad(chosen, (0, self.spec.n_genes - n_chosen), value=n_genes)
        return torch.where(chosen < n_genes, chosen, 0), chosen < n_genes


def _positions(layout: str, window: int) -> np.ndarray:
    """Positions in windows that begin with an even and with an odd row (2 x sites x 2)."""
    rows, columns = np.meshgrid(np.arange(window), np.arange(window), indexing="ij")
    both = [site_positions(rows.ravel(), columns.ravel(), layout=layout, parity=parity) for parity in (0, 1)]
    return np.stack([positions - positions.mean(axis=0) for positions in both])


def _variances(expression: Tensor, rows: Tensor, observed: Tensor) -> Tensor:
    """Variance of each gene over the observed sites of windows (windows x genes)."""
    sites = expression[rows]
    n_observed = observed.sum(dim=1, keepdim=True)
    mean = sites.sum(dim=1, dtype=torch.float32) / n_observed
    # The norm converts as it reads: there is no copy in single precision.
    square = torch.linalg.vector_norm(sites, dim=1, dtype=torch.float32).square() / n_observed
    return (square - mean.square()).clamp(min=0)
