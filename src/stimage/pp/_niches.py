from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from stimage import _keys
from stimage._features import genes_with_warning, keep_genes
from stimage._libraries import library_name
from stimage._validate import (
    check_anndata,
    check_counts,
    check_grid,
    check_key_added,
    check_positive,
    check_size,
    check_spatial,
    check_text,
    check_unique_names,
    listing,
    positive_number,
    slide_codes,
)
from stimage.data.lattices import lattice_of
from stimage.data.slides._expression import log_expression
from stimage.data.slides._observations import slide_observations
from stimage.pp._nearest import nearest_positions, ring_pairs, typical_distance
from stimage.pp.grid._scale import scale_factors

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

_N_NEIGHBORS = 3
_TIE = 0.05
"""Share of the pitch within which distances of coordinates are equal. Visium pixels put neighbours up to .02 off."""
_TIE_ON_LATTICE = 1e-6


def build_niches(
    adata: AnnData,
    *,
    n_neighbors: int | None = None,
    rings: int | None = None,
    slide_key: str | None = None,
    spatial_key: str = _keys.SPATIAL,
    grid_key: str = _keys.GRID,
    layer: str | None = None,
    key_added: str = _keys.NICHE,
    copy: bool = False,
) -> AnnData | None:
    """Give every spot its niche: the spot and its nearest neighbours, their mean expression and the box around them.

    On a slide whose compact grid is hexagonal or square, distances are those of the lattice, so that the neighbours of a
    ring are exactly equally far. Elsewhere (bins; ranks, which are no distances; no grid) they are those of the
    coordinates, where distances that differ by less than 5 % of the pitch (the median distance to the nearest other
    position) are equal. Of equally far neighbours those are taken that are spread evenly over the directions, counted
    from 10 degrees before the axis of columns (x) towards that of rows (y): three of six on a hexagonal lattice lie at 0,
    120 and 240 degrees. The order of observations does not matter.

    Parameters
    ----------
    adata
        Annotated data with raw counts, observations x genes.
    n_neighbors
        Neighbours in a niche beside the spot itself; 3, as in the paper, unless ``rings`` is given. A slide with fewer
        spots is one niche.
    rings
        Take all sites within this many steps between neighbouring sites instead: up to 6 and 18 for 1 and 2 rings of a
        hexagonal lattice, up to 4 and 12 for those of a square one. Needs a compact grid.
    slide_key
        Column of ``adata.obs`` that names the slide of each observation; niches stay within a slide. By default the one
        that the grid was built with, if there is a grid, else everything is one slide.
    spatial_key
        Key of ``adata.obsm`` with x and y in pixels of the full-resolution image, shape (n_obs, 2).
    grid_key
        ``key_added`` of the grid. The default one may be absent.
    layer
        Layer with raw counts; ``X`` by default.
    key_added
        Prefix of the keys written.
    copy
        Return an annotated copy instead of writing to ``adata``.

    Returns
    -------
    AnnData or None
        With ``copy=True`` the copy. Writes (for ``key_added="niche"``):

    ``obsp["niche_connectivities"]``
        CSR matrix (n_obs x n_obs, float32): row i has ones at the members of the niche of spot i, itself included.
        Not symmetric.
    ``layers["niche"]``
        CSR matrix (n_obs x n_vars, float32): mean over the niche, the spot included, of log1p of counts per 10,000.
        Spots without counts are members but not part of the mean; where a niche has no other, it is zero. So it is for
        variables that are no genes (antibodies, control probes, another species), which library sizes leave out as well.
    ``obsm["niche_bbox"]``
        Box around the niche's spots as x0, y0, x1, y1 (float64, shape (n_obs, 4)), in the units of the coordinates. Each
        spot counts as a disc: of ``uns["spatial"][library]["scalefactors"]["spot_diameter_fullres"]`` where the slide has
        a library (of its name, or the only one of the only slide) that says so, else of the pitch.
    ``uns["niche"]``
        ``"params"``: the parameters (0 for what was not given). ``"slides"``: a data frame with a row per slide:
        ``positions`` (``"lattice"`` or ``"coordinates"``, which distances were measured) and ``spot_radius``.

    Raises
    ------
    KeyError
        If coordinates, ``slide_key``, ``layer`` or a requested grid are absent.
    TypeError
        If counts or coordinates are not numbers.
    ValueError
        If both ``n_neighbors`` and ``rings`` are given, ``rings`` without a lattice, counts are not raw, coordinates or
        slide labels are missing, the grid does not fit, or a key to be written is taken by something else.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> sti.pp.build_niches(adata)
    >>> members = adata.obsp["niche_connectivities"].sum(axis=1)
    >>> float(members.min()), float(members.max())
    (4.0, 4.0)

    References
    ----------
    ST-Align: multi-scale image-gene foundation modeling, Eqs. 1 and 2.
    """
    check_anndata(adata)
    check_key_added(key_added)
    n_neighbors, rings = _size_of_niche(n_neighbors, rings)
    check_size(adata, n_obs=1, n_vars=1)
    check_unique_names(adata)
    coordinates = check_spatial(adata, spatial_key)
    grid, slides = _slides(adata, grid_key, slide_key)
    counts = check_counts(adata, layer)
    _check_not_taken(adata, key_added)
    counts = keep_genes(counts, genes_with_warning(adata, counts))
    name_order = np.argsort(np.argsort(adata.obs_names.to_numpy().astype(str)))

    sources, targets, radius, table = [], [], np.empty(adata.n_obs), []
    for name, members in slides:
        xy = coordinates[members]
        pitch = typical_distance(xy)
        radius[members] = _spot_radius(adata, name, members, len(slides) == 1, pitch)
        lattice = None if grid is None else lattice_of(str(grid.loc[name, "layout"]))
        lattice = lattice if lattice is not None and lattice.is_regular else None
        sites = None if lattice is None else _sites(adata, members, grid, name, grid_key)
        if rings is not None:
            if lattice is None:
                found = "no grid" if grid is None else f"layout {str(grid.loc[name, 'layout'])!r}"
                raise ValueError(
                    f"`rings`={rings} needs a hexagonal or square lattice, slide {name!r} has {found}: run "
                    "`stimage.pp.compact_grid(adata)` first, or use `n_neighbors`."
                )
            source, target = ring_pairs(lattice, *sites, n_rings=rings)
        else:
            positions, tolerance = (
                (xy, _TIE * pitch) if lattice is None else (lattice.positions(*sites), _TIE_ON_LATTICE)
            )
            source, target = _pairs(positions, n_neighbors, tolerance, name_order[members])
        sources += [members, members[source]]
        targets += [members, members[target]]
        table.append({"positions": "coordinates" if lattice is None else "lattice", "spot_radius": radius[members[0]]})
    index = np.concatenate(sources), np.concatenate(targets)
    connectivities = sparse.csr_matrix(
        (np.ones(len(index[0]), dtype=np.float32), index), shape=(adata.n_obs, adata.n_obs)
    )
    connectivities.sort_indices()
    mean = _mean_expression(connectivities, counts)
    box = _boxes(connectivities, coordinates, radius)

    if copy:
        adata = adata.copy()
    adata.obsp[_keys.niche_connectivities(key_added)] = connectivities
    adata.layers[key_added] = mean
    adata.obsm[_keys.niche_bbox(key_added)] = box
    adata.uns[key_added] = {
        "params": {
            "n_neighbors": n_neighbors or 0,
            "rings": rings or 0,
            "slide_key": slide_key or (str(adata.uns[grid_key]["params"]["slide_key"]) if grid is not None else ""),
            "spatial_key": spatial_key,
            "grid_key": grid_key if grid is not None else "",
            "layer": layer or "",
        },
        "slides": pd.DataFrame(table, index=pd.Index([name for name, _ in slides], dtype=object)),
    }
    return adata if copy else None


def _size_of_niche(n_neighbors: int | None, rings: int | None) -> tuple[int | None, int | None]:
    if n_neighbors is not None and rings is not None:
        raise ValueError(
            f"`n_neighbors`={n_neighbors!r} and `rings`={rings!r} exclude one another: pass one of the two."
        )
    if rings is not None:
        check_positive("rings", rings)
        return None, int(rings)
    n_neighbors = _N_NEIGHBORS if n_neighbors is None else n_neighbors
    check_positive("n_neighbors", n_neighbors)
    return int(n_neighbors), None


def _slides(
    adata: AnnData, grid_key: str, slide_key: str | None
) -> tuple[pd.DataFrame | None, list[tuple[str, NDArray[np.intp]]]]:
    """Table of the grid's slides if there is a grid, and name and observations of each slide."""
    check_text("grid_key", grid_key)
    if grid_key == _keys.GRID and grid_key not in adata.uns:
        names, codes = slide_codes(adata, slide_key)
        return None, [(name, np.flatnonzero(codes == code)) for code, name in enumerate(names)]
    return check_grid(adata, grid_key), slide_observations(adata, slide_key=slide_key, grid_key=grid_key)


def _sites(
    adata: AnnData, members: NDArray[np.intp], grid: pd.DataFrame, name: str, grid_key: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Rows and columns of a slide's spots, and the parity of the slide."""
    columns = [_keys.grid_row(grid_key), _keys.grid_col(grid_key)]
    sites = adata.obs[columns].iloc[members].to_numpy(dtype=np.float64, na_value=np.nan)
    if not (np.isfinite(sites).all() and (sites == np.rint(sites)).all()):
        raise ValueError(
            f"adata.obs[{columns[0]!r}] or adata.obs[{columns[1]!r}] of slide {name!r} holds values that are no sites: "
            "run `stimage.pp.compact_grid` again."
        )
    shared = pd.DataFrame(sites).duplicated(keep=False).to_numpy()
    if shared.any():
        raise ValueError(
            f"{shared.sum()} observations of slide {name!r} (e.g. {listing(adata.obs_names[members[shared]], 3)}) share a "
            "site with another: run `stimage.pp.compact_grid` again, with `slide_key=` if there are several slides."
        )
    rows, cols = sites.T.astype(np.int64)
    return rows, cols, int(grid.loc[name, "parity"])


def _pairs(
    positions: NDArray[np.float64], n_neighbors: int, tolerance: float, name_order: NDArray[np.intp]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Each position with each of its neighbours; on a small slide with all others."""
    n = len(positions)
    if n <= n_neighbors + 1:
        source, target = np.divmod(np.arange(n * n), n)
        return source[source != target], target[source != target]
    nearest = nearest_positions(positions, n_neighbors, tolerance=tolerance, name_order=name_order)
    return np.repeat(np.arange(n), n_neighbors), nearest.ravel()


def _spot_radius(adata: AnnData, name: str, members: NDArray[np.intp], is_only_slide: bool, pitch: float) -> float:
    library = library_name(adata, name, members, only_slide=is_only_slide)
    diameter = scale_factors(adata, library).get("spot_diameter_fullres")
    if diameter is not None:
        where = f"adata.uns['spatial'][{library!r}]['scalefactors']['spot_diameter_fullres']"
        return positive_number(where, diameter) / 2
    if pitch == 0:
        raise ValueError(
            f"Slide {name!r} has spots at one position only, so nothing tells their size: set "
            "adata.uns['spatial'][library]['scalefactors']['spot_diameter_fullres'], or remove the slide."
        )
    return pitch / 2


def _mean_expression(connectivities: sparse.csr_matrix, counts: Any) -> sparse.csr_matrix:
    counts = sparse.csr_matrix(counts, dtype=np.float32)
    library_size = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
    seen = library_size > 0
    expression = log_expression(counts, library_size)
    expression.eliminate_zeros()
    n_seen = connectivities @ seen.astype(np.float32)
    weights = sparse.diags(np.divide(1.0, n_seen, out=np.zeros_like(n_seen), where=n_seen > 0))
    mean = sparse.csr_matrix(weights @ connectivities @ expression, dtype=np.float32)
    mean.sort_indices()
    return mean


def _boxes(
    connectivities: sparse.csr_matrix, coordinates: NDArray[np.float64], radius: NDArray[np.float64]
) -> NDArray[np.float64]:
    members, start = connectivities.indices, connectivities.indptr[:-1]
    low = np.minimum.reduceat((coordinates - radius[:, None])[members], start, axis=0)
    high = np.maximum.reduceat((coordinates + radius[:, None])[members], start, axis=0)
    return np.column_stack([low, high])


def _check_not_taken(adata: AnnData, key: str) -> None:
    earlier = adata.uns.get(key)
    if isinstance(earlier, Mapping) and "n_neighbors" in earlier.get("params", {}):
        return  # niches built before may be replaced
    keys = (_keys.niche_connectivities(key), _keys.niche_bbox(key))
    # `anndata.concat` merges `uns`, so that only some of its parts may be left.
    if (
        (earlier is None or (isinstance(earlier, Mapping) and set(earlier) <= {"params", "slides"}))
        and key in adata.layers
        and keys[1] in adata.obsm
        and adata.obsm[keys[1]].shape[1:] == (4,)
    ):
        return  # what `anndata.concat` leaves of niches
    taken = [f"obsp[{keys[0]!r}]"] if keys[0] in adata.obsp else []
    taken += [f"layers[{key!r}]"] if key in adata.layers else []
    taken += [f"obsm[{keys[1]!r}]"] if keys[1] in adata.obsm else []
    taken += [f"uns[{key!r}]"] if earlier is not None else []
    if taken:
        raise ValueError(
            f"`key_added`={key!r} would write over {', '.join(taken)}, which are not niches: choose another."
        )
