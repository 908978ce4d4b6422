from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from stimage import _keys
from stimage._validate import (
    check_anndata,
    check_choice,
    check_counts,
    check_size,
    check_spatial,
    grid_sites,
    slide_codes,
)

if TYPE_CHECKING:
    from anndata import AnnData

_AGGREGATES = ("sum", "mean")
_LARGEST_EXACT = 2**24  # above it single precision skips whole numbers


def aggregate_sites(
    adata: AnnData,
    *,
    counts: Literal["sum", "mean"] = "sum",
    layer: str | None = None,
    spatial_key: str = _keys.SPATIAL,
    grid_key: str = _keys.GRID,
) -> AnnData:
    """Make one observation of all that share a site of the grid, as cells or beads in a bin do.

    Embedding and reconstruction add up counts of a site by themselves and give their results to each observation. This
    is for everything else: other tools that need one row per site, smaller files, inspecting the content of a site.

    Parameters
    ----------
    adata
        AnnData after :func:`compact_grid`, with raw counts.
    counts
        ``"sum"``: counts of the observations of a site added up, which are raw counts again; ``"mean"``: divided by their
        number, which are not.
    layer
        Layer with raw counts; ``None`` takes ``X``.
    spatial_key
        Key of ``adata.obsm`` with x and y, if it has them.
    grid_key
        ``key_added`` of the grid.

    Returns
    -------
    AnnData
        Sites x genes, slide after slide and in raster order, named by row and column (``"3x14"``, after the slide's name
        where there are several), with ``X`` (CSR, float32, or float64 where sums need it), ``var`` as it was, the grid, and

    ``obs["n_observations"]``
        Observations of the site (int32).
    ``obsm["spatial"]``
        Mean position of the site's observations (float64, shape (n_sites, 2)), if there are positions.
    ``uns["site_of_observation"]``
        Row here of each observation of ``adata`` (int32, shape (n_obs,)), to bring what is found of sites back:
        ``adata.obs["x"] = sites.obs["x"].to_numpy()[sites.uns["site_of_observation"]]``.

    Raises
    ------
    KeyError
        If there is no grid or no such layer.
    TypeError
        If the counts are not in memory.
    ValueError
        If the counts are not raw.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20, layout="irregular")
    >>> sti.pp.compact_grid(adata, layout="bins", bin_size=300.0)
    >>> sites = sti.pp.aggregate_sites(adata)
    >>> sites.n_obs < adata.n_obs, int(sites.obs["n_observations"].sum()) == adata.n_obs
    (True, True)
    >>> bool(sites.X.sum() == adata.X.sum())
    True
    """
    from anndata import AnnData

    check_anndata(adata)
    check_choice("counts", counts, _AGGREGATES)
    check_size(adata, n_obs=1, n_vars=0)
    row, col = grid_sites(adata, grid_key).T
    matrix = check_counts(adata, layer)
    spatial = check_spatial(adata, spatial_key) if spatial_key in adata.obsm else None
    params = adata.uns[grid_key]["params"]
    slide_key = str(params["slide_key"]) or None
    names, codes = slide_codes(adata, slide_key)
    width = int(col.max()) + 1
    place = (codes * (int(row.max()) + 1) + row) * width + col
    _, first, site_of, n_observations = np.unique(place, return_index=True, return_inverse=True, return_counts=True)
    gather = sparse.csr_matrix((np.ones(adata.n_obs), (site_of, np.arange(adata.n_obs))))
    mean = sparse.diags(1 / n_observations) @ gather
    summed = sparse.csr_matrix((gather if counts == "sum" else mean) @ matrix)
    if counts == "mean" or summed.data.max(initial=0) < _LARGEST_EXACT:
        summed = summed.astype(np.float32)

    obs_names = [f"{r}x{c}" for r, c in zip(row[first], col[first], strict=True)]
    if len(names) > 1:
        obs_names = [f"{names[code]}-{name}" for code, name in zip(codes[first], obs_names, strict=True)]
    columns = [_keys.grid_row(grid_key), _keys.grid_col(grid_key), *([slide_key] if slide_key else [])]
    obs = adata.obs.iloc[first][columns].set_axis(pd.Index(obs_names, dtype=object))
    obs["n_observations"] = n_observations.astype(np.int32)
    position = _keys.grid_position(grid_key)
    obsm = {spatial_key: mean @ spatial} if spatial is not None else {}
    if position in adata.obsm:
        obsm[position] = np.asarray(mean @ adata.obsm[position], dtype=np.float32)
    kept = [key for key in (grid_key, _keys.SPATIAL) if key in adata.uns]
    uns = {**{key: deepcopy(adata.uns[key]) for key in kept}, "site_of_observation": site_of.astype(np.int32)}
    return AnnData(summed, obs=obs, var=adata.var.copy(), obsm=obsm, uns=uns)
