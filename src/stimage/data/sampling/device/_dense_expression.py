from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from scipy import sparse
from torch import Tensor

from stimage.data.slides._slide import Slide
from stimage.data.slides._stored_matrix import StoredMatrix

_BLOCK = 1 << 26
"""Values converted together: 256 MB in single precision."""


class DenseExpression:
    """Expression of many slides as one dense matrix on a device.

    Slides that share their expression, such as the parts of one that is split into blocks, share its rows.

    Parameters
    ----------
    values
        The rows of all matrices, one after the other, and a last row of zeros (rows x genes).
    matrices
        The matrices as the slides have them.
    """

    def __init__(self, values: Tensor, matrices: Sequence[sparse.csr_matrix | StoredMatrix]) -> None:
        self.values = values
        # They are kept, so that what they are known by stays theirs.
        self._matrices = list(matrices)
        self._first_row, start = {}, 0
        for matrix in self._matrices:
            self._first_row[id(matrix)] = start
            start += matrix.shape[0]

    @classmethod
    def from_slides(
        cls,
        slides: Sequence[Slide],
        *,
        device: torch.device | str,
        dtype: torch.dtype = torch.float16,
        memory_limit: int | None = None,
    ) -> Self:
        """Bring the expression of slides to a device.

        Parameters
        ----------
        slides
            The slides, over one vocabulary.
        device
            Where the matrix is.
        dtype
            Its type. Half precision is right to three digits, which is finer than counting noise at any depth.
        memory_limit
            Most bytes that it may have; on a GPU by default four fifths of what is free.

        Returns
        -------
        Self
            The expression.

        Raises
        ------
        MemoryError
            If it needs more.
        """
        device = torch.device(device)
        matrices = list({id(slide.expression): slide.expression for slide in slides}.values())
        n_rows, n_genes = sum(matrix.shape[0] for matrix in matrices), matrices[0].shape[1]
        needed = (n_rows + 1) * n_genes * dtype.itemsize
        if memory_limit is None and device.type == "cuda":
            memory_limit = torch.cuda.mem_get_info(device)[0] * 4 // 5
        if memory_limit is not None and needed > memory_limit:
            raise MemoryError(
                f"{n_rows} sites x {n_genes} genes need {needed / 1e9:.3g} GB on {str(device)!r}, of which "
                f"{memory_limit / 1e9:.3g} GB may be used: sample on the CPU, or use a smaller vocabulary or fewer slides."
            )
        values = torch.zeros(n_rows + 1, n_genes, dtype=dtype, device=device)
        start, step = 0, max(_BLOCK // n_genes, 1)
        for matrix in matrices:
            for row in range(0, matrix.shape[0], step):
                block = torch.from_numpy(matrix[row : row + step].toarray())
                values[start + row : start + row + len(block)] = block.to(dtype).to(device)
            start += matrix.shape[0]
        return cls(values, matrices)

    def first_row(self, slide: Slide) -> int:
        """Row of a slide's first site."""
        return self._first_row[id(slide.expression)]

    @property
    def empty_row(self) -> int:
        """The row that is zero."""
        return len(self.values) - 1
