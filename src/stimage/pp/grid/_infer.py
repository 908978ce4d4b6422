"""The lattice of a slide that has spatial coordinates only: pitch, rotation and the site of each observation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from stimage.data.lattices import LATTICES
from stimage.pp._nearest import typical_distance
from stimage.pp.grid._sites import MOST_MISFITS, NoLatticeError, Sites

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MIN_OBSERVATIONS = 8
_MIN_ORDER = 0.6
"""Least agreement of the directions to nearest neighbours (0: any direction, 1: a perfect lattice)."""
_TYPICAL, _THINNED = 0.5, 0.1
"""Quantiles of the distance to the nearest that may be the pitch: most have lost their neighbours in a thinned slide."""
_MOST_NEIGHBOURS = 6
"""Neighbours one pitch away, on a hexagonal lattice."""
_MOSTLY = 0.9
"""Share of positions on a lattice from which the others are left out of its fit."""
_FARTHEST = 4.0
"""Median distance to the nearest observation in pitches, above which a lattice is not the positions' own."""
_BESIDE = 2.0
"""Pitches to a free site that an observation may have whose own is taken."""
_MAX_MEDIAN_RESIDUAL = 0.2
_MAX_RESIDUAL = 0.45
"""Distances to the fitted site over the pitch; half a pitch is where the site becomes ambiguous."""


class IrregularError(NoLatticeError):
    """The positions are too few, or look like those of cells or beads: nothing like a lattice with faults."""


class SharedSiteError(NoLatticeError):
    """The positions lie on a lattice, but for ``observations`` that are where others are, and have no free site beside them."""

    def __init__(self, message: str, observations: NDArray[np.intp]) -> None:
        super().__init__(message)
        self.observations = observations
        self.sites: Sites | None = None


def from_spatial(spatial: NDArray[np.float64], layout: str = "auto") -> Sites:
    """Sites of a hexagonal or square lattice found in ``spatial`` (n, 2); ``layout`` may ask for one of the two.

    The directions to nearest neighbours repeat every 60 degrees on a hexagonal and every 90 on a square lattice, which
    gives type and rotation. An affine map from sites to positions is then fitted outwards from the middle, so that small
    errors of the first estimate and slightly unequal axes do not add up over the slide.

    Raises
    ------
    NoLatticeError
        If the positions are irregular, on the other lattice, or more than a twentieth of them do not fit it or fall on a site
        with another; :class:`SharedSiteError` if they
        fit it but for a few that are where others are.
    """
    if len(spatial) < _MIN_OBSERVATIONS:
        raise IrregularError(
            f"{len(spatial)} observations are too few to infer a lattice, {_MIN_OBSERVATIONS} are needed"
        )
    try:
        return _from_steps(spatial, _nearest_steps(spatial, _TYPICAL), layout)
    except SharedSiteError:
        raise
    except NoLatticeError as typical:
        try:
            return _from_steps(spatial, _nearest_steps(spatial, _THINNED), layout)
        except IrregularError:
            raise typical from None


def _from_steps(spatial: NDArray[np.float64], steps: NDArray[np.float64], layout: str) -> Sites:
    """Sites of the lattice whose neighbours are so far apart as some steps (m, 2) say."""
    angle = np.arctan2(steps[:, 1], steps[:, 0])
    inferred = sorted((lattice for lattice in LATTICES.values() if lattice.fold), key=lambda one: one.fold)
    order = {lattice.name: np.exp(1j * lattice.fold * angle).mean() for lattice in inferred}
    lattice = max(inferred, key=lambda one: abs(order[one.name]))
    found, fold = lattice.name, lattice.fold
    orders = ", ".join(f"{one.adjective} {abs(order[one.name]):.2f}" for one in inferred)
    seen = f"order of neighbour directions: {orders}"
    if abs(order[found]) < _MIN_ORDER:
        raise IrregularError(f"the positions are irregular ({seen}; a lattice has at least {_MIN_ORDER})")
    if layout not in ("auto", found):
        raise NoLatticeError(f"the positions form a {found} lattice ({seen})")

    basis = _first_basis(steps, np.angle(order[found]) / fold, fold)
    sites, basis, origin = _fit_outwards(spatial, basis)
    pitch = float(np.linalg.norm(_half_neighbours(fold) @ basis, axis=1).mean())
    residual = np.linalg.norm(spatial - origin - sites @ basis, axis=1) / pitch
    if np.median(residual) > _MAX_MEDIAN_RESIDUAL or (residual > _MAX_RESIDUAL).mean() > MOST_MISFITS:
        raise NoLatticeError(
            f"the positions do not fit a {found} lattice of pitch {pitch:.4g}: they are off by {np.median(residual):.2f} "
            f"of the pitch on median and {residual.max():.2f} at most, {int((residual > _MAX_RESIDUAL).sum())} of "
            f"{len(spatial)} by more than {_MAX_RESIDUAL} (allowed {_MAX_MEDIAN_RESIDUAL} on median, {MOST_MISFITS:.0%})"
        )
    apart = typical_distance(spatial) / pitch
    if apart > _FARTHEST:  # a lattice so fine that it fits anything
        raise NoLatticeError(
            f"the positions fit a {found} lattice of pitch {pitch:.4g}, but are {apart:.1f} of its steps apart on median"
        )
    try:
        sites, misfits = _nearest_free(sites, spatial, origin, basis, residual, pitch, found)
    except SharedSiteError as error:
        row, col, _, rotation = _orient(sites, basis, fold)
        error.sites = Sites(found, row, col, "spatial", pitch=pitch, rotation=rotation, misfits=error.observations)
        raise
    row, col, parity, rotation = _orient(sites, basis, fold)
    return Sites(found, row, col, "spatial", parity=parity, pitch=pitch, rotation=rotation, misfits=misfits)


def _nearest_free(
    sites: NDArray[np.int64],
    spatial: NDArray[np.float64],
    origin: NDArray[np.float64],
    basis: NDArray[np.float64],
    residual: NDArray[np.float64],
    pitch: float,
    layout: str,
) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """Sites of which no two are the same, and the observations that do not fit: those off theirs, or that another is closer to."""
    by_fit = np.argsort(residual, kind="stable")
    first = np.unique(sites[by_fit], axis=0, return_index=True)[1]
    owner = np.zeros(len(sites), dtype=bool)
    owner[by_fit[first]] = True
    shared = np.flatnonzero(~owner)
    if len(shared) > MOST_MISFITS * len(sites):
        raise NoLatticeError(
            f"{len(shared)} observations share a site of the {layout} lattice of pitch {pitch:.4g} with another"
        )
    repeated = np.setdiff1d(np.arange(len(spatial)), np.unique(spatial, axis=0, return_index=True)[1])
    if len(repeated):
        raise SharedSiteError(
            f"{len(repeated)} observations have the position of another, on a {layout} lattice of pitch {pitch:.4g}",
            repeated,
        )
    taken = {tuple(site) for site in sites[owner].tolist()} if len(shared) else set()
    sites = sites.copy() if len(shared) else sites
    around = np.stack(np.meshgrid([-2, -1, 0, 1, 2], [-2, -1, 0, 1, 2], indexing="ij"), axis=-1).reshape(-1, 2)
    for one in shared:
        near = sites[one] + around
        distance = np.linalg.norm(spatial[one] - origin - near @ basis, axis=1) / pitch
        free = [k for k in np.argsort(distance) if distance[k] <= _BESIDE and tuple(near[k].tolist()) not in taken]
        if not free:
            raise SharedSiteError(
                f"{len(shared)} observations share a site of the {layout} lattice of pitch {pitch:.4g} with another, and "
                "there is no free one beside it",
                shared,
            )
        sites[one] = near[free[0]]
        taken.add(tuple(sites[one].tolist()))
    misfits = np.union1d(shared, np.flatnonzero(residual > _MAX_RESIDUAL))
    return sites, misfits[np.argsort(-residual[misfits], kind="stable")]


def _turn(fold: int) -> NDArray[np.int64]:
    """Turn by one direction to neighbours, in units of a basis whose second vector is the first one turned (2 x 2)."""
    return np.array([[0, 1], [-1, round(2 * np.cos(2 * np.pi / fold))]])


def _half_neighbours(fold: int) -> NDArray[np.int64]:
    """Steps to half of a site's neighbours, in units of the basis (directions / 2 x 2)."""
    return np.array([np.array([1, 0]) @ np.linalg.matrix_power(_turn(fold), number) for number in range(fold // 2)])


def _nearest_steps(spatial: NDArray[np.float64], quantile: float) -> NDArray[np.float64]:
    """Vectors between neighbours one pitch apart, (m, 2), which is about a quantile of the distances to the nearest."""
    distinct = np.unique(spatial, axis=0)
    repeated = len(spatial) - len(distinct)
    if repeated > MOST_MISFITS * len(spatial):
        raise NoLatticeError(
            f"{repeated} of {len(spatial)} observations have the position of another; several slides on top of each other "
            "need `slide_key=`"
        )
    spatial = distinct
    tree = cKDTree(spatial)
    pitch = np.quantile(tree.query(spatial, k=2)[0][:, 1], quantile)
    for _ in range(3):
        # A lattice has no more neighbours within the radius; all pairs of a dense clump would be quadratic.
        near, other = tree.query(spatial, k=_MOST_NEIGHBOURS + 1, distance_upper_bound=1.3 * pitch)
        one, neighbour = np.nonzero(np.isfinite(near[:, 1:]))
        steps = spatial[other[one, neighbour + 1]] - spatial[one]
        length = np.linalg.norm(steps, axis=1)
        pitch = np.median(length)
    return steps[length > 0.7 * pitch]


def _first_basis(steps: NDArray[np.float64], rotation: float, fold: int) -> NDArray[np.float64]:
    """Least-squares basis (2, 2) of the steps, each step taken as the nearest direction of the regular lattice."""
    neighbours = _half_neighbours(fold)
    second = rotation + 2 * np.pi / fold
    regular = np.array([[np.cos(rotation), np.sin(rotation)], [np.cos(second), np.sin(second)]])
    along = steps @ (neighbours @ regular).T
    nearest = np.abs(along).argmax(axis=1)
    sign = np.sign(along[np.arange(len(steps)), nearest])
    coefficients = neighbours[nearest] * sign[:, None]
    if np.linalg.matrix_rank(coefficients) < 2:  # all on one line: the other direction is the regular one
        return regular * np.median(np.linalg.norm(steps, axis=1))
    return np.linalg.lstsq(coefficients.astype(np.float64), steps, rcond=None)[0]


def _fit_outwards(
    spatial: NDArray[np.float64], basis: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Integer coordinates of every position in the refined basis, the basis and its origin."""
    middle = np.median(spatial, axis=0)
    origin = spatial[np.linalg.norm(spatial - middle, axis=1).argmin()]
    distance = np.linalg.norm(spatial - origin, axis=1)
    radius = 3 * np.linalg.norm(basis, axis=1).max()
    while True:
        near = distance <= radius
        for _ in range(3):
            sites = np.rint((spatial[near] - origin) @ np.linalg.inv(basis))
            residual = np.linalg.norm(spatial[near] - origin - sites @ basis, axis=1)
            # Positions beside the lattice would pull it; while most are beside it, it is still to be found.
            fits = residual <= _MAX_RESIDUAL * np.linalg.norm(basis, axis=1).min()
            fits = fits if fits.mean() >= _MOSTLY else np.ones(len(fits), dtype=bool)
            design = np.column_stack([sites, np.ones(len(sites))])[fits]
            if np.linalg.matrix_rank(design) < 3:
                break
            fit = np.linalg.lstsq(design, spatial[near][fits], rcond=None)[0]
            if abs(np.linalg.det(fit[:2])) < 0.5 * abs(np.linalg.det(basis)):
                break  # positions without a lattice can collapse the fit; the residuals are judged by the caller
            basis, origin = fit[:2], fit[2]
        if near.all():
            sites = np.rint((spatial - origin) @ np.linalg.inv(basis))
            return sites.astype(np.int64), basis, origin
        radius *= 1.5


def _orient(
    sites: NDArray[np.int64], basis: NDArray[np.float64], fold: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], int, float]:
    """Rows, columns, parity and rotation of the raster.

    A hexagonal lattice has three directions for its rows. Images are mostly cut along the capture area, so a direction
    within 5 degrees of an image axis is taken; otherwise the one with the smallest raster.
    """
    i, j = sites.T
    turn = _turn(fold)
    is_hex = fold == 6  # its rows are shifted against each other by half a step
    best = None
    for _ in range(fold // 2):
        angle = _angle(basis[0])
        if not -90 < angle <= 90:
            i, j, basis, angle = -i, -j, -basis, _angle(-basis[0])
        tilted = min(abs(angle), 90 - abs(angle)) > 5
        row = j - j.min()
        # Which rows count as shifted is free: one of the two choices may save a column.
        for parity in (0, 1) if is_hex else (0,):
            col = i + (j + parity) // 2 if is_hex else i
            col = col - col.min()
            n_sites = (int(row.max()) + 1) * (int(col.max()) + 1)
            preference = (tilted, n_sites, abs(angle)) if is_hex else (abs(angle),)
            if best is None or preference < best[0]:
                # Row 0 lies at j.min(), and rows of odd j + parity are shifted.
                best = preference, row, col, int((j.min() + parity) % 2) if is_hex else 0, angle
        # The same sites in units of the basis that is turned by one direction.
        i, j = turn[1, 1] * i + j, -i
        basis = turn @ basis
    return best[1:]


def _angle(vector: NDArray[np.float64]) -> float:
    return float(np.degrees(np.arctan2(vector[1], vector[0])))
