from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from stimage import _validate
from stimage.data.sampling._gene_selection import GENE_SELECTIONS, GeneSelection, select_window_genes
from stimage.data.sampling._kernels import gene_variances, read_genes, row_arrays
from stimage.data.sampling.masking import MASKINGS, Masking, hide_in_windows
from stimage.data.slides._slide import Slide, site_positions


@dataclass(frozen=True)
class WindowSpec:
    """How training windows are cut.

    Parameters
    ----------
    window
        Rows and columns of a window.
    n_genes
        Genes (channels) of a window.
    gene_selection
        How they are chosen, see :func:`select_window_genes`.
    masking
        Key of :data:`MASKINGS`. What is hidden: single sites (``"site"``), single values (``"site_gene"``), a contiguous
        ``"region"``, or ``"mixed"``: sites in two of three windows and a region of half the share in the third.
    mask_ratio
        Share hidden.
    min_occupancy
        Smallest share of a window's sites that must have data. On a slide where no window has as much, the fullest ones are
        taken, and training warns.

    Raises
    ------
    TypeError, ValueError
        If a number is out of range, or a gene selection or masking rule is not known.

    Examples
    --------
    >>> from stimage.data import WindowSpec
    >>> WindowSpec(window=8, masking="region").mask_ratio
    0.3
    """

    window: int = 16
    n_genes: int = 512
    gene_selection: GeneSelection = "weighted"
    masking: Masking = "site"
    mask_ratio: float = 0.3
    min_occupancy: float = 0.25

    def __post_init__(self) -> None:
        _validate.check_positive("window", self.window, smallest=2)
        _validate.check_positive("n_genes", self.n_genes)
        _validate.check_choice("gene_selection", self.gene_selection, GENE_SELECTIONS)
        _validate.check_choice("masking", self.masking, MASKINGS)
        _validate.check_range("mask_ratio", self.mask_ratio, 0, 1)
        if not 0 <= self.min_occupancy <= 1:
            raise ValueError(f"`min_occupancy` must be between 0 and 1, found {self.min_occupancy!r}.")


@dataclass(frozen=True)
class Window:
    """One training sample: a patch of the slide with a subset of genes and what is hidden in it.

    Parameters
    ----------
    expression
        Expression centred on the slide's gene means (sites x genes), zero where there are no data.
    genes
        Vocabulary indices of the genes (genes); the last ones repeat gene 0 where the slide measures too few.
    gene_valid
        Which of them are real (genes).
    observed
        Sites that have data (sites).
    hidden
        Sites hidden from the model (sites), or values hidden (sites x genes) with ``site_gene`` masking.
    positions
        Physical x and y of each site relative to the window's centre (sites x 2).

    Examples
    --------
    >>> import numpy as np
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])[0]
    >>> window = sti.data.cut_window(slide, 4, 4, sti.data.WindowSpec(window=8, n_genes=64), np.random.default_rng(0))
    >>> window.expression.shape, window.hidden.shape
    ((64, 64), (64,))
    """

    expression: np.ndarray
    genes: np.ndarray
    gene_valid: np.ndarray
    observed: np.ndarray
    hidden: np.ndarray
    positions: np.ndarray


def crop(image: np.ndarray, top: int, left: int, height: int, width: int, *, fill: int = -1) -> np.ndarray:
    """Cut a rectangle out of an image; what lies outside of the image is ``fill``.

    Parameters
    ----------
    image
        Image (rows x columns).
    top, left
        First row and column, possibly negative.
    height, width
        Size of the rectangle.
    fill
        Value outside of the image.

    Returns
    -------
    numpy.ndarray
        Image (height x width).

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.data import crop
    >>> crop(np.array([[1, 2], [3, 4]]), -1, 1, 2, 2)
    array([[-1, -1],
           [ 2, -1]])
    """
    patch = np.full((height, width), fill, dtype=image.dtype)
    row_start, row_stop = max(top, 0), min(top + height, image.shape[0])
    col_start, col_stop = max(left, 0), min(left + width, image.shape[1])
    if row_start < row_stop and col_start < col_stop:
        patch[row_start - top : row_stop - top, col_start - left : col_stop - left] = image[
            row_start:row_stop, col_start:col_stop
        ]
    return patch


def window_positions(slide: Slide, top: int, left: int, height: int, width: int) -> np.ndarray:
    """Physical positions of a window's sites relative to its centre.

    Parameters
    ----------
    slide
        The slide that the window is cut from.
    top, left, height, width
        The window.

    Returns
    -------
    numpy.ndarray
        x and y of each site in units of the site distance (sites x 2).

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])[0]
    >>> sti.data.window_positions(slide, 0, 0, 4, 4).shape
    (16, 2)
    """
    rows, cols = np.meshgrid(np.arange(top, top + height), np.arange(left, left + width), indexing="ij")
    positions = site_positions(rows.ravel(), cols.ravel(), layout=slide.layout, parity=slide.parity)
    # Only differences matter; a centred origin keeps the numbers small.
    return positions - positions.mean(axis=0)


def slide_shares(slides: Sequence[Slide], origins: Sequence[np.ndarray], spec: WindowSpec) -> np.ndarray:
    """Share of the windows that are cut from each slide: in proportion to the root of its sites with counts.

    In proportion to the sites themselves, a few slides of single cells would dominate training.

    Parameters
    ----------
    slides
        The slides.
    origins
        Places of windows on each, see :func:`window_origins`.
    spec
        How windows are cut.

    Returns
    -------
    numpy.ndarray
        Shares (slides), 0 for a slide without a window.

    Raises
    ------
    ValueError
        If no slide has a window.
    """
    weights = np.sqrt([slide.active.sum() if len(own) else 0 for slide, own in zip(slides, origins, strict=True)])
    if not weights.any():
        raise ValueError(
            f"No slide has a window of {spec.window} x {spec.window} sites with data in at least two of them."
        )
    return weights / weights.sum()


def window_origins(slide: Slide, window: int, min_occupancy: float) -> np.ndarray:
    """All places where a window can be cut (the paper, Eq. 6), restricted to windows with enough tissue.

    Parameters
    ----------
    slide
        The slide. Along an axis that is shorter than the window, the window is centred on the slide and padded.
    window
        Rows and columns of the window.
    min_occupancy
        Smallest share of the window's sites that must be active. When no window has as much, the fullest ones are
        taken: training warns of such slides.

    Returns
    -------
    numpy.ndarray
        Top row and left column of each window (windows x 2).

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])[0]
    >>> top, left = sti.data.window_origins(slide, 16, 0.25)[0]
    >>> int(top), int(left)
    (0, 0)
    """
    active = np.zeros(slide.shape, dtype=np.int64)
    active[slide.raster >= 0] = slide.active[slide.raster[slide.raster >= 0]]
    n_rows, n_cols = slide.shape
    tops = np.arange(n_rows - window + 1) if n_rows >= window else np.array([(n_rows - window) // 2])
    lefts = np.arange(n_cols - window + 1) if n_cols >= window else np.array([(n_cols - window) // 2])
    integral = np.pad(active.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    row_from, row_to = np.clip(tops, 0, n_rows), np.clip(tops + window, 0, n_rows)
    col_from, col_to = np.clip(lefts, 0, n_cols), np.clip(lefts + window, 0, n_cols)
    count = (
        integral[np.ix_(row_to, col_to)]
        - integral[np.ix_(row_from, col_to)]
        - integral[np.ix_(row_to, col_from)]
        + integral[np.ix_(row_from, col_from)]
    )
    # Two sites are the least from which one can be hidden and predicted.
    enough = max(min(min_occupancy * window**2, count.max()), 2)
    top, left = np.nonzero(count >= enough)
    return np.column_stack([tops[top], lefts[left]])


def read_sites(
    slide: Slide, sites: np.ndarray, spec: WindowSpec, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Choose genes by their variance over some sites (-1 for none) and read them: the fields of :class:`Window`.

    Returns ``observed``, ``expression``, ``genes`` and ``gene_valid``.
    """
    observed = sites >= 0
    observed[observed] = slide.active[sites[observed]]
    indptr, indices, data, rows = row_arrays(slide.expression, sites[observed])
    variance = gene_variances(indptr, indices, data, rows, len(slide.measured))
    if slide.measured.all():
        chosen = select_window_genes(variance, spec.n_genes, method=spec.gene_selection, rng=rng)
    else:
        candidates = np.flatnonzero(slide.measured)
        chosen = select_window_genes(variance[candidates], spec.n_genes, method=spec.gene_selection, rng=rng)
        chosen = candidates[chosen]
    genes = np.zeros(spec.n_genes, dtype=np.int64)
    genes[: len(chosen)] = chosen
    gene_valid = np.arange(spec.n_genes) < len(chosen)
    expression = np.zeros((len(sites), spec.n_genes), dtype=np.float32)
    centre = slide.gene_mean[chosen]
    read_genes(indptr, indices, data, rows, len(slide.measured), chosen, centre, np.flatnonzero(observed), expression)
    return observed, expression, genes, gene_valid


def cut_window(slide: Slide, top: int, left: int, spec: WindowSpec, rng: np.random.Generator) -> Window:
    """Cut one window: crop, choose genes by their variance in it, hide a part (equations 6 to 8 of the paper).

    Parameters
    ----------
    slide
        The slide.
    top, left
        Where to cut.
    spec
        How to cut.
    rng
        Source of randomness for genes and mask.

    Returns
    -------
    Window
        The sample.

    Examples
    --------
    >>> import numpy as np
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])[0]
    >>> spec = sti.data.WindowSpec(window=8, n_genes=64)
    >>> window = sti.data.cut_window(slide, 4, 4, spec, np.random.default_rng(0))
    >>> bool(window.hidden[~window.observed].any())
    False
    """
    return hide_parts([read_window(slide, top, left, spec, rng)], spec, [rng])[0]


def read_window(slide: Slide, top: int, left: int, spec: WindowSpec, rng: np.random.Generator) -> Window:
    """A window of which nothing is hidden yet."""
    size = spec.window
    sites = crop(slide.raster, top, left, size, size).ravel()
    observed, expression, genes, gene_valid = read_sites(slide, sites, spec, rng)
    return Window(
        expression=expression,
        genes=genes,
        gene_valid=gene_valid,
        observed=observed,
        hidden=np.zeros_like(observed),
        positions=window_positions(slide, top, left, size, size),
    )


def hide_parts(windows: list[Window], spec: WindowSpec, rngs: list[np.random.Generator]) -> list[Window]:
    """The same windows with parts hidden, those of all windows chosen together: single ones cost more than reading them."""
    if not windows:
        return []
    observed = np.stack([window.observed for window in windows]).reshape(-1, spec.window, spec.window)
    gene_valid = np.stack([window.gene_valid for window in windows])
    hidden = hide_in_windows(observed, gene_valid, spec.mask_ratio, masking=spec.masking, rngs=rngs)
    return [replace(window, hidden=own) for window, own in zip(windows, hidden, strict=True)]
