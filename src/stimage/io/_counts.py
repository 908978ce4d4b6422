"""Where an AnnData keeps raw counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stimage._validate import check_counts

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

COUNTS_LAYER = "counts"
"""Layer in which scanpy users, and exports from R, keep counts beside a normalised ``X``."""


def raw_counts(adata: AnnData, layer: str | None, *, raw_first: bool = False) -> tuple[Any, pd.DataFrame, str]:
    """Raw counts, the table of their genes and where they were.

    Looked for in ``X``, ``layers["counts"]`` and ``.raw``; with ``raw_first`` in ``.raw`` first, as conventions have it that
    keep counts there whenever it exists. The first that holds raw counts is taken.

    Raises
    ------
    KeyError
        If the layer asked for is absent.
    ValueError
        If none holds raw counts.
    """
    if layer is not None:
        return check_counts(adata, layer), adata.var, f"layers[{layer!r}]"
    places = ["X", COUNTS_LAYER, "raw"]
    if raw_first:
        places = ["raw", "X", COUNTS_LAYER]
    for place in places:
        found = _counts_at(adata, place)
        if found is not None:
            return found
    check_counts(adata)  # says what is wrong with X
    raise ValueError(
        "adata holds no raw counts in X, layers['counts'] or .raw: pass the layer that does with `layer=`."
    )


def _counts_at(adata: AnnData, place: str) -> tuple[Any, pd.DataFrame, str] | None:
    from anndata import AnnData

    if place == "raw":
        if adata.raw is None:
            return None
        holder, layer, where = AnnData(adata.raw.X, obs=adata.obs[[]], var=adata.raw.var), None, "raw.X"
    elif place == COUNTS_LAYER:
        if COUNTS_LAYER not in adata.layers:
            return None
        holder, layer, where = adata, COUNTS_LAYER, f"layers[{COUNTS_LAYER!r}]"
    else:
        holder, layer, where = adata, None, "X"
    try:
        return check_counts(holder, layer), holder.var, where
    except (TypeError, ValueError):
        return None
