"""Sites of one slide: from its array coordinates, from the lattice that its positions show, or from bins."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stimage import _keys
from stimage._validate import listing
from stimage.pp._infer import from_spatial
from stimage.pp._lattice import LEAST_OCCUPANCY, NoLatticeError, Sites, from_array, from_bins

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

_MANY_SITES = 1_000_000
_MAX_SITES_PER_OBSERVATION = 1000
_MAX_ROUNDED = 0.05
"""Share of observations that may be on one array site with another before it is an error of the data, not of rounding."""


class ArrayCoordinates:
    """Array coordinates (n_obs,) of all observations; NaN for slides without them."""

    def __init__(self, row: NDArray[np.float64], col: NDArray[np.float64]) -> None:
        self.row, self.col = row, col
        self.known = ~(np.isnan(row) & np.isnan(col))
        self.all_known = bool(self.known.all())


def slide_sites(
    adata: AnnData,
    members: NDArray[np.intp],
    array: ArrayCoordinates | None,
    spatial: NDArray[np.float64] | None,
    layout: str,
    bin_size: float | None,
) -> tuple[Sites, NDArray[np.float64]]:
    """Sites of one slide and the continuous positions [x, y] they come from."""
    if len(members) < 2:
        raise ValueError(
            f"it has one observation ({adata.obs_names[members[0]]!r}), at least 2 are needed: remove the slide."
        )
    xy = None if spatial is None else spatial[members]
    if array is not None and array.known[members].any():
        row, col = array.row[members], array.col[members]
        bad = np.flatnonzero(~(np.isfinite(row) & np.isfinite(col)))
        if len(bad):
            raise ValueError(
                f"obs['array_row'] or obs['array_col'] is NaN or infinite for {len(bad)} observations "
                f"(e.g. {listing(adata.obs_names[members[bad]], 3)}): remove these observations."
            )
        sites, source = from_array(row, col, layout, xy), np.column_stack([col, row])
        shared = _shared_sites(sites)
        if layout == "auto" and 0 < len(shared) <= _MAX_ROUNDED * len(members) and _all_distinct(xy):
            sites, source = _unrounded(sites, source, xy)
        elif len(shared):
            raise ValueError(
                f"{len(shared)} observations share a site with another (e.g. "
                f"{listing(adata.obs_names[members[shared]], 3)}): remove duplicates, pass `slide_key=` if there are "
                "several slides, or use `layout`='bins'."
            )
    elif layout == "bins":
        sites, source = from_bins(xy, bin_size), xy
    elif layout == "rank":
        raise ValueError(
            "`layout`='rank' needs obs['array_row'] and obs['array_col'] for every slide; ranks of pixel coordinates "
            "mean nothing. Use `layout`='auto' to infer the lattice."
        )
    else:
        sites, source = _inferred(xy, layout), xy
    if sites.n_sites > max(_MANY_SITES, _MAX_SITES_PER_OBSERVATION * len(members)):
        cause = (
            "choose a larger `bin_size`"
            if sites.layout == "bins"
            else "array_row and array_col look like pixel coordinates; remove them to infer the lattice"
            if sites.source == "array"
            else "the observations are too scattered; use `layout`='bins'"
        )
        raise ValueError(f"{sites.shape[0]} x {sites.shape[1]} sites for {len(members)} observations: {cause}.")
    return sites, source


def _inferred(xy: NDArray[np.float64], layout: str) -> Sites:
    try:
        return from_spatial(xy, layout)
    except NoLatticeError as error:
        if layout == "auto":
            return from_bins(xy)
        raise ValueError(
            f"`layout`={layout!r} cannot be inferred from the spatial coordinates: {error}. "
            "Use `layout`='bins', or 'auto' to let the coordinates decide."
        ) from error


def _unrounded(sites: Sites, source: NDArray[np.float64], xy: NDArray[np.float64]) -> tuple[Sites, NDArray[np.float64]]:
    """Sites where array coordinates put a few observations on one, and the positions that they come from."""
    try:
        return from_spatial(xy), xy
    except NoLatticeError:
        # A square lattice whose sites may be shared is one of bins; the shifted rows of a hexagonal one are not.
        # Nor are pixels, which leave most of their raster empty.
        if sites.layout == "square" and sites.occupancy >= LEAST_OCCUPANCY:
            return replace(sites, layout="bins"), source
        return from_bins(xy), xy


def array_coordinates(adata: AnnData) -> ArrayCoordinates | None:
    present = [key in adata.obs for key in (_keys.ARRAY_ROW, _keys.ARRAY_COL)]
    if not any(present):
        return None
    if not all(present):
        found, absent = (_keys.ARRAY_ROW, _keys.ARRAY_COL) if present[0] else (_keys.ARRAY_COL, _keys.ARRAY_ROW)
        raise KeyError(f"adata.obs has {found!r} but not {absent!r}: add it, or remove both to infer the lattice.")
    coordinates = []
    for key in (_keys.ARRAY_ROW, _keys.ARRAY_COL):
        try:
            coordinates.append(adata.obs[key].to_numpy(dtype=np.float64, na_value=np.nan))
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"adata.obs[{key!r}] must hold numbers, found dtype {adata.obs[key].dtype}: convert it."
            ) from error
    return ArrayCoordinates(*coordinates)


def _shared_sites(sites: Sites) -> NDArray[np.intp]:
    """Observations on a site with another, those of one site beside each other."""
    flat = sites.row * sites.shape[1] + sites.col
    shared = np.flatnonzero(pd.Series(flat).duplicated(keep=False).to_numpy())
    return shared[np.argsort(flat[shared], kind="stable")]


def _all_distinct(xy: NDArray[np.float64] | None) -> bool:
    return xy is not None and len(np.unique(xy, axis=0)) == len(xy)
