from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from stimage import _keys
from stimage._validate import (
    check_anndata,
    check_choice,
    check_size,
    check_spatial,
    check_text,
    check_unique_names,
    listing,
    slide_codes,
)
from stimage.pp._infer import from_spatial
from stimage.pp._lattice import NoLatticeError, Sites, from_array, from_bins

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

Layout = Literal["auto", "hex", "square", "rank", "bins"]
_LAYOUTS = ("auto", "hex", "square", "rank", "bins")
_MANY_SITES = 1_000_000
_MAX_SITES_PER_OBSERVATION = 1000
_MAX_ROUNDED = 0.05
"""Share of observations that may be on one array site with another before it is an error of the data, not of rounding."""

_LEAST_OCCUPANCY = 0.05
"""Occupied share of the raster below which array coordinates that nothing confirms are not taken for a lattice."""


def compact_grid(
    adata: AnnData,
    *,
    layout: Layout = "auto",
    slide_key: str | None = None,
    spatial_key: str = _keys.SPATIAL,
    bin_size: float | None = None,
    key_added: str = _keys.GRID,
    copy: bool = False,
) -> AnnData | None:
    """Give every observation an integer site of a compact raster, so that a slide can be cropped like an image.

    Array coordinates ``obs["array_row"]`` and ``obs["array_col"]`` are used where a slide has them. Otherwise the lattice
    (pitch, rotation, hexagonal or square) is inferred from the spatial coordinates and verified: every observation must
    lie within .45 of the pitch of its site, and no two on one site.

    Parameters
    ----------
    adata
        Annotated data, observations x genes; the expression matrix is not looked at.
    layout
        ``"hex"``: hexagonal lattice (Visium), site (row, col // 2), half of every second row's sites shifted right by
        half a site. ``"square"``: square lattice; array coordinates that form a checkerboard (2k array) are turned by
        45 degrees, so that the four nearest sites are neighbours in the raster. ``"rank"``: ranks of the distinct row
        and column levels of the array coordinates, the literal reading of the paper's Eq. 5, which leaves every second
        site of a Visium slide empty. ``"bins"``: square bins of ``bin_size``, shared by several observations if need be.
        ``"auto"``: hexagonal or square, whichever the coordinates show; bins where they are irregular. Array coordinates
        that put a few observations (5 %) on one site although their spatial coordinates differ, as rounded ones of legacy
        arrays do, give way to the spatial coordinates; where these show no lattice either, the sites of a square array
        become bins, one for each site, which those few observations share.
    slide_key
        Column of ``adata.obs`` that names the slide of each observation; each slide gets a raster of its own. ``None``
        takes everything as one slide.
    spatial_key
        Key of ``adata.obsm`` with x and y, shape (n_obs, 2). Needed where there are no array coordinates and for bins;
        otherwise used, if present, for the pitch and to tell a checkerboard from a hexagonal lattice.
    bin_size
        Side of a bin in units of the spatial coordinates; only with ``layout="bins"``. ``None`` chooses, per slide, the
        largest size at which half of the occupied bins hold one position.
    key_added
        Prefix of the keys written.
    copy
        Return an annotated copy instead of writing to ``adata``.

    Returns
    -------
    AnnData or None
        With ``copy=True`` the copy. Writes (for ``key_added="grid"``):

    ``obs["grid_row"]``, ``obs["grid_col"]``
        Integer site (int32) of each observation; each slide starts at (0, 0).
    ``obsm["X_grid"]``
        Position [x, y] (float32, shape (n_obs, 2)), min-max normalised to [0, 100] per slide and axis, from array
        coordinates where these were used, else from the spatial ones; 0 for a constant axis.
    ``uns["grid"]``
        ``"params"``: the parameters. ``"slides"``: a data frame with one row per slide: ``layout``, ``n_rows``,
        ``n_cols``, ``occupancy`` (occupied sites over all sites), ``parity`` (hex: row r is shifted right if
        (r + parity) is odd), ``pitch`` (distance of neighbouring sites in units of the spatial coordinates, NaN if
        unknown), ``unit``, ``rotation`` (degrees from the x axis to the raster's columns axis) and ``source``
        (``"array"`` or ``"spatial"``).

    Raises
    ------
    KeyError
        If ``slide_key``, or coordinates that are needed, are absent.
    ValueError
        If coordinates or slide labels are missing or not finite, a slide has one observation, two observations share a
        site, the coordinates do not form the lattice asked for, or a key to be written is taken by something else.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import stimage as sti
    >>> row, col = np.divmod(np.arange(12), 4)
    >>> obs = pd.DataFrame({"array_row": row, "array_col": 2 * col + row % 2}, index=[f"s{i}" for i in range(12)])
    >>> adata = ad.AnnData(np.ones((12, 3)), obs=obs)
    >>> sti.pp.compact_grid(adata)
    >>> adata.uns["grid"]["slides"][["layout", "n_rows", "n_cols", "occupancy"]].values.tolist()
    [['hex', 3, 4, 1.0]]

    References
    ----------
    Spatial Transcriptomics as Images for Large-Scale Pretraining, Eq. 5.
    """
    check_anndata(adata)
    check_choice("layout", layout, _LAYOUTS)
    check_text("spatial_key", spatial_key)
    _check_bin_size(layout, bin_size)
    check_size(adata, n_obs=2, n_vars=0)
    check_unique_names(adata)
    _check_key_added(adata, key_added)
    names, codes = slide_codes(adata, slide_key)
    array = None if layout == "bins" else _array_coordinates(adata)
    spatial = None
    if array is None or not array.all_known or spatial_key in adata.obsm or spatial_key != _keys.SPATIAL:
        spatial = _required_spatial(adata, layout, spatial_key)

    row, col = np.empty(adata.n_obs, np.int32), np.empty(adata.n_obs, np.int32)
    position = np.empty((adata.n_obs, 2), np.float32)
    unit = "pixel" if spatial is not None and _has_images(adata) else "unknown"
    table = []
    for code, name in enumerate(names):
        members = np.flatnonzero(codes == code)
        try:
            sites, xy = _slide_sites(adata, members, array, spatial, layout, bin_size)
        except ValueError as error:
            raise ValueError(f"Slide {name!r}: {error}") from error
        row[members], col[members] = sites.row, sites.col
        position[members] = _scale(xy)
        table.append(
            {
                "layout": sites.layout,
                "n_rows": sites.shape[0],
                "n_cols": sites.shape[1],
                "occupancy": sites.occupancy,
                "parity": sites.parity,
                "pitch": sites.pitch,
                "unit": unit if np.isfinite(sites.pitch) else "unknown",
                "rotation": sites.rotation,
                "source": sites.source,
            }
        )

    if copy:
        adata = adata.copy()
    adata.obs[_keys.grid_row(key_added)] = row
    adata.obs[_keys.grid_col(key_added)] = col
    adata.obsm[_keys.grid_position(key_added)] = position
    adata.uns[key_added] = {
        "params": {
            "layout": layout,
            "slide_key": slide_key or "",
            "spatial_key": spatial_key,
            "bin_size": float(bin_size or 0.0),
        },
        "slides": pd.DataFrame(table, index=pd.Index(names, dtype=object)),
    }
    return adata if copy else None


class _Array:
    """Array coordinates (n_obs,) of all observations; NaN for slides without them."""

    def __init__(self, row: NDArray[np.float64], col: NDArray[np.float64]) -> None:
        self.row, self.col = row, col
        self.known = ~(np.isnan(row) & np.isnan(col))
        self.all_known = bool(self.known.all())


def _slide_sites(
    adata: AnnData,
    members: NDArray[np.intp],
    array: _Array | None,
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
        if sites.layout == "square" and sites.occupancy >= _LEAST_OCCUPANCY:
            return replace(sites, layout="bins"), source
        return from_bins(xy), xy


def _array_coordinates(adata: AnnData) -> _Array | None:
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
    return _Array(*coordinates)


def _required_spatial(adata: AnnData, layout: str, spatial_key: str) -> NDArray[np.float64]:
    if layout == "rank" and spatial_key not in adata.obsm:
        raise KeyError("`layout`='rank' needs adata.obs['array_row'] and adata.obs['array_col'], found neither.")
    return check_spatial(adata, spatial_key)


def _shared_sites(sites: Sites) -> NDArray[np.intp]:
    """Observations on a site with another, those of one site beside each other."""
    flat = sites.row * sites.shape[1] + sites.col
    shared = np.flatnonzero(pd.Series(flat).duplicated(keep=False).to_numpy())
    return shared[np.argsort(flat[shared], kind="stable")]


def _all_distinct(xy: NDArray[np.float64] | None) -> bool:
    return xy is not None and len(np.unique(xy, axis=0)) == len(xy)


def _check_bin_size(layout: str, bin_size: float | None) -> None:
    if bin_size is None:
        return
    if layout != "bins":
        raise ValueError(f"`bin_size`={bin_size!r} applies to `layout`='bins' only, found `layout`={layout!r}.")
    if isinstance(bin_size, bool) or not isinstance(bin_size, int | float | np.number):
        raise TypeError(f"`bin_size` must be a number, found {type(bin_size).__name__}.")
    if not (np.isfinite(bin_size) and bin_size > 0):
        raise ValueError(f"`bin_size` must be positive and finite, found {bin_size!r}.")


def _check_key_added(adata: AnnData, key: str) -> None:
    if not isinstance(key, str) or not key or "/" in key:
        raise ValueError(f"`key_added` must be a non-empty string without '/', found {key!r}.")
    if _keys.grid_row(key) == _keys.ARRAY_ROW:
        raise ValueError(f"`key_added`={key!r} would write over the array coordinates: choose another.")
    earlier = adata.uns.get(key)
    if isinstance(earlier, dict) and {"params", "slides"} <= set(earlier):
        return  # a grid written before may be replaced
    columns = (_keys.grid_row(key), _keys.grid_col(key))
    taken = [f"obs[{column!r}]" for column in columns if column in adata.obs]
    taken += [f"obsm[{_keys.grid_position(key)!r}]"] if _keys.grid_position(key) in adata.obsm else []
    taken += [f"uns[{key!r}]"] if earlier is not None else []
    if taken:
        raise ValueError(
            f"`key_added`={key!r} would write over {', '.join(taken)}, which are not a grid: choose another."
        )


def _has_images(adata: AnnData) -> bool:
    return isinstance(adata.uns.get("spatial"), dict) and len(adata.uns["spatial"]) > 0


def _scale(xy: NDArray[np.float64]) -> NDArray[np.float64]:
    low, extent = xy.min(axis=0), np.ptp(xy, axis=0)
    return 100.0 * (xy - low) / np.where(extent > 0, extent, 1.0)
