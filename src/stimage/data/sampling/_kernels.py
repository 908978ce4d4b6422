from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numba import njit
from scipy import sparse

if TYPE_CHECKING:
    from stimage.data.slides._stored_matrix import StoredMatrix

_STRIDE = 16
"""One key in so many is looked at first when the smallest are sought."""
_FAN = 32
"""Weights, and sums of weights, that are added up together for drawing."""


def row_arrays(
    matrix: sparse.csr_matrix | StoredMatrix, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Arrays from which the kernels read some rows of a matrix.

    Parameters
    ----------
    matrix
        CSR matrix in memory, whose own arrays are returned, or a stored one, of which these rows alone are read. No
        column comes twice in a row.
    rows
        Numbers of the rows (rows).

    Returns
    -------
    tuple
        ``indptr``, ``indices`` and ``data`` of a CSR matrix, and the numbers that the rows have in it (rows).
    """
    if not sparse.issparse(matrix):
        matrix, rows = matrix[rows], np.arange(len(rows))
    # One type of row numbers: kernels are compiled for every combination of types that they meet.
    return matrix.indptr, matrix.indices, matrix.data, rows.astype(np.int64)


@njit(nogil=True, cache=True, error_model="numpy")
def gene_variances(
    indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, rows: np.ndarray, n_genes: int
) -> np.ndarray:
    """Variance of every gene over some rows of a CSR matrix (genes), from sums in double precision.

    Only what is stored is read. Mean of squares minus squared mean is exact enough for log1p counts, whose squares are
    below 100: its error is below 1e-12, that of ε is 1e-6.
    """
    # Both sums of a gene lie in one cache line.
    moments = np.zeros((n_genes, 2), dtype=np.float64)
    for row in rows:
        row_indices = indices[indptr[row] : indptr[row + 1]]
        row_data = data[indptr[row] : indptr[row + 1]]
        for k in range(len(row_data)):
            # Unsigned: numba otherwise asks of each number whether it is negative and counts from the end.
            gene, value = np.uint64(row_indices[k]), np.float64(row_data[k])
            moments[gene, 0] += value
            moments[gene, 1] += value * value
    variance = np.empty(n_genes, dtype=np.float64)
    for gene in range(n_genes):
        mean = moments[gene, 0] / len(rows)
        spread = moments[gene, 1] / len(rows) - mean * mean
        # Rounding may leave a constant gene just below zero; without rows this is not a number.
        variance[gene] = spread if spread > 0 else 0.0
    return variance


@njit(nogil=True, cache=True)
def read_genes(
    indptr: np.ndarray,
    indices: np.ndarray,
    data: np.ndarray,
    rows: np.ndarray,
    n_genes: int,
    genes: np.ndarray,
    centre: np.ndarray,
    sites: np.ndarray,
    window: np.ndarray,
) -> None:
    """Write centred values of some genes into a window (sites x at least as many genes), row i to ``sites[i]``."""
    n_chosen = len(genes)
    # Values of all other genes go to a column of their own: cheaper than asking of each whether it is wanted.
    column = np.full(n_genes, n_chosen, dtype=np.uint32)
    values = np.empty(n_chosen + 1, dtype=data.dtype)
    for j in range(n_chosen):
        column[genes[j]] = j
    for i in range(len(rows)):
        values[:] = 0
        row_indices = indices[indptr[rows[i]] : indptr[rows[i] + 1]]
        row_data = data[indptr[rows[i]] : indptr[rows[i] + 1]]
        for k in range(len(row_data)):
            values[column[np.uint64(row_indices[k])]] = row_data[k]
        for j in range(n_chosen):
            window[sites[i], j] = values[j] - centre[j]


@njit(nogil=True, cache=True)
def smallest(keys: np.ndarray, n: int) -> np.ndarray:
    """Sorted places of the ``n`` smallest of at least as many keys; of equal ones the first."""
    # A sample tells about where the n-th smallest lies, so that few keys need be put in order.
    sample = keys[::_STRIDE].copy()
    rank = int(n / _STRIDE + 4 * np.sqrt(n / _STRIDE) + 4)
    guess = np.partition(sample, rank)[rank] if rank < len(sample) else np.inf
    places = np.empty(len(keys), dtype=np.int64)
    n_candidates = 0
    for limit in (guess, np.inf):
        if n_candidates >= n:
            break
        n_candidates = 0
        for place in range(len(keys)):
            # Written always and kept if small: no branch to predict.
            places[n_candidates] = place
            n_candidates += keys[place] <= limit
    candidates = keys[places[:n_candidates]]
    last = np.partition(candidates, n - 1)[n - 1]
    n_equal = n - np.sum(candidates < last)
    chosen = np.empty(n, dtype=np.int64)
    n_chosen = 0
    for i in range(n_candidates):
        if candidates[i] < last or (candidates[i] == last and n_equal > 0):
            n_equal -= candidates[i] == last
            chosen[n_chosen] = places[i]
            n_chosen += 1
    return chosen


@njit(nogil=True, cache=True)
def _add_up(parts: np.ndarray, group: int) -> float:
    """Sum of one group of parts."""
    total = 0.0
    for i in range(group * _FAN, min((group + 1) * _FAN, len(parts))):
        total += parts[i]
    return total


@njit(nogil=True, cache=True)
def _find(parts: np.ndarray, start: int, stop: int, left: float) -> tuple[int, float]:
    """The part in which a length ends that is laid along some of them, and the length left in it."""
    last = start
    for i in range(start, min(stop, len(parts))):
        if left < parts[i]:
            return i, left
        left -= parts[i]
        if parts[i] > 0:
            last = i
    # Rounding may lead past the end.
    return last, 0.0


@njit(nogil=True, cache=True)
def draw_in_turn(weights: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """Draw as many places as there are uniform numbers, each in proportion to the weights that remain.

    The weights are positive; those of places that are drawn become zero.
    """
    # Sums of sums make a draw a matter of three short searches. They are added up again, not subtracted from: what is left
    # may be many orders of magnitude smaller than what was drawn.
    n_small = (len(weights) + _FAN - 1) // _FAN
    small = np.empty(n_small, dtype=np.float64)
    for i in range(n_small):
        small[i] = _add_up(weights, i)
    large = np.empty((n_small + _FAN - 1) // _FAN, dtype=np.float64)
    for i in range(len(large)):
        large[i] = _add_up(small, i)
    drawn = np.empty(len(uniform), dtype=np.int64)
    for k in range(len(uniform)):
        i, left = _find(large, 0, len(large), uniform[k] * large.sum())
        i, left = _find(small, i * _FAN, (i + 1) * _FAN, left)
        i, left = _find(weights, i * _FAN, (i + 1) * _FAN, left)
        drawn[k] = i
        weights[i] = 0.0
        small[i // _FAN] = _add_up(weights, i // _FAN)
        large[i // _FAN**2] = _add_up(small, i // _FAN**2)
    return drawn
