"""Where raw counts are in an AnnData: what another matrix than the one that was read holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    Matrix = NDArray[Any] | sparse.csr_matrix | sparse.csc_matrix

_BLOCK = 1 << 22  # values looked at together, so that a check needs no copy of a large matrix
LARGEST_HALF = 2048
"""Above it half precision skips whole numbers."""


def stored_matrix(adata: AnnData, layer: str | None) -> Any:
    """``X`` or a layer; half precision, which scipy cannot compute with, as single."""
    matrix = adata.X if layer is None else adata.layers[layer]
    return matrix.astype(np.float32) if getattr(matrix, "dtype", None) == np.float16 else matrix


def value_blocks(matrix: Matrix) -> Iterator[NDArray[Any]]:
    """The stored values of a matrix, some at a time."""
    values = matrix if isinstance(matrix, np.ndarray) else matrix.data
    step = max(1, _BLOCK // max(1, int(np.prod(values.shape[1:]))))
    for start in range(0, len(values), step):
        block = values[start : start + step]
        if block.size:
            yield block


def other_counts(adata: AnnData, layer: str | None) -> str:
    """A sentence on each matrix of an AnnData, beside the one that was read, that holds raw counts; empty if none does.

    They are named, never taken: whether a layer is what its name says is for the user to know.
    """
    found = []
    if layer is not None and _are_counts(adata.X):
        found.append("adata.X holds raw counts: leave out `layer`.")
    for name in adata.layers.keys():
        if name is not None and name != layer and _are_counts(adata.layers[name]):
            found.append(f"adata.layers[{name!r}] holds raw counts: `layer`={name!r}.")
    if adata.raw is not None and _are_counts(adata.raw.X):
        names = adata.raw.var_names
        if len(names) == adata.n_vars and names.is_unique and adata.var_names.isin(names).all():
            how = "adata.layers['counts'] = adata.raw[:, adata.var_names].X makes them a layer for `layer`='counts'"
        else:
            how = "`adata.raw.to_adata()` is an AnnData of all of them, as library sizes need"
        found.append(f"adata.raw holds raw counts of {len(names)} genes: {how}.")
    return " ".join(found)


def _are_counts(matrix: Any) -> bool:
    """Whether a matrix in memory holds whole numbers, none of them negative, and is not empty."""
    if not (isinstance(matrix, np.ndarray) or (sparse.issparse(matrix) and matrix.format in ("csr", "csc"))):
        return False
    if matrix.dtype.kind not in "iuf" or not matrix.size:
        return False
    some = False
    for block in value_blocks(matrix):
        if not np.isfinite(block).all() or block.min() < 0 or (block != np.rint(block)).any():
            return False
        some = some or bool(block.any())
    return some
