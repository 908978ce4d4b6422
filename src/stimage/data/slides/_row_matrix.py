from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Self

import numpy as np
from scipy import sparse

_BLOCK = 1 << 21
"""Non-zero values read together where all rows are needed: 16 MB."""


class RowMatrix(ABC):
    """A CSR matrix of log1p counts (sites x genes), float32, whose rows are made when they are asked for.

    Parameters
    ----------
    shape
        Rows (sites) and columns (genes).
    indptr
        Where the values of each row begin, int64 (rows + 1).
    """

    # numpy leaves `array @ matrix` to this class.
    __array_ufunc__ = None

    def __init__(self, shape: tuple[int, int], indptr: np.ndarray) -> None:
        self.shape = (int(shape[0]), int(shape[1]))
        self.indptr = np.ascontiguousarray(indptr, dtype=np.int64)
        self.ratio = 1.0

    @property
    def nnz(self) -> int:
        """Number of values."""
        return int(self.indptr[-1])

    @property
    def dtype(self) -> np.dtype:
        """Type of the values: float32."""
        return np.dtype(np.float32)

    def rescaled(self, ratio: float) -> Self:
        """The same matrix for another ``target_sum``; values are converted as they are read.

        Parameters
        ----------
        ratio
            New ``target_sum`` over the old one.

        Returns
        -------
        RowMatrix
            Reads ``log1p(expm1(x) * ratio)`` where this one reads ``x``.
        """
        other = copy.copy(self)
        other.ratio = self.ratio * ratio
        return other

    def in_memory(self) -> sparse.csr_matrix:
        """The whole matrix; beside it there is never more than a block."""
        data, indices = np.empty(self.nnz, dtype=np.float32), np.empty(self.nnz, dtype=np.int32)
        for rows, block in self.row_blocks():
            values = slice(self.indptr[rows[0]], self.indptr[rows[-1] + 1])
            data[values], indices[values] = block.data, block.indices
        # As scipy makes them.
        indptr = self.indptr.astype(np.int32) if self.nnz < 2**31 else self.indptr
        return sparse.csr_matrix((data, indices, indptr), shape=self.shape)

    def __getitem__(self, rows: np.ndarray | slice) -> sparse.csr_matrix:
        """Read rows, by their numbers (in any order, also repeated), a boolean mask or a slice."""
        rows = self._row_numbers(rows)
        if (np.diff(rows) <= 0).any():
            ordered, place = np.unique(rows, return_inverse=True)
            return self._read(ordered)[place]
        return self._read(rows)

    def row_blocks(self, rows: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, sparse.csr_matrix]]:
        """Go through rows a block at a time, so that memory stays bounded.

        Parameters
        ----------
        rows
            Row numbers or a boolean mask; all rows by default.

        Yields
        ------
        tuple
            Numbers of the rows of a block, in the order asked for, and the block.
        """
        rows = self._row_numbers(slice(None) if rows is None else rows)
        ends = np.cumsum(self.indptr[rows + 1] - self.indptr[rows])
        start = 0
        while start < len(rows):
            before = ends[start - 1] if start else 0
            stop = max(int(np.searchsorted(ends, before + _BLOCK, side="right")), start + 1)
            yield rows[start:stop], self[rows[start:stop]]
            start = stop

    def __matmul__(self, right: np.ndarray) -> np.ndarray:
        """Product with a dense matrix (genes x columns) or vector, block by block."""
        right = np.asarray(right)
        product = np.empty((self.shape[0], *right.shape[1:]), dtype=np.result_type(self.dtype, right.dtype))
        for rows, block in self.row_blocks():
            product[rows] = block @ right
        return product

    def __rmatmul__(self, left: sparse.spmatrix) -> sparse.csr_matrix:
        """Product of a sparse matrix (any x sites) with this one; only rows that it weighs are read."""
        if not sparse.issparse(left):
            return NotImplemented
        left = left.tocsc()
        product = sparse.csr_matrix((left.shape[0], self.shape[1]), dtype=np.result_type(self.dtype, left.dtype))
        for rows, block in self.row_blocks(np.flatnonzero(np.diff(left.indptr))):
            product = product + left[:, rows] @ block
        return product

    @abstractmethod
    def _read(self, rows: np.ndarray) -> sparse.csr_matrix:
        """Rows in ascending order."""

    def _row_numbers(self, rows: np.ndarray | slice) -> np.ndarray:
        n_rows = self.shape[0]
        if isinstance(rows, slice):
            return np.arange(n_rows)[rows]
        rows = np.atleast_1d(np.asarray(rows))
        if rows.ndim > 1 or rows.dtype.kind not in "biu":
            # An empty list has no type of its own.
            if rows.shape != (0,):
                raise TypeError(f"Rows must be integers, a boolean mask or a slice, found {rows.ndim}-d {rows.dtype}.")
            rows = rows.astype(np.int64)
        if rows.dtype.kind == "b":
            if len(rows) != n_rows:
                raise IndexError(f"A mask over {len(rows)} rows cannot choose among {n_rows}.")
            return np.flatnonzero(rows)
        rows = rows.astype(np.int64, copy=False)
        if len(rows) and (rows.min() < -n_rows or rows.max() >= n_rows):
            raise IndexError(f"Rows {rows.min()} to {rows.max()} were asked for, there are {n_rows}.")
        return np.where(rows < 0, rows + n_rows, rows)
