from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from stimage import _validate
from stimage.data.lattices import lattice_of

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class SlideSites:
    """Where the sites of one slide are.

    Parameters
    ----------
    name
        Name of the slide.
    observations
        Positions of its observations in the AnnData (observations).
    site
        Site of each of them (observations).
    index
        Row and column of each site in the raster (sites x 2).
    cells
        Outline of each site's cell of the lattice, in image orientation (sites x corners x 2).
    """

    name: str
    observations: np.ndarray
    site: np.ndarray
    index: np.ndarray
    cells: np.ndarray


def slide_sites(adata: AnnData, grid_key: str, *, slide_key: str | None = None) -> list[SlideSites]:
    """Sites of every slide of an AnnData with a compact grid, placed as in the tissue image where that is known."""
    from stimage.data.slides._observations import slide_observations

    grid, sites = _validate.check_grid(adata, grid_key), _validate.grid_sites(adata, grid_key)
    spatial_key = str(adata.uns[grid_key]["params"]["spatial_key"])
    slides = []
    for name, observations in slide_observations(adata, slide_key=slide_key, grid_key=grid_key):
        index, site = np.unique(sites[observations], axis=0, return_inverse=True)
        site = site.ravel()
        facts = grid.loc[name]
        lattice = lattice_of(str(facts["layout"]))
        cells = lattice.cells(lattice.positions(*index.T, int(facts["parity"])))
        if spatial_key in adata.obsm:
            cells = _in_tissue(cells, site, _validate.check_spatial(adata, spatial_key)[observations])
        slides.append(SlideSites(name, observations, site, index, cells))
    return slides


def outline(cells: np.ndarray) -> np.ndarray:
    """Border of the union of lattice cells: the edges that no two of them share (edges x 2 ends x 2)."""
    edges = np.stack([cells, np.roll(cells, -1, axis=1)], axis=2).reshape(-1, 2, 2)
    length = np.median(np.linalg.norm(edges[:, 1] - edges[:, 0], axis=1))
    # Midpoints of different edges are at least half an edge apart, those of a shared one differ by rounding.
    middle = edges.mean(axis=1)
    neighbours = cKDTree(middle).query_ball_point(middle, 0.1 * length, return_length=True)
    return edges[neighbours == 1]


def observation_diameter(
    adata: AnnData, coordinates: np.ndarray, name: str, *, grid_key: str, spatial_key: str
) -> float:
    """Diameter at which observations of a slide nearly touch: by the pitch of a lattice, else by density."""
    grid = adata.uns[grid_key] if _validate.has_grid(adata, grid_key) else None
    if grid is not None and grid["params"]["spatial_key"] == spatial_key and name in grid["slides"].index:
        facts = grid["slides"].loc[name]
        if lattice_of(str(facts["layout"])).is_regular and np.isfinite(facts["pitch"]):
            return 0.95 * float(facts["pitch"])
    distinct = np.unique(coordinates, axis=0)
    if len(distinct) < 2:
        return 1.0
    distance = cKDTree(distinct).query(distinct, k=2)[0][:, 1]
    narrow, typical, wide = np.quantile(distance, [0.1, 0.5, 0.9])
    if wide <= 1.25 * narrow:
        return 0.95 * float(typical)
    # Cells scattered at random with density d have a median nearest distance of sqrt(ln 2 / (pi d)): the root gives
    # 1 / sqrt(d), the side of the square that a cell has to itself.
    return float(typical * np.sqrt(np.pi / np.log(2)) * 0.75)


def _in_tissue(cells: np.ndarray, site: np.ndarray, spatial: np.ndarray) -> np.ndarray:
    """Place cells in the tissue by the affine map from lattice to spatial coordinates that fits best."""
    centres = cells.mean(axis=1)
    mean = pd.DataFrame(spatial).groupby(site).mean().to_numpy()
    design = np.column_stack([centres, np.ones(len(centres))])
    affine, _, rank, _ = np.linalg.lstsq(design, mean, rcond=None)
    off = np.linalg.norm(design @ affine - mean, axis=1)
    pitch = np.sqrt(abs(np.linalg.det(affine[:2])))
    # One row of sites, or positions that have nothing to do with the lattice: its own coordinates are the better map.
    if rank < 3 or np.median(off) > 0.5 * pitch:
        return cells
    return cells @ affine[:2] + affine[2]
