from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from stimage import _keys
from stimage._coordinates import has_coordinates
from stimage._libraries import library_name
from stimage._validate import (
    check_anndata,
    check_choice,
    check_copy,
    check_key_added,
    check_size,
    check_spatial,
    check_text,
    check_unique_names,
    slide_codes,
)
from stimage.data.lattices import LATTICES
from stimage.pp.grid._messages import doubts_of_adata, doubts_of_slide
from stimage.pp.grid._scale import (
    Scale,
    check_bins,
    check_micrometres,
    coordinate_unit,
    in_units,
    lattice_scale,
    scale_factors,
    scale_of,
)
from stimage.pp.grid._slide_sites import array_coordinates, needs_array, slide_sites

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from stimage.pp.grid._sites import Sites

BinUnit = Literal["coordinate", "micrometre"]
_BIN_UNITS = ("coordinate", "micrometre")
_SPATIAL_OF_FIELDS = "spatial_fov"
"""Where ``squidpy.read.nanostring`` keeps positions on the slide; its ``"spatial"`` holds those within a field of view."""


def compact_grid(
    adata: AnnData,
    *,
    layout: str = "auto",
    slide_key: str | None = None,
    spatial_key: str = _keys.SPATIAL,
    bin_size: float | None = None,
    bin_unit: BinUnit = "coordinate",
    micrometres_per_unit: float | None = None,
    key_added: str = _keys.GRID,
    copy: bool = False,
) -> AnnData | None:
    """Give every observation an integer site of a compact raster, so that a slide can be cropped like an image.

    Array coordinates ``obs["array_row"]`` and ``obs["array_col"]`` are used where a slide has them. Otherwise the lattice
    (pitch, rotation, hexagonal or square) is inferred from the spatial coordinates and verified: 95 % of the observations
    must lie within .45 of the pitch of their site, and no two on one site; the others are named in a warning and have the nearest
    free site. Where a slide has both coordinates they are compared: each observation must lie within half a step of where its
    array position puts it, unless the whole slide is bent.

    Parameters
    ----------
    adata
        Annotated data, observations x genes; the expression matrix is not used.
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
        Key of ``adata.obsm`` with x and y, shape (n_obs, 2); of three columns the first two, of a data frame those called x and
        y. Columns of ``obs`` under their usual names (``x``, ``y``; ``x_centroid``, ``y_centroid``; ...) stand for the
        default key where it is absent. Needed where there are no array coordinates and for bins;
        otherwise used, if present, for the pitch and to distinguish a checkerboard from a hexagonal lattice.
    bin_size
        Side of a bin; only with ``layout="bins"``. ``None`` chooses, per slide, the largest size at which half of the
        occupied bins hold one position.
    bin_unit
        ``"coordinate"``: ``bin_size`` is in units of the spatial coordinates, which are pixels on some platforms and
        micrometres on others; ``"micrometre"``: it is in micrometres whatever the coordinates are.
    micrometres_per_unit
        Length of one unit of the spatial coordinates in micrometres (1 where they are micrometres). ``None`` takes what
        ``adata.uns["spatial"]`` says: ``microns_per_pixel`` of Visium HD, micrometres beside Vizgen's transformation, and
        100 micrometres between the spots of Visium, for which a hexagonal lattice is taken unless its spots' diameter says
        otherwise.
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
        unknown), ``unit`` (``"micrometre"``, ``"pixel"`` or ``"unknown"``), ``rotation`` (degrees from the x axis to the raster's columns axis) and ``source``
        (``"array"`` or ``"spatial"``). ``"summary"``: another one with ``n_observations``, ``n_sites`` (occupied),
        ``median_per_site`` and ``most_per_site`` (observations on an occupied site), ``micrometres_per_unit`` and
        ``pitch_micrometres`` (NaN if unknown), ``scale_from``, what says so, and ``rejected``, why there are bins and no
        lattice (empty otherwise).

    Raises
    ------
    KeyError
        If ``slide_key``, or coordinates that are needed, are absent.
    ValueError
        If coordinates or slide labels are missing or not finite, a slide has one observation, two observations share a
        site, the coordinates do not form the requested lattice, array positions are pixels or contradict the spatial
        coordinates for more than 5 % of the observations, or a key to be written is taken by something else. If a
        unit must be wrong: all observations in one bin, each alone in a bin among empty ones, coordinates that contradict
        the scale factors, or positions within fields of view taken for positions on the slide.

    Warns
    -----
    UserWarning
        Once, of all that is odd: observations that do not fit the lattice, bins where a lattice was expected, spots off tissue
        (``obs["in_tissue"]`` 0, which become sites like the others), observations far from all others, slides on top of each
        other without ``slide_key``, a third coordinate, coordinates found in ``obs``.

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
    check_copy(adata, copy)
    check_choice("layout", layout, ("auto", *LATTICES))
    check_text("spatial_key", spatial_key)
    _check_bin_size(layout, bin_size)
    check_choice("bin_unit", bin_unit, _BIN_UNITS)
    if bin_unit != "coordinate" and bin_size is None:
        raise ValueError(f"`bin_unit`={bin_unit!r} is the unit of `bin_size`, which is not given: pass it as well.")
    check_micrometres(micrometres_per_unit)
    check_size(adata, n_obs=2, n_vars=0)
    check_unique_names(adata)
    _check_key_added(adata, key_added)
    names, codes = slide_codes(adata, slide_key)
    array = array_coordinates(adata) if layout == "auto" or LATTICES[layout].uses_array else None
    spatial = None
    if array is None or not array.all_known or has_coordinates(adata, spatial_key) or spatial_key != _keys.SPATIAL:
        spatial = _required_spatial(adata, layout, spatial_key)
        _check_fields_of_view(adata, slide_key, spatial_key)

    row, col = np.empty(adata.n_obs, np.int32), np.empty(adata.n_obs, np.int32)
    position = np.empty((adata.n_obs, 2), np.float32)
    table, summary, doubts = [], [], doubts_of_adata(adata, slide_key, spatial_key, spatial, layout)
    for code, name in enumerate(names):
        members = np.flatnonzero(codes == code)
        library = library_name(adata, name, members, only_slide=len(names) == 1)
        try:
            scale = scale_of(adata, library, micrometres_per_unit)
            size = in_units(bin_size, bin_unit, scale, adata)
            sites, xy = slide_sites(adata, members, array, spatial, layout, size)
            if size is not None:
                check_bins(sites, xy, size, scale)
            scale = lattice_scale(sites, scale_factors(adata, library), scale)
        except ValueError as error:
            raise ValueError(f"Slide {name!r}: {error}") from error
        row[members], col[members] = sites.row, sites.col
        position[members] = _scale(xy)
        known = spatial is not None and np.isfinite(sites.pitch)
        table.append(
            {
                "layout": sites.layout,
                "n_rows": sites.shape[0],
                "n_cols": sites.shape[1],
                "occupancy": sites.occupancy,
                "parity": sites.parity,
                "pitch": sites.pitch,
                "unit": coordinate_unit(adata, library, scale) if known else "unknown",
                "rotation": sites.rotation,
                "source": sites.source,
            }
        )
        summary.append(_summary(sites, scale))
        doubts += doubts_of_slide(adata, members, name if len(names) > 1 else None, sites, xy)

    if doubts:
        warnings.warn(" ".join(doubts), UserWarning, stacklevel=2)
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
        "summary": pd.DataFrame(summary, index=pd.Index(names, dtype=object)),
    }
    return adata if copy else None


def _required_spatial(adata: AnnData, layout: str, spatial_key: str) -> NDArray[np.float64]:
    if needs_array(layout) and not has_coordinates(adata, spatial_key):
        raise KeyError(f"`layout`={layout!r} needs adata.obs['array_row'] and adata.obs['array_col'], found neither.")
    if not has_coordinates(adata, spatial_key) and adata.obs_names.str.fullmatch(r"\d+x\d+").all():
        raise KeyError(
            f"No spatial coordinates: `spatial_key`={spatial_key!r} is not in adata.obsm, but the observation names look "
            f"like array positions (e.g. {adata.obs_names[0]!r}): adata.obs[['array_col', 'array_row']] = "
            "[[int(part) for part in name.split('x')] for name in adata.obs_names]"
        )
    return check_spatial(adata, spatial_key)


def _check_bin_size(layout: str, bin_size: float | None) -> None:
    if bin_size is None:
        return
    if layout == "auto" or LATTICES[layout].uses_array:
        raise ValueError(f"`bin_size`={bin_size!r} applies to `layout`='bins' only, found `layout`={layout!r}.")
    if isinstance(bin_size, bool) or not isinstance(bin_size, int | float | np.number):
        raise TypeError(f"`bin_size` must be a number, found {type(bin_size).__name__}.")
    if not (np.isfinite(bin_size) and bin_size > 0):
        raise ValueError(f"`bin_size` must be positive and finite, found {bin_size!r}.")


def _check_key_added(adata: AnnData, key: str) -> None:
    if not isinstance(key, str):
        raise ValueError(f"`key_added` must be a non-empty string without '/', found {key!r}.")
    check_key_added(key)
    if _keys.grid_row(key) == _keys.ARRAY_ROW:
        raise ValueError(f"`key_added`={key!r} would write over the array coordinates: choose another.")
    earlier = adata.uns.get(key)
    if isinstance(earlier, Mapping) and {"params", "slides"} <= set(earlier):
        return  # a grid written before may be replaced
    columns = (_keys.grid_row(key), _keys.grid_col(key))
    # `anndata.concat` merges `uns`, so that only some parts of a grid may be left, or none.
    merged = earlier is None or (isinstance(earlier, Mapping) and set(earlier) <= {"params", "slides", "summary"})
    if merged and _is_concatenated(adata, columns, _keys.grid_position(key)):
        return
    taken = [f"obs[{column!r}]" for column in columns if column in adata.obs]
    taken += [f"obsm[{_keys.grid_position(key)!r}]"] if _keys.grid_position(key) in adata.obsm else []
    taken += [f"uns[{key!r}]"] if earlier is not None else []
    if taken:
        raise ValueError(
            f"`key_added`={key!r} would write over {', '.join(taken)}, which are not a grid: choose another."
        )


def _is_concatenated(adata: AnnData, columns: tuple[str, str], position: str) -> bool:
    """Whether the keys of observations are those of grids, which ``anndata.concat`` leaves as they are."""
    if position not in adata.obsm or not all(column in adata.obs for column in columns):
        return False
    integers = all(pd.api.types.is_integer_dtype(adata.obs[column]) for column in columns)
    return integers and adata.obsm[position].shape == (adata.n_obs, 2)


def _check_fields_of_view(adata: AnnData, slide_key: str | None, spatial_key: str) -> None:
    """Raise where positions start anew in each field of view, as those of ``squidpy.read.nanostring`` do."""
    local = spatial_key == _keys.SPATIAL and _SPATIAL_OF_FIELDS in adata.obsm and "fov" in adata.obs
    if local and slide_key is None and adata.obs["fov"].nunique() > 1:
        raise ValueError(
            f"adata.obsm[{spatial_key!r}] (`spatial_key`) holds positions within each of {adata.obs['fov'].nunique()} fields "
            f"of view, which would lie on top of each other; adata.obsm[{_SPATIAL_OF_FIELDS!r}] holds positions on the "
            f"slide: set adata.obsm['spatial'] = adata.obsm[{_SPATIAL_OF_FIELDS!r}], or pass `slide_key`='fov' to take each "
            "field as a slide."
        )


def _summary(sites: Sites, scale: Scale) -> dict[str, float | str]:
    return {
        "n_observations": len(sites.row),
        "n_sites": len(sites.counts),
        "median_per_site": float(np.median(sites.counts)),
        "most_per_site": int(sites.counts.max()),
        "micrometres_per_unit": scale.micrometres,
        "pitch_micrometres": sites.pitch * scale.micrometres,
        "scale_from": scale.evidence,
        "rejected": sites.rejected,
    }


def _scale(xy: NDArray[np.float64]) -> NDArray[np.float64]:
    low, extent = xy.min(axis=0), np.ptp(xy, axis=0)
    return 100.0 * (xy - low) / np.where(extent > 0, extent, 1.0)
