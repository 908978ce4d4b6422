"""Rows of a matrix of counts, in memory or in the file of a backed AnnData, some at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from scipy import sparse

VALUES_AT_A_TIME = 1 << 20
"""Values of a matrix that are held together: 8 MB of a sparse one."""
_GAP = 256
"""Rows of a file between two that are asked for, below which they are read as well: one long reading takes less than two."""


def is_backed(matrix: Any) -> bool:
    """Whether a matrix is that of a backed AnnData: rows of it are read from its file."""
    if matrix is None or isinstance(matrix, np.ndarray) or sparse.issparse(matrix):
        return False
    from anndata.abc import CSCDataset, CSRDataset
    from h5py import Dataset

    return isinstance(matrix, CSRDataset | CSCDataset | Dataset)


def is_by_gene(matrix: Any) -> bool:
    """Whether a sparse matrix, in memory or in a file, is stored column by column, so that rows are slow to read."""
    return getattr(matrix, "format", None) == "csc"


def value_blocks(matrix: Any) -> Iterator[np.ndarray]:
    """The stored values of a matrix, some at a time."""
    if hasattr(matrix, "group"):  # sparse in a file
        values = matrix.group["data"]
    else:
        values = matrix.data if sparse.issparse(matrix) else matrix
    step = max(1, VALUES_AT_A_TIME // max(1, int(np.prod(values.shape[1:]))))
    for start in range(0, len(values), step):
        block = values[start : start + step]
        if block.size:
            yield block


def by_rows(counts: Any) -> Any:
    """Counts of which rows can be taken without a copy of all; of a matrix stored column by column a copy."""
    return _of_one_index_type(counts.tocsr()) if sparse.issparse(counts) else counts


def rows_at_a_time(counts: Any) -> int:
    """Rows that have about ``VALUES_AT_A_TIME`` values."""
    n_rows, n_genes = counts.shape
    if sparse.issparse(counts):
        n_values = counts.nnz
    else:
        n_values = counts.group["data"].shape[0] if hasattr(counts, "group") else n_rows * n_genes
    return max(1, VALUES_AT_A_TIME * n_rows // max(1, n_values))


def count_rows(counts: Any, rows: np.ndarray) -> sparse.csr_matrix:
    """Some rows of counts by their numbers, in any order.

    Of a file, runs of rows are read, together with what is between two that are close to each other.
    """
    if not is_backed(counts):
        found = _of_one_index_type(counts)[rows]
    else:
        ordered, place = np.unique(rows, return_inverse=True)
        found = _from_file(counts, ordered)
        if not np.array_equal(place, np.arange(len(rows))):
            found = found[place]
    return sparse.csr_matrix(_single(found))


def row_blocks(counts: Any, rows: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, sparse.csr_matrix]]:
    """Numbers of some rows and their counts, all rows by default; as few at a time as keeps memory small.

    Blocks of a matrix in memory may share its values: they are to be read only.
    """
    counts = by_rows(counts)
    n_rows, step = counts.shape[0] if rows is None else len(rows), rows_at_a_time(counts)
    for start in range(0, n_rows, step):
        stop = min(start + step, n_rows)
        if rows is None:
            yield np.arange(start, stop), sparse.csr_matrix(_single(counts[start:stop]))
        else:
            yield rows[start:stop], count_rows(counts, rows[start:stop])


def gene_totals(counts: Any, slides: Sequence[np.ndarray] | None = None) -> np.ndarray:
    """Counts of each variable on each slide, given by its rows (slides x variables); all rows are one slide by default."""
    slides = [np.arange(counts.shape[0])] if slides is None else slides
    slide_of_row = np.full(counts.shape[0], -1)
    for number, rows in enumerate(slides):
        slide_of_row[rows] = number
    totals = np.zeros((len(slides), counts.shape[1]))
    for rows, block in row_blocks(counts):
        of_slide = slide_of_row[rows]
        known = np.flatnonzero(of_slide >= 0)
        gather = sparse.csr_matrix((np.ones(len(known)), (of_slide[known], known)), shape=(len(slides), len(rows)))
        totals += (gather @ block).toarray()
    return totals


def _of_one_index_type(counts: Any) -> Any:
    """The same sparse matrix, values shared, with indices of one type: scipy converts them all whenever it takes rows."""
    if not sparse.issparse(counts) or counts.indptr.dtype == counts.indices.dtype:
        return counts
    return type(counts)((counts.data, counts.indices, counts.indptr), shape=counts.shape, copy=False)


def _single(matrix: Any) -> Any:
    """Half precision, which scipy cannot compute with, as single."""
    return matrix.astype(np.float32) if matrix.dtype == np.float16 else matrix


def _from_file(counts: Any, rows: np.ndarray) -> sparse.csr_matrix:
    """Ascending rows of a matrix in a file."""
    breaks = np.flatnonzero(np.diff(rows) > _GAP) + 1
    step = rows_at_a_time(counts)
    parts = []
    for run in np.split(rows, breaks):
        for start in range(int(run[0]) if len(run) else 0, int(run[-1]) + 1 if len(run) else 0, step):
            stop = min(start + step, int(run[-1]) + 1)
            wanted = run[np.searchsorted(run, start) : np.searchsorted(run, stop)] - start
            if not len(wanted):
                continue
            part = sparse.csr_matrix(counts[start:stop])
            parts.append(part if len(wanted) == part.shape[0] else part[wanted])
    if not parts:
        return sparse.csr_matrix((0, counts.shape[1]), dtype=counts.dtype)
    return parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")
