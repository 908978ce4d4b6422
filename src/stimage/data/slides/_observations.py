from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stimage import _keys, _validate

if TYPE_CHECKING:
    from anndata import AnnData


def slide_observations(
    adata: AnnData, *, slide_key: str | None, grid_key: str = _keys.GRID
) -> list[tuple[str, np.ndarray]]:
    """Name and observations (positions) of each slide of an AnnData with a grid."""
    grid = _validate.check_grid(adata, grid_key)
    if slide_key is None:
        slide_key = str(adata.uns[grid_key]["params"]["slide_key"]) or None
    names, codes = _validate.slide_codes(adata, slide_key)
    if slide_key is None:
        names = [str(grid.index[0])]
    unknown = [name for name in names if name not in grid.index]
    if unknown:
        raise ValueError(
            f"adata.uns[{grid_key!r}] knows no slide {_validate.listing(unknown, 3)} of adata.obs[{slide_key!r}] "
            f"(`slide_key`): run `stimage.pp.compact_grid(adata, slide_key={slide_key!r})` again."
        )
    return [(name, np.flatnonzero(codes == code)) for code, name in enumerate(names)]
