"""Where raw counts are in an AnnData: what another matrix than the one that was read holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from stimage._count_rows import value_blocks

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

LARGEST_HALF = 2048
"""Above it half precision skips whole numbers."""


def stored_matrix(adata: AnnData, layer: str | None) -> Any:
    """``X`` or a layer; half precision, which scipy cannot compute with, as single."""
    matrix = adata.X if layer is None else adata.layers[layer]
    in_memory = isinstance(matrix, np.ndarray) or sparse.issparse(matrix)
    return matrix.astype(np.float32) if in_memory and matrix.dtype == np.float16 else matrix


@dataclass(frozen=True)
class CountsPlace:
    """A matrix that holds raw counts.

    Parameters
    ----------
    where
        What it is called in messages.
    advice
        A sentence that says so, and the line to write.
    matrix
        The counts (observations x genes).
    var
        The table of their genes.
    """

    where: str
    advice: str
    matrix: Any
    var: pd.DataFrame


def counts_elsewhere(adata: AnnData, layer: str | None) -> list[CountsPlace]:
    """The matrices beside the one that was read that hold raw counts: ``X``, any layer, ``.raw``."""
    found = []
    if layer is not None and _are_counts(adata.X):
        found.append(CountsPlace("X", "adata.X holds raw counts: leave out `layer`.", adata.X, adata.var))
    for name in adata.layers.keys():
        if name is not None and name != layer and _are_counts(adata.layers[name]):
            where = f"layers[{name!r}]"
            advice = f"adata.{where} holds raw counts: `layer`={name!r}."
            found.append(CountsPlace(where, advice, adata.layers[name], adata.var))
    raw = counts_in_raw(adata)
    return found if raw is None else [*found, raw]


def counts_in_raw(adata: AnnData) -> CountsPlace | None:
    """``.raw`` if it holds raw counts."""
    if adata.raw is None or not _are_counts(adata.raw.X):
        return None
    names = adata.raw.var_names
    if len(names) == adata.n_vars and names.is_unique and adata.var_names.isin(names).all():
        how = "adata.layers['counts'] = adata.raw[:, adata.var_names].X makes them a layer for `layer`='counts'"
    else:
        how = "`adata.raw.to_adata()` is an AnnData of all of them, as library sizes need"
    advice = f"adata.raw holds raw counts of {len(names)} genes: {how}."
    return CountsPlace("raw.X", advice, adata.raw.X, adata.raw.var)


def other_counts(adata: AnnData, layer: str | None) -> str:
    """A sentence on each matrix of an AnnData, beside the one that was read, that holds raw counts; empty if none does.

    They are named, never taken: whether a layer is what its name says is for the user to know.
    """
    return " ".join(place.advice for place in counts_elsewhere(adata, layer))


def same_counts(part: CountsPlace, whole: CountsPlace) -> bool:
    """Whether one matrix holds the same counts as another, for all of its genes."""
    genes, known = part.var.index, whole.var.index
    one, other = part.matrix, whole.matrix
    if not genes.equals(known):
        if not (genes.is_unique and known.is_unique and genes.isin(known).all()):
            return False
        other = other[:, known.get_indexer(genes)]
    if sparse.issparse(one) or sparse.issparse(other):
        return (sparse.csr_matrix(one) != sparse.csr_matrix(other)).nnz == 0
    return np.array_equal(one, other)


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
