"""Image libraries of an AnnData: entries of ``uns["spatial"]``, found by what they hold and not by what stands beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stimage import _keys

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

_PARTS = {"images", "scalefactors", "metadata"}
_LIBRARY_COLUMNS = ("library_id", "library_key")
"""Columns of ``obs`` that name the library of an observation, as squidpy and spatialLIBD write them."""


def image_libraries(adata: AnnData) -> dict[str, Mapping[str, Any]]:
    """The libraries by name. CELLxGENE keeps the boolean ``is_single`` beside them, which is none."""
    entries = adata.uns.get(_keys.SPATIAL)
    if not isinstance(entries, Mapping):
        return {}
    return {
        str(name): entry
        for name, entry in entries.items()
        if isinstance(entry, Mapping) and (not entry or _PARTS & set(entry))
    }


def library_name(
    adata: AnnData, slide: str | None, observations: NDArray[np.intp] | None = None, *, only_slide: bool
) -> str | None:
    """Library of a slide: that of its name, that which ``obs["library_id"]`` names, or the only one of the only slide.

    Parameters
    ----------
    adata
        The AnnData.
    slide
        Name of the slide; ``None`` if it has none.
    observations
        Positions of its observations; all by default.
    only_slide
        Whether the AnnData holds no other.

    Returns
    -------
    str or None
        Name of the library; ``None`` if nothing says which it is.
    """
    libraries = image_libraries(adata)
    if slide is not None and slide in libraries:
        return slide
    for column in _LIBRARY_COLUMNS:
        if column in adata.obs:
            values = adata.obs[column] if observations is None else adata.obs[column].iloc[observations]
            said = values.dropna().astype(str).unique()
            if len(said) == 1 and said[0] in libraries:
                return str(said[0])
    return next(iter(libraries)) if only_slide and len(libraries) == 1 else None
