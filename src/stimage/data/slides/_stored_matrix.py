from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import numpy as np
from scipy import sparse

from stimage.data.slides._expression import rescaled

_BLOCK = 1 << 22
"""Non-zero values read together where all rows are needed: 32 MB."""

LARGEST_VALUE = 80.0
"""No logarithm of counts is larger, and its exponential is finite in single precision."""

DATA_DTYPE, INDICES_DTYPE = np.dtype("<f4"), np.dtype("<i4")


class StoredMatrix:
    """A CSR matrix of log1p counts in a file, whose rows are read on demand.

    The file is opened for each reading and never mapped: no descriptor stays open, memory does not grow with what was
    read, and the matrix can be pickled and used in any number of processes. Only ``indptr`` is kept, 8 bytes a row.

    Parameters
    ----------
    path
        The file.
    shape
        Rows (sites) and columns (genes).
    indptr
        Where the values of each row begin, int64 (rows + 1).
    data_offset, indices_offset
        Bytes of the file before the values (float32) and before their columns (int32).

    Examples
    --------
    >>> import tempfile
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> corpus = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     corpus.write(f"{folder}/corpus")
    ...     expression = sti.data.Corpus.open(f"{folder}/corpus")[0].expression
    ...     print(expression[3:7].shape)
    (4, 100)
    """

    # numpy leaves `array @ matrix` to this class.
    __array_ufunc__ = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        shape: tuple[int, int],
        indptr: np.ndarray,
        *,
        data_offset: int,
        indices_offset: int,
    ) -> None:
        # A training process may change its working directory.
        self.path = str(Path(path).absolute())
        self.shape = (int(shape[0]), int(shape[1]))
        self.indptr = np.ascontiguousarray(indptr, dtype=np.int64)
        self.data_offset = data_offset
        self.indices_offset = indices_offset
        self.ratio = 1.0

    def __repr__(self) -> str:
        return f"StoredMatrix of {self.shape[0]} x {self.shape[1]} with {self.nnz} values in {self.path!r}"

    @property
    def nnz(self) -> int:
        """Number of stored values."""
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
        StoredMatrix
            Reads ``log1p(expm1(x) * ratio)`` where this one reads ``x``.
        """
        other = copy.copy(self)
        other.ratio = self.ratio * ratio
        return other

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

    def _read(self, rows: np.ndarray) -> sparse.csr_matrix:
        """Read rows in ascending order, each run of adjacent ones at once."""
        begins, ends = self.indptr[rows], self.indptr[rows + 1]
        # Rows without values between two others do not separate them in the file.
        first = np.ones(len(rows), dtype=bool)
        first[1:] = begins[1:] != ends[:-1]
        last = np.append(first[1:], True)[: len(rows)]
        runs = list(zip(begins[first].tolist(), ends[last].tolist(), strict=True))
        indptr = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(ends - begins, out=indptr[1:])
        n_values = int(indptr[-1])
        data, indices = np.empty(n_values, dtype=DATA_DTYPE), np.empty(n_values, dtype=INDICES_DTYPE)
        try:
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self.path!r}, a slide of a corpus, is gone: put it back, or open the corpus again with "
                "`stimage.data.Corpus.open` if it was written anew."
            ) from error
        try:
            self._fill(descriptor, data, runs, self.data_offset)
            self._fill(descriptor, indices, runs, self.indices_offset)
        finally:
            os.close(descriptor)
        # A column outside of the matrix would make compiled code read foreign memory; negative ones are large here.
        if n_values and indices.view(np.uint32).max() >= self.shape[1]:
            raise self._damaged("it names genes that the vocabulary does not have")
        # Neither NaN nor what is not finite on another scale: choosing genes by their variance relies on it.
        if n_values and not (data.min() >= 0 and data.max() <= LARGEST_VALUE):
            raise self._damaged("it holds values that are not log1p of counts")
        if self.ratio != 1.0:
            data = rescaled(data, self.ratio)
        if n_values < 2**31:
            indptr = indptr.astype(np.int32)
        return sparse.csr_matrix((data, indices, indptr), shape=(len(rows), self.shape[1]))

    def _fill(self, descriptor: int, values: np.ndarray, runs: list[tuple[int, int]], offset: int) -> None:
        """Fill an array with runs of values of the file, one after the other."""
        buffer = memoryview(values.view(np.uint8))
        done = 0
        for begin, end in runs:
            position, left = offset + begin * values.itemsize, (end - begin) * values.itemsize
            while left:
                n_read = os.preadv(descriptor, [buffer[done : done + left]], position)
                if not n_read:
                    raise self._damaged("it ends too early")
                done, position, left = done + n_read, position + n_read, left - n_read

    def _damaged(self, reason: str) -> ValueError:
        return ValueError(
            f"{self.path!r}, a slide of a corpus, is damaged: {reason}. `stimage.data.Corpus.verify` names all damaged "
            "slides; restore them from a copy, or build the corpus again."
        )
