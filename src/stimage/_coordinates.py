"""Coordinates of observations: in ``obsm``, as an array or a data frame, or in columns of ``obs``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stimage import _keys
from stimage._messages import listing

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

OBSM = (_keys.SPATIAL, "X_spatial", "spatialCoords")
"""Keys of ``obsm`` that hold coordinates: ours, and others of squidpy before 1.0 and of exports from R."""
_COLUMNS = (
    ("pxl_col_in_fullres", "pxl_row_in_fullres"),
    ("x_centroid", "y_centroid"),
    ("CenterX_global_px", "CenterY_global_px"),
    ("center_x", "center_y"),
    ("spatial0", "spatial1"),
    ("spatial_0", "spatial_1"),
    ("imagecol", "imagerow"),
    ("x_coord", "y_coord"),
    ("x_pixel", "y_pixel"),
    ("x", "y"),
    ("X", "Y"),
)
"""Names of x and y in columns: Space Ranger, Xenium, CosMx, MERSCOPE, zellkonverter, Seurat and SpatialCorpus-110M."""


def coordinate_columns(adata: AnnData, spatial_key: str) -> tuple[str, str] | None:
    """Columns of ``obs`` with x and y where ``obsm`` has no coordinates; None if there are none or they are not needed.

    Raises
    ------
    KeyError
        If several pairs of columns could be meant.
    """
    if spatial_key in adata.obsm or spatial_key != _keys.SPATIAL:
        return None
    from pandas.api.types import is_numeric_dtype

    found = [pair for pair in _COLUMNS if all(column in adata.obs for column in pair)]
    # Text is only looked at where nothing else is there, to say so.
    found = [pair for pair in found if all(is_numeric_dtype(adata.obs[column]) for column in pair)] or found[:1]
    if len(found) > 1 and not _agree(adata, found):
        raise KeyError(
            f"`spatial_key`={spatial_key!r} is not in adata.obsm, and adata.obs has several pairs of columns that differ: "
            f"{listing('/'.join(pair) for pair in found)}. Say which: adata.obsm['spatial'] = "
            f"adata.obs[{list(found[0])}].to_numpy()."
        )
    return found[0] if found else None


def has_coordinates(adata: AnnData, spatial_key: str) -> bool:
    """Whether an AnnData has coordinates under a key, or in columns that stand for the default key."""
    return spatial_key in adata.obsm or coordinate_columns(adata, spatial_key) is not None


def find_coordinates(adata: AnnData, spatial_key: str) -> tuple[NDArray[np.float64], str]:
    """Coordinates x and y (n_obs, 2), and where they are, for messages.

    Of ``obsm[spatial_key]`` the first two columns, or of a data frame those called x and y; without the default key the one
    pair of columns of ``obs`` that is called so.
    """
    columns = coordinate_columns(adata, spatial_key)
    if columns is not None:
        where, values = f"adata.obs[{columns[0]!r}], adata.obs[{columns[1]!r}]", adata.obs[list(columns)]
    elif spatial_key in adata.obsm:
        where, values = f"adata.obsm[{spatial_key!r}]", adata.obsm[spatial_key]
        pair = _named_columns(values)
        values = values if pair is None else values[pair]
    else:
        raise KeyError(
            f"No spatial coordinates: `spatial_key`={spatial_key!r} is not in adata.obsm; available: "
            f"{listing(adata.obsm.keys(), 30)}; adata.obs has none of the columns {listing('/'.join(pair) for pair in _COLUMNS)}."
        )
    try:
        coordinates = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{where} (`spatial_key`) must hold numbers: {error}.") from error
    if coordinates.ndim != 2 or coordinates.shape[1] not in (2, 3):
        raise ValueError(
            f"{where} (`spatial_key`) must have two columns (x, y), or three (x, y, z), found shape {coordinates.shape}: "
            "store the in-plane coordinates under a key of their own and pass it."
        )
    return np.ascontiguousarray(coordinates[:, :2]), where


def heights(adata: AnnData, spatial_key: str) -> NDArray[Any] | None:
    """Third column of the coordinates, or that called z where x and y have names; None where there is none."""
    values = adata.obsm.get(spatial_key)
    if _named_columns(values) is not None:
        return values["z"].to_numpy() if "z" in values else None
    return np.asarray(values)[:, 2] if getattr(values, "ndim", 0) == 2 and values.shape[1] == 3 else None


def _named_columns(values: Any) -> list[Any] | None:
    """Columns of a data frame that are called x and y; None for anything else."""
    names = {str(name): name for name in getattr(values, "columns", ())}
    pair = next((pair for pair in _COLUMNS if set(pair) <= set(names)), None)
    return None if pair is None else [names[name] for name in pair]


def _agree(adata: AnnData, pairs: list[tuple[str, str]]) -> bool:
    first, *others = (adata.obs[list(pair)].to_numpy(dtype=np.float64, na_value=np.nan) for pair in pairs)
    return all(np.array_equal(first, other, equal_nan=True) for other in others)
