"""Predictions of some genes in the shape of all of a slide's, in memory that fits those that are predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from stimage._counts import stored_matrix

if TYPE_CHECKING:
    from anndata import AnnData

_DENSE = 20
"""Genes of a slide for each predicted one up to which a dense layer is no waste."""
_SPARSE = 10
"""Stored genes for each predicted one up to which a sparse layer is none: an index beside each value doubles its size."""


def prediction_layer(
    adata: AnnData, predicted: np.ndarray, gene_of_variable: np.ndarray, layer: str | None
) -> np.ndarray | sparse.csc_matrix | None:
    """Layer of predictions, NaN for genes that were not predicted.

    Parameters
    ----------
    adata
        The slides.
    predicted
        Predictions (observations x vocabulary).
    gene_of_variable
        Vocabulary index of each variable, -1 for none (variables).
    layer
        Layer with raw counts; ``None`` for ``X``.

    Returns
    -------
    numpy.ndarray, scipy.sparse.csc_matrix or None
        Dense where at least a twentieth of the genes is predicted. Otherwise sparse: unknown genes without a count are not
        stored. None where it would hold ten times what is predicted.
    """
    known = gene_of_variable >= 0
    if adata.n_vars <= _DENSE * known.sum():
        filled = np.full(adata.shape, np.nan, dtype=np.float32)
        filled[:, known] = predicted[:, gene_of_variable[known]]
        return filled
    stored = np.flatnonzero(known | _has_counts(adata, layer))
    if len(stored) > _SPARSE * known.sum():
        return None
    values = np.full((len(stored), adata.n_obs), np.nan, dtype=np.float32)
    values[known[stored]] = predicted[:, gene_of_variable[stored[known[stored]]]].T
    ends = np.zeros(adata.n_vars + 1, dtype=np.int64)
    ends[stored + 1] = adata.n_obs
    rows = np.tile(np.arange(adata.n_obs, dtype=np.int32), len(stored))
    return sparse.csc_matrix((values.ravel(), rows, np.cumsum(ends)), shape=adata.shape)


def _has_counts(adata: AnnData, layer: str | None) -> np.ndarray:
    counts = stored_matrix(adata, layer)
    if counts is None:
        return np.zeros(adata.n_vars, dtype=bool)
    return np.asarray((counts != 0).sum(axis=0)).ravel() > 0
