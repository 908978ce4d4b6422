"""Genes that a slide of a joint AnnData did not measure: an outer join leaves zeros in their place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray

_EXPECTED = 20.0
"""Counts that a gene would have on a slide if it were as frequent there as elsewhere; none at all is then no chance."""
_PANEL = 0.05
"""Share of such genes without a count from which the slide's panel is another one, so that all its empty genes are absent."""


def absent_genes(counts: Any, slides: Sequence[NDArray[np.intp]]) -> NDArray[np.bool_]:
    """Which variables each slide of one AnnData did not measure (slides x variables).

    A gene without a single count on a slide is taken as not measured there if the other slides have it so often that 20
    counts or more would be expected; where this holds for a twentieth of the genes that common, the slide has another panel
    and all its genes without counts are taken so. Nothing is lost by it within a slide, where such a gene is the same
    everywhere.

    Parameters
    ----------
    counts
        Raw counts (observations x variables).
    slides
        Positions of the observations of each slide.

    Returns
    -------
    numpy.ndarray
        Boolean; all False for a single slide.
    """
    if len(slides) < 2:
        return np.zeros((len(slides), counts.shape[1]), dtype=bool)
    rows = np.repeat(np.arange(len(slides)), [len(slide) for slide in slides])
    gather = sparse.csr_matrix(
        (np.ones(len(rows)), (rows, np.concatenate(slides))), shape=(len(slides), counts.shape[0])
    )
    totals = gather @ counts
    totals = totals.toarray() if sparse.issparse(totals) else np.asarray(totals)
    empty = totals == 0
    size = totals.sum(axis=1)
    size_with = size @ ~empty  # counts of the slides that have the gene
    share = np.divide(totals.sum(axis=0), size_with, out=np.zeros(totals.shape[1]), where=size_with > 0)
    common = np.outer(size, share) >= _EXPECTED
    surely = empty & common
    other_panel = surely.sum(axis=1) > _PANEL * common.sum(axis=1)
    return surely | (empty & ~empty.all(axis=0) & other_panel[:, None])
