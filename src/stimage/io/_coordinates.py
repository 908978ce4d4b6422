"""Where an AnnData keeps coordinates, and whether its array positions agree with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from stimage import _keys
from stimage._validate import listing

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

_OBSM = ("X_spatial", "spatialCoords")
"""Other names of ``obsm["spatial"]``: of squidpy before 1.0, and of exports from R."""
_OBS = (
    ("spatial0", "spatial1"),
    ("spatial_0", "spatial_1"),
    ("pxl_col_in_fullres", "pxl_row_in_fullres"),
    ("x_centroid", "y_centroid"),
    ("CenterX_global_px", "CenterY_global_px"),
    ("center_x", "center_y"),
    ("imagecol", "imagerow"),
    ("x_pixel", "y_pixel"),
    ("x", "y"),
)
"""Columns of ``obs`` that hold x and y."""
_LARGEST_RESIDUAL = 0.35
"""Distance of an observation from where its array position says it is, in pitches; spots of legacy arrays are printed unevenly."""
_LEAST_THAT_FIT = 0.95


def coordinates(adata: AnnData) -> tuple[NDArray[np.float64] | None, str]:
    """X and y (n_obs, 2), and where they were; ``None`` where there are none.

    ``obsm["spatial"]`` comes first. Of more than two columns the first two are taken when the others are constant; other
    such arrays are returned as they are, for they may be sections or depths.

    Raises
    ------
    KeyError
        If only columns of ``obs`` hold coordinates, and several pairs of them differ.
    """
    for key in (_keys.SPATIAL, *_OBSM):
        if key in adata.obsm:
            values = adata.obsm[key]
            xy = values.to_numpy() if isinstance(values, pd.DataFrame) else np.asarray(values)
            where = f"obsm[{key!r}]"
            if xy.ndim == 2 and xy.shape[1] > 2 and (xy[:, 2:] == xy[:1, 2:]).all():
                return xy[:, :2].astype(np.float64), f"{where}, first two columns"
            return xy, where
    pairs = [pair for pair in _OBS if all(key in adata.obs and is_numeric_dtype(adata.obs[key]) for key in pair)]
    if not pairs:
        return None, ""
    found = [adata.obs[list(pair)].to_numpy(dtype=np.float64, na_value=np.nan) for pair in pairs]
    if any(not np.array_equal(found[0], other, equal_nan=True) for other in found[1:]):
        raise KeyError(
            "No spatial coordinates in adata.obsm, and adata.obs has several pairs of columns that differ: "
            f"{listing(['/'.join(pair) for pair in pairs])}. Put the right one into adata.obsm['spatial']."
        )
    return found[0], f"obs[{pairs[0][0]!r}], obs[{pairs[0][1]!r}]"


def has_array(adata: AnnData) -> bool:
    """Whether ``obs`` has array positions."""
    return _keys.ARRAY_ROW in adata.obs and _keys.ARRAY_COL in adata.obs


def share_that_fits(row: NDArray[np.float64], col: NDArray[np.float64], xy: NDArray[np.float64]) -> float:
    """Share of observations that lie where their array position says, after the best linear map between both.

    Parameters
    ----------
    row, col
        Array positions (n_obs).
    xy
        Coordinates (n_obs, 2).

    Returns
    -------
    float
        Between 0 and 1.
    """
    design = np.column_stack([row, col, np.ones(len(row))]).astype(np.float64)
    fit = np.linalg.lstsq(design, xy, rcond=None)[0]
    residual = np.linalg.norm(xy - design @ fit, axis=1)
    # The shortest step between neighbours of a square, a hexagonal or a checkerboard array.
    steps = np.array([[1, 0], [0, 1], [1, 1], [1, -1], [0, 2], [2, 0]], dtype=np.float64)
    taken = {tuple(position) for position in np.column_stack([row, col]).astype(np.int64)}
    lengths = [
        np.linalg.norm(step @ fit[:2])
        for step in steps
        if sum((r + step[0], c + step[1]) in taken for r, c in taken) > 0.1 * len(taken)
    ]
    pitch = min(lengths, default=np.inf)
    return float((residual <= _LARGEST_RESIDUAL * pitch).mean())


def array_is_true(adata: AnnData, xy: NDArray[np.float64]) -> bool:
    """Whether the array positions of nearly all observations agree with their coordinates."""
    position = adata.obs[[_keys.ARRAY_ROW, _keys.ARRAY_COL]].to_numpy(dtype=np.float64, na_value=np.nan)
    if not np.isfinite(position).all() or len(position) < 4:
        return False
    return share_that_fits(position[:, 0], position[:, 1], xy) >= _LEAST_THAT_FIT
