"""Sites of one slide: from its array coordinates, from the lattice that its positions show, or from bins."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stimage import _keys
from stimage._validate import listing
from stimage.data.lattices import LATTICES
from stimage.pp.grid._array_fit import ArrayFit, check_not_pixels, fit_array
from stimage.pp.grid._infer import IrregularError, SharedSiteError, from_spatial
from stimage.pp.grid._sites import (
    LEAST_OCCUPANCY,
    MOST_MISFITS,
    NoLatticeError,
    Sites,
    from_array,
    from_bins,
    whole_positions,
)

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

_MANY_SITES = 1_000_000
_MAX_SITES_PER_OBSERVATION = 1000
SLIDE_COLUMNS = (
    "library_id",
    "library_key",
    "sample",
    "sample_id",
    "slide",
    "slide_id",
    "section",
    "section_id",
    "slice",
    "slice_id",
)
"""Columns of ``obs`` that mostly name slides."""


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
        whole = whole_positions(row, "array_row"), whole_positions(col, "array_col")
        shared = _shared(*whole)
        if len(shared) <= MOST_MISFITS * len(members):  # with more, nothing else about them needs to be looked at
            sites, source = _from_array(*whole, np.column_stack([col, row]), layout, xy)
            shared = _shared(sites.row, sites.col)
        few = len(shared) <= MOST_MISFITS * len(members)
        if len(shared) and few and layout == "auto" and _all_distinct(xy):
            sites, source = _unrounded(sites, source, xy, len(shared))
        elif len(shared):
            raise ValueError(
                f"{len(shared)} observations share a site with another (e.g. "
                f"{listing(adata.obs_names[members[shared]], 3)}): remove duplicates, pass `slide_key=` if there are "
                f"several slides{slide_columns(adata)}, or use `layout`='bins'."
            )
    elif layout != "auto" and not LATTICES[layout].uses_array:
        sites, source = from_bins(xy, bin_size), xy
    elif needs_array(layout):
        raise ValueError(
            f"`layout`={layout!r} needs obs['array_row'] and obs['array_col'] for every slide"
            f"{'' if LATTICES[layout].is_regular else '; ranks of pixel coordinates mean nothing'}. Use `layout`='auto' to "
            "infer the lattice."
        )
    else:
        sites, source = _inferred(xy, layout, adata.obs_names[members]), xy
    if sites.n_sites > max(_MANY_SITES, _MAX_SITES_PER_OBSERVATION * len(members)):
        cause = (
            "choose a larger `bin_size`"
            if sites.lattice.shares_sites
            else "array_row and array_col look like pixel coordinates; remove them to infer the lattice"
            if sites.source == "array"
            else "the observations are too scattered; use `layout`='bins'"
        )
        raise ValueError(f"{sites.shape[0]} x {sites.shape[1]} sites for {len(members)} observations: {cause}.")
    return sites, source


def needs_array(layout: str) -> bool:
    """Whether a layout has array coordinates only, as it is never inferred from spatial ones."""
    return layout != "auto" and LATTICES[layout].uses_array and LATTICES[layout].fold is None


def slide_columns(adata: AnnData) -> str:
    """Columns of ``obs`` that may name slides, for a message; empty without."""
    found = [(column, adata.obs[column].nunique()) for column in SLIDE_COLUMNS if column in adata.obs]
    several = [f"obs[{column!r}] has {number} values" for column, number in found if number > 1]
    return f" ({', '.join(several)})" if several else ""


def _from_array(
    row: NDArray[np.int64],
    col: NDArray[np.int64],
    source: NDArray[np.float64],
    layout: str,
    xy: NDArray[np.float64] | None,
) -> tuple[Sites, NDArray[np.float64]]:
    """Sites from array coordinates that were compared with the spatial ones, and the positions that they come from."""
    if layout != "auto":
        LATTICES[layout].check_array(row, col)
        if not LATTICES[layout].is_regular:
            return from_array(row, col, layout), source
    check_not_pixels(row, col)
    fit = fit_array(row, col, xy)
    if fit is None:
        return from_array(row, col, layout), source
    if len(fit.misfits):
        row, col, moved = _moved_to_pixels(row, col, xy, fit)
        source = np.where(moved[:, None], np.column_stack([col, row]), source)
    return replace(from_array(row, col, layout, fit.steps), misfits=fit.misfits), source


def _moved_to_pixels(
    row: NDArray[np.int64], col: NDArray[np.int64], xy: NDArray[np.float64], fit: ArrayFit
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Array positions where observations that share one with another, but lie elsewhere, have the free one they lie at."""
    moved = np.zeros(len(row), dtype=bool)
    position = pd.DataFrame({"row": row, "col": col})
    taken = set(zip(row.tolist(), col.tolist(), strict=True))
    shared = position.duplicated(keep=False).to_numpy()
    row, col = row.copy(), col.copy()
    one_parity = len(set(((row + col)[fit.off <= 0.5] % 2).tolist())) == 1
    for one in fit.misfits[shared[fit.misfits]]:
        there = np.rint(np.linalg.solve(fit.steps.T, xy[one] - fit.origin)).astype(np.int64)
        on_lattice = not one_parity or (there.sum() - row[fit.off.argmin()] - col[fit.off.argmin()]) % 2 == 0
        if on_lattice and tuple(there.tolist()) not in taken:
            row[one], col[one], moved[one] = *there, True
            taken.add(tuple(there.tolist()))
    return row, col, moved


def _inferred(xy: NDArray[np.float64], layout: str, names: pd.Index) -> Sites:
    try:
        return from_spatial(xy, layout)
    except SharedSiteError as error:
        # Bins of a square lattice may be shared, the shifted rows of a hexagonal one are none; the same position is an error.
        shared_layout = error.sites.lattice.shared_layout if error.sites is not None else ""
        if layout == "auto" and shared_layout and _all_distinct(xy):
            why = f"{error} (e.g. {listing(names[error.observations], 3)})"
            none = np.empty(0, dtype=np.intp)
            return replace(error.sites, layout=shared_layout, misfits=none, rejected=why, looked_like_lattice=True)
        raise ValueError(
            f"{error} (e.g. {listing(names[error.observations], 3)}): remove duplicates, pass `slide_key=` if there are "
            "several slides, or use `layout`='bins'."
        ) from error
    except NoLatticeError as error:
        if layout == "auto":
            return replace(
                from_bins(xy), rejected=str(error), looked_like_lattice=not isinstance(error, IrregularError)
            )
        raise ValueError(
            f"`layout`={layout!r} cannot be inferred from the spatial coordinates: {error}. "
            "Use `layout`='bins', or 'auto' to let the coordinates decide."
        ) from error


def _unrounded(
    sites: Sites, source: NDArray[np.float64], xy: NDArray[np.float64], n_shared: int
) -> tuple[Sites, NDArray[np.float64]]:
    """Sites where array coordinates put a few observations on one, and the positions that they come from."""
    why = f"{n_shared} observations share an array position with another though their spatial coordinates differ"
    is_shareable = bool(sites.lattice.shared_layout) and sites.occupancy >= LEAST_OCCUPANCY
    try:
        inferred = from_spatial(xy)
        if not len(inferred.misfits) or not is_shareable:
            return inferred, xy
        why = f"{why}, and {len(inferred.misfits)} of these do not fit a lattice"
    except NoLatticeError as error:
        why = f"{why}; {error}"
    # A square lattice whose sites may be shared is one of bins; the shifted rows of a hexagonal one are not. Nor are pixels,
    # which leave most of their raster empty.
    if is_shareable:
        return replace(sites, layout=sites.lattice.shared_layout, rejected=why), source
    return replace(from_bins(xy), rejected=why, looked_like_lattice=True), xy


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


def _shared(row: NDArray[np.int64], col: NDArray[np.int64]) -> NDArray[np.intp]:
    """Observations on a site with another, those of one site beside each other."""
    flat = pd.DataFrame({"row": row, "col": col})
    shared = np.flatnonzero(flat.duplicated(keep=False).to_numpy())
    return shared[np.lexsort((col[shared], row[shared]))]


def _all_distinct(xy: NDArray[np.float64] | None) -> bool:
    return xy is not None and len(np.unique(xy, axis=0)) == len(xy)
