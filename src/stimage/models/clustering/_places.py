from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stimage import _keys, _validate

if TYPE_CHECKING:
    from anndata import AnnData


def places_of(adata: AnnData) -> tuple[np.ndarray | None, np.ndarray]:
    """Position of each observation, if any are known, and its slide."""
    grid = adata.uns.get(_keys.GRID) if _validate.has_grid(adata, _keys.GRID) else None
    if grid is None and _keys.grid_row() in adata.obs:
        # Slides that were joined: the grid that told them apart is lost, and their positions lie on top of each other.
        return None, np.zeros(adata.n_obs, dtype=np.int64)
    slide_key = "" if grid is None else str(grid["params"]["slide_key"])
    slides = np.zeros(adata.n_obs, dtype=np.int64)
    if slide_key and slide_key in adata.obs:
        slides = adata.obs[slide_key].astype("category").cat.codes.to_numpy()
    for key in (_keys.SPATIAL, _keys.grid_position()):
        if key in adata.obsm:
            positions = np.asarray(adata.obsm[key])
            numbers = positions.ndim == 2 and positions.shape[1] >= 2 and np.issubdtype(positions.dtype, np.number)
            if numbers and np.isfinite(positions[:, :2]).all():
                return positions[:, :2].astype(np.float64), slides
    return None, slides
