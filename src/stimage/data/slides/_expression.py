"""Log expression: the logarithm of one plus counts per so many, the scale on which everything in the package works."""

from __future__ import annotations

import numpy as np
from scipy import sparse

COUNTS_PER_SPOT = 1e4
"""Counts that each site adds up to before the logarithm, as a slide is read."""


def log_expression(counts: sparse.csr_matrix, library_size: np.ndarray) -> sparse.csr_matrix:
    """Log1p of counts per ``COUNTS_PER_SPOT`` (sites x genes, float32).

    ``library_size`` (sites) may count more genes than ``counts`` has; sites with none stay zero.
    """
    scale = np.divide(COUNTS_PER_SPOT, library_size, out=np.zeros_like(library_size), where=library_size > 0)
    expression = sparse.csr_matrix(sparse.diags(scale) @ counts, dtype=np.float32)
    np.log1p(expression.data, out=expression.data)
    expression.sort_indices()
    return expression


def rescaled(log_values: np.ndarray, ratio: float) -> np.ndarray:
    """Log expression per so many counts as log expression per ``ratio`` times as many."""
    values = np.expm1(log_values)
    values *= np.float32(ratio)
    return np.log1p(values, out=values)
