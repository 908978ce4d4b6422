"""What a user should know of a slide whose grid was made although something about its positions is odd."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from stimage import _keys
from stimage._coordinates import coordinate_columns, heights
from stimage._libraries import image_libraries, library_name
from stimage._validate import listing
from stimage.pp.grid._slide_sites import SLIDE_COLUMNS

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from stimage.pp.grid._sites import Sites

_OVERLAP = 0.5
"""Share of the smaller extent that two slides on top of each other have in common."""
_ISOLATED = 10
"""Pitches to the nearest observation from which one stands alone."""
_FEW_ALONE = 0.01


def doubts_of_adata(
    adata: AnnData, slide_key: str | None, spatial_key: str, spatial: NDArray[np.float64] | None, layout: str
) -> list[str]:
    """Sentences on all observations: where coordinates are from, what is off tissue, slides that lie on top of each other."""
    doubts = []
    columns = coordinate_columns(adata, spatial_key)
    if columns is not None and spatial is not None:
        doubts.append(
            f"Coordinates are taken from adata.obs[{columns[0]!r}] (x) and adata.obs[{columns[1]!r}] (y), as adata.obsm has none."
        )
    z = heights(adata, spatial_key)
    if z is not None and spatial is not None and slide_key is None and len(np.unique(z)) > 1:
        doubts.append(
            f"The third column of adata.obsm[{spatial_key!r}], with {len(np.unique(z))} values from {np.min(z):g} to "
            f"{np.max(z):g}, is not looked at: if it tells sections apart, pass `slide_key=`."
        )
    doubts += _off_tissue(adata)
    if slide_key is None:
        doubts += _on_top(adata, spatial)
        libraries = image_libraries(adata)
        if len(libraries) > 1 and library_name(adata, "slide", only_slide=True) is None:
            doubts.append(
                f"adata.uns['spatial'] has {len(libraries)} libraries ({listing(libraries, 3)}) and nothing says which is "
                "this slide's, so its scale is not known: pass `slide_key=` if these are several slides, or add "
                "adata.obs['library_id']."
            )
    return doubts


def doubts_of_slide(
    adata: AnnData, members: NDArray[np.intp], name: str | None, sites: Sites, xy: NDArray[np.float64]
) -> list[str]:
    """Sentences on a slide: observations that do not fit its lattice, and why it has none."""
    of = "" if name is None else f"Slide {name!r}: "
    doubts = []
    if len(sites.misfits):
        names = listing(adata.obs_names[members[sites.misfits]], 3)
        found = (
            "have an array position that contradicts their spatial coordinates by more than half a step; the array position "
            "counts, or the free site they lie at where another has it"
            if sites.source == "array"
            else "do not fit the lattice of the others and have the nearest free site"
        )
        doubts.append(
            f"{of}{len(sites.misfits)} of {len(members)} observations (e.g. {names}) {found}: correct or remove them."
        )
    if sites.looked_like_lattice:
        doubts.append(f"{of}bins are taken and no lattice, because {sites.rejected}.")
    alone = _isolated(sites, xy)
    if len(alone):
        doubts.append(
            f"{of}{len(alone)} observations (e.g. {listing(adata.obs_names[members[alone]], 3)}) lie more than {_ISOLATED} "
            "sites away from any other, and make the grid larger: check their positions."
        )
    return doubts


def _off_tissue(adata: AnnData) -> list[str]:
    if "in_tissue" not in adata.obs:
        return []
    inside = pd.to_numeric(
        adata.obs["in_tissue"].astype(str).str.lower().replace({"true": "1", "false": "0"}), errors="coerce"
    )
    off = int((inside == 0).sum())
    if not off or off == adata.n_obs:  # all of them: the column was never filled in
        return []
    return [
        f"{off} of {adata.n_obs} observations are not in tissue (obs['in_tissue'] is 0) and are sites like the others: leave "
        "them out with adata = adata[adata.obs['in_tissue'].astype(int) == 1].copy()."
    ]


def _on_top(adata: AnnData, spatial: NDArray[np.float64] | None) -> list[str]:
    """Whether a column that mostly names slides divides observations that lie in one place."""
    if spatial is None:
        if not {_keys.ARRAY_ROW, _keys.ARRAY_COL} <= set(adata.obs):
            return []
        spatial = adata.obs[[_keys.ARRAY_COL, _keys.ARRAY_ROW]].to_numpy(dtype=np.float64, na_value=np.nan)
    for column in SLIDE_COLUMNS:
        if column not in adata.obs or not 1 < adata.obs[column].nunique() <= adata.n_obs / 4:
            continue
        boxes = {
            str(value): (spatial[rows].min(axis=0), spatial[rows].max(axis=0))
            for value, rows in adata.obs.groupby(column, observed=True).indices.items()
        }
        pairs = [
            (one, other)
            for number, one in enumerate(boxes)
            for other in list(boxes)[number + 1 :]
            if _common(boxes[one], boxes[other]) > _OVERLAP
        ]
        if pairs:
            return [
                f"obs[{column!r}] has {len(boxes)} values whose observations lie on top of each other (e.g. those of "
                f"{pairs[0][0]!r} and {pairs[0][1]!r} share {_common(boxes[pairs[0][0]], boxes[pairs[0][1]]):.0%} of their "
                f"extent) but are taken as one slide: if they are several, pass `slide_key`={column!r}."
            ]
    return []


def _common(one: tuple[NDArray[np.float64], ...], other: tuple[NDArray[np.float64], ...]) -> float:
    """Area that two boxes share, over that of the smaller."""
    shared = np.clip(np.minimum(one[1], other[1]) - np.maximum(one[0], other[0]), 0, None).prod()
    smaller = min((one[1] - one[0]).prod(), (other[1] - other[0]).prod())
    return float(shared / smaller) if smaller > 0 else 0.0


def _isolated(sites: Sites, xy: NDArray[np.float64]) -> NDArray[np.intp]:
    if not sites.lattice.is_regular or len(sites.row) < 8:
        return np.empty(0, dtype=np.intp)
    places = np.column_stack([sites.row, sites.col]).astype(np.float64)
    alone = np.flatnonzero(cKDTree(places).query(places, k=2)[0][:, 1] > _ISOLATED)
    return alone if len(alone) <= _FEW_ALONE * len(places) or len(alone) == 1 else np.empty(0, dtype=np.intp)
