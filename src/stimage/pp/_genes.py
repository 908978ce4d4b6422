from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from stimage._count_rows import row_blocks
from stimage._features import absent_genes, genes_with_warning
from stimage._validate import (
    check_anndata,
    check_choice,
    check_counts,
    check_positive,
    check_size,
    check_unique_names,
    listing,
    slide_codes,
)
from stimage.data.slides._ensembl import ensembl_id

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

_SPAN = 0.3
"""Share of genes in each local fit of the mean-variance trend, as in Seurat v3."""
_MIN_NEAR = 30
"""Least genes in a local fit: through fewer of them, as in small panels, the trend would follow single genes."""
_ANCHORS = 64


@dataclass(frozen=True)
class GenePool:
    """Genes chosen for a set of slides, and how the slides' panels overlap.

    Parameters
    ----------
    genes
        Names of the chosen genes, most variable first.
    table
        One row per candidate gene, most variable first: ``highly_variable`` (chosen), ``rank`` (0 is the most variable),
        ``median_rank`` (median over slides of the rank within the slide, as a share of its candidates),
        ``variance_standardized`` (median over slides), ``mean`` (counts per observation, mean over slides) and
        ``n_slides`` (slides that measure the gene).
    overlap
        One row per slide: ``n_observations``, ``n_genes``, ``candidates`` (genes that could be chosen), ``selected``
        (chosen genes that the slide measures) and ``fraction_selected`` (``selected`` over the size of the pool).

    Examples
    --------
    >>> import stimage as sti
    >>> pool = sti.pp.select_genes(sti.datasets.simulate_tissue(n_rows=20, n_cols=20), n_genes=50)
    >>> len(pool), pool.overlap["selected"].tolist()
    (50, [50])
    """

    genes: list[str]
    table: pd.DataFrame
    overlap: pd.DataFrame

    def __len__(self) -> int:
        return len(self.genes)


@dataclass(frozen=True)
class _Panel:
    name: str
    counts: Any
    rows: NDArray[np.intp] | None
    """Observations of the slide; all of them for ``None``."""
    measured: NDArray[np.bool_]
    genes: pd.Index
    """Names of the measured variables."""

    @property
    def n_observations(self) -> int:
        return self.counts.shape[0] if self.rows is None else len(self.rows)


@dataclass(frozen=True)
class GeneStatistics:
    """What :func:`rank_genes` needs to know of a slide."""

    name: str
    genes: pd.Index
    n_observations: int
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    """Standardised by the trend with the mean."""


def select_genes(
    adatas: AnnData | Sequence[AnnData],
    *,
    n_genes: int = 2000,
    layer: str | None = None,
    slide_key: str | None = None,
    join: Literal["inner", "outer"] = "inner",
    min_slides: int = 1,
) -> GenePool:
    """Choose the most variable genes shared by a set of slides.

    The variance of the raw counts is standardised per slide by its trend with the mean, with counts clipped at
    sqrt(n_obs) standard deviations (Stuart et al. 2019, "Seurat v3"); genes are ranked within each slide, and by the
    median of these ranks over the slides that measure them. Nothing is written to the AnnData.

    Parameters
    ----------
    adatas
        One AnnData, or a list with one or more slides in each; raw counts in ``X`` or ``layer``. They may be backed: counts are
        read from the file some rows at a time.
    n_genes
        Size of the pool; smaller when fewer candidates vary.
    layer
        Layer with raw counts; ``None`` takes ``X``.
    slide_key
        Column of ``obs`` that names the slide of each observation; ``None`` takes each AnnData as one slide.
    join
        Candidates are the genes measured in every slide (``"inner"``) or in at least ``min_slides`` (``"outer"``). Of slides in one
        AnnData, a gene without a count on one is not measured there if 20 counts would be expected from the others, as after an
        outer join. Antibodies, control probes, blanks and genes of a second species are never candidates.
    min_slides
        Used with ``join="outer"``.

    Returns
    -------
    GenePool
        The chosen genes, a table of all candidates and the overlap of the slides' panels.

    Raises
    ------
    KeyError
        If ``layer`` or ``slide_key`` is absent.
    ValueError
        If counts are not raw, gene names are repeated, or slides have no gene in common.

    Warns
    -----
    UserWarning
        If variables are left out because they are no genes of the slide's species.

    Examples
    --------
    >>> import anndata as ad, numpy as np
    >>> import stimage as sti
    >>> counts = np.random.default_rng(0).poisson(2.0, size=(50, 20)).astype(float)
    >>> counts[:, 3] = np.tile([0.0, 4.0], 25)
    >>> adata = ad.AnnData(counts)
    >>> sti.pp.select_genes(adata, n_genes=1).genes
    ['3']

    References
    ----------
    Stuart et al. 2019, Comprehensive Integration of Single-Cell Data, Cell 177.
    """
    check_pool_options(n_genes=n_genes, join=join, min_slides=min_slides)
    panels = _panels(adatas, layer, slide_key)
    _candidates(panels, join, min_slides)
    return rank_genes([_statistics(panel) for panel in panels], n_genes=n_genes, join=join, min_slides=min_slides)


def check_pool_options(*, n_genes: object, join: object, min_slides: object) -> None:
    """Raise for options of :func:`select_genes` that it would refuse."""
    check_choice("join", join, ("inner", "outer"))
    check_positive("n_genes", n_genes)
    check_positive("min_slides", min_slides)


def gene_statistics(adata: AnnData, *, layer: str | None, slide_key: str | None) -> list[GeneStatistics]:
    """Statistics of the slides of an AnnData, so that genes can be ranked with one AnnData in memory at a time."""
    return [_statistics(panel) for panel in _panels(adata, layer, slide_key)]


def rank_genes(
    slides: Sequence[GeneStatistics], *, n_genes: int, join: Literal["inner", "outer"], min_slides: int
) -> GenePool:
    """Choose genes by their statistics in each slide, see :func:`select_genes`."""
    candidates, measured = _candidates(slides, join, min_slides)
    shape = (len(slides), len(candidates))
    rank, variance, mean = np.full(shape, np.nan), np.full(shape, np.nan), np.full(shape, np.nan)
    for number, slide in enumerate(slides):
        position = candidates.get_indexer(slide.genes)
        known = position >= 0
        mean[number, position[known]] = slide.mean[known]
        variance[number, position[known]] = slide.variance[known]
        rank[number, position[known]] = pd.Series(-slide.variance[known]).rank(pct=True)
    table = pd.DataFrame(
        {
            "median_rank": np.nanmedian(rank, axis=0),
            "variance_standardized": np.nanmedian(variance, axis=0),
            "mean": np.nanmean(mean, axis=0),
            "n_slides": measured[candidates].to_numpy(),
        },
        index=candidates,
    )
    varies = np.nanmax(variance, axis=0) > 0
    table = table.assign(varies=varies, gene=candidates).sort_values(
        ["varies", "median_rank", "variance_standardized", "gene"], ascending=[False, True, False, True]
    )
    chosen = table["varies"].to_numpy() & (np.arange(len(table)) < n_genes)
    table = table.drop(columns=["varies", "gene"])
    table.insert(0, "rank", np.arange(len(table)))
    table.insert(0, "highly_variable", chosen)
    genes = table.index[chosen]
    if not len(genes):
        found = "have constant counts" if any(slide.mean.any() for slide in slides) else "have no counts, all are zero"
        raise ValueError(
            f"No candidate gene varies within a slide: slides {listing([slide.name for slide in slides], 3)} {found}. Remove "
            "them, or pass the raw counts with `layer=`."
        )
    selected = [int(genes.isin(slide.genes).sum()) for slide in slides]
    overlap = pd.DataFrame(
        {
            "n_observations": [slide.n_observations for slide in slides],
            "n_genes": [len(slide.genes) for slide in slides],
            "candidates": [int(candidates.isin(slide.genes).sum()) for slide in slides],
            "selected": selected,
            "fraction_selected": np.array(selected) / len(genes),
        },
        index=pd.Index([slide.name for slide in slides], name="slide"),
    )
    return GenePool([str(gene) for gene in genes], table, overlap)


def _candidates(
    slides: Sequence[_Panel] | Sequence[GeneStatistics], join: str, min_slides: int
) -> tuple[pd.Index, pd.Series]:
    """Genes that can be chosen, and for every gene the number of slides that measure it."""
    if min_slides > len(slides):
        raise ValueError(f"`min_slides`={min_slides} exceeds the number of slides, {len(slides)}.")
    measured = pd.Series(np.concatenate([slide.genes for slide in slides])).value_counts(sort=False)
    candidates = measured.index[measured >= (len(slides) if join == "inner" else min_slides)]
    _check_common(slides, candidates)
    return candidates, measured


def _statistics(panel: _Panel) -> GeneStatistics:
    mean, variance = _standardized_variance(panel.counts, panel.rows, panel.measured)
    return GeneStatistics(panel.name, panel.genes, panel.n_observations, mean, variance)


def _panels(adatas: AnnData | Sequence[AnnData], layer: str | None, slide_key: str | None) -> list[_Panel]:
    alone = not isinstance(adatas, list | tuple)
    adatas = [adatas] if alone else list(adatas)
    if not adatas:
        raise ValueError("`adatas` is an empty list: pass at least one AnnData.")
    panels = []
    for number, adata in enumerate(adatas):
        parameter = "adatas" if alone else f"adatas[{number}]"
        check_anndata(adata, parameter)
        try:
            check_size(adata)
            check_unique_names(adata, genes=True)
            counts = check_counts(adata, layer, backed=True)
            names, codes = slide_codes(adata, slide_key)
        except (ValueError, TypeError, KeyError) as error:
            raise type(error)(f"`{parameter}`: {error.args[0]}") from error
        if slide_key is None:
            names = ["slide"] if alone else [str(number)]
        genes = genes_with_warning(adata, counts)
        members = [np.flatnonzero(codes == code) for code in range(len(names))]
        for name, rows, absent in zip(names, members, absent_genes(counts, members), strict=True):
            if len(rows) < 2:
                raise ValueError(
                    f"`{parameter}`: slide {name!r} has one observation, at least 2 are needed: remove it."
                )
            measured = genes & ~absent
            own = None if len(names) == 1 else rows
            panels.append(_Panel(name, counts, own, measured, adata.var_names[measured].astype(str)))
    repeated = pd.Index([panel.name for panel in panels])
    if not repeated.is_unique:
        raise ValueError(
            f"`slide_key`={slide_key!r}: several AnnData have slides of the same name "
            f"({listing(repeated[repeated.duplicated()].unique())}): rename them."
        )
    return panels


def _check_common(panels: Sequence[_Panel] | Sequence[GeneStatistics], candidates: pd.Index) -> None:
    """Raise when there is no candidate, or a slide shares no gene with any other."""
    for panel in panels:
        others = [other for other in panels if other is not panel]
        if others and not any(panel.genes.isin(other.genes).any() for other in others):
            first, second = panel.genes, others[0].genes
            hint = "name the genes of all slides the same way"
            if _is_ensembl(first) != _is_ensembl(second):
                hint = "one has Ensembl ids and the other gene symbols: put the same kind in `var_names`"
            elif first.str.upper().isin(second.str.upper()).any():
                hint = "they differ in upper and lower case only: slides of two species?"
            raise ValueError(
                f"No gene in common: slide {panel.name!r} has {listing(first, 3)}; "
                f"slide {others[0].name!r} has {listing(second, 3)}; {hint}."
            )
    if not len(candidates):
        shared = reduce(lambda common, panel: common.intersection(panel.genes), panels[1:], panels[0].genes)
        raise ValueError(
            f"No gene is measured in enough slides ({len(shared)} of them in all {len(panels)}): "
            "use `join`='outer' with a smaller `min_slides`, or leave out the slide with the smallest panel "
            f"({min(panels, key=lambda panel: len(panel.genes)).name!r})."
        )


def _is_ensembl(genes: pd.Index) -> bool:
    return np.mean([ensembl_id(gene) is not None for gene in genes]) > 0.5


def _standardized_variance(
    counts: Any, rows: NDArray[np.intp] | None = None, measured: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standardised variance of every measured gene (Seurat v3) over some rows, by default all of all.

    Counts are read some rows at a time.
    """
    n = counts.shape[0] if rows is None else len(rows)
    measured = np.ones(counts.shape[1], dtype=bool) if measured is None else measured
    total, squares = _sums(counts, rows, measured)
    mean = total / n
    variance = (squares - n * mean**2) / (n - 1)
    # Differences of large sums leave rounding in the place of a zero variance.
    varies = variance > 1e-12 * squares / n
    standardized = np.zeros_like(mean)
    if varies.any():
        trend = _local_quadratic(np.log10(mean[varies]), np.log10(variance[varies]))
        deviation = np.zeros_like(mean)
        deviation[varies] = np.sqrt(10.0**trend)
        total, squares = _sums(counts, rows, measured, deviation * np.sqrt(n) + mean)
        clipped = n * mean**2 + squares - 2 * mean * total
        standardized[varies] = clipped[varies] / ((n - 1) * deviation[varies] ** 2)
    return mean, standardized


def _sums(
    counts: Any, rows: NDArray[np.intp] | None, measured: NDArray[np.bool_], upper: NDArray[np.float64] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Per measured gene the sum and the sum of squares of the counts, each at most ``upper``."""
    n_variables = counts.shape[1]
    largest = np.full(n_variables, np.inf)
    if upper is not None:
        largest[measured] = upper
    total, squares = np.zeros(n_variables), np.zeros(n_variables)
    every = np.arange(n_variables)
    for _, block in row_blocks(counts, rows):
        if not block.has_canonical_format:
            block = block.copy()
            block.sum_duplicates()
        values = np.minimum(block.data.astype(np.float64), largest[block.indices])
        # The sums so far come first: rounded as if all rows were added at once.
        variables = np.concatenate([every, block.indices])
        total = np.bincount(variables, np.concatenate([total, values]))
        squares = np.bincount(variables, np.concatenate([squares, values**2]))
    return total[measured], squares[measured]


def _local_quadratic(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Loess of degree 2 with tricube weights, fitted at quantiles of ``x`` and interpolated between them."""
    anchors = np.unique(np.quantile(x, np.linspace(0, 1, _ANCHORS)))
    n_near = min(len(x), max(int(np.ceil(_SPAN * len(x))), _MIN_NEAR))
    fitted = np.empty(len(anchors))
    for k, anchor in enumerate(anchors):
        distance = np.abs(x - anchor)
        width = np.partition(distance, n_near - 1)[n_near - 1]
        near = distance <= width
        scaled = (x[near] - anchor) / (width or 1.0)
        weight = np.sqrt(np.clip(1 - np.abs(scaled) ** 3, 1e-6, None) ** 3)
        design = np.column_stack([np.ones_like(scaled), scaled, scaled**2]) * weight[:, None]
        fitted[k] = np.linalg.lstsq(design, y[near] * weight, rcond=None)[0][0]
    return np.interp(x, anchors, fitted)
