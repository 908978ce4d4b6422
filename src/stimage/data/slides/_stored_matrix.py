from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from scipy import sparse

from stimage.data.slides._expression import rescaled
from stimage.data.slides._row_matrix import RowMatrix

LARGEST_VALUE = 80.0
"""No logarithm of counts is larger, and its exponential is finite in single precision."""

DATA_DTYPE, INDICES_DTYPE = np.dtype("<f4"), np.dtype("<i4")


class StoredMatrix(RowMatrix):
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
        super().__init__(shape, indptr)
        self.data_offset = data_offset
        self.indices_offset = indices_offset

    def __repr__(self) -> str:
        return f"StoredMatrix of {self.shape[0]} x {self.shape[1]} with {self.nnz} values in {self.path!r}"

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
