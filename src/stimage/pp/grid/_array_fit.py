"""Whether array coordinates and spatial coordinates say the same of a slide, and which observations they disagree on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from stimage import _keys
from stimage.pp._nearest import typical_distance
from stimage.pp.grid._infer import from_spatial
from stimage.pp.grid._sites import MOST_MISFITS, NoLatticeError, whole_positions

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_OFF = 0.5
"""Distance from where an array position puts an observation, over the pitch, from which the two disagree."""
_FAR_OFF = 0.75
"""The same for what no jitter of a hand-made array does: rows or columns that are counted wrong are a whole step off."""
_MOST_TORN = 0.002
"""Share of neighbours in the array that may be another distance apart in a slide whose coordinates are bent."""
_FEW = 8
_ALONE = 0.9
_WIDE = 400
"""Array rows or columns, more than any array of spots has."""
_COARSEST = 2.3
"""Steps between neighbours in array coordinates, which are 1 to 2 apart where they are none of pixels."""


@dataclass(frozen=True)
class ArrayFit:
    """The affine map from array to spatial coordinates that most observations follow.

    Parameters
    ----------
    steps
        Physical vector of one array row and of one array column (2 x 2).
    origin
        Position of array row and column 0.
    off
        Distance of each observation from where its array position puts it, over the pitch (observations).
    bent
        Whether the coordinates are bent, so that neighbours fit each other but the slide no one map.
    """

    steps: NDArray[np.float64]
    origin: NDArray[np.float64]
    off: NDArray[np.float64]
    bent: bool = False

    @property
    def misfits(self) -> NDArray[np.intp]:
        """Observations whose two positions disagree, the farthest off first."""
        if self.bent:
            return np.empty(0, dtype=np.intp)
        found = np.flatnonzero(self.off > _OFF)
        return found[np.argsort(-self.off[found], kind="stable")]


def fit_array(row: NDArray[np.int64], col: NDArray[np.int64], xy: NDArray[np.float64] | None) -> ArrayFit | None:
    """The map from array to spatial coordinates; None where there is nothing to fit it to, as on a single row.

    It starts from the median step between neighbours and is refined on the observations that follow it, so that a part of the
    slide that is a row further off is not split among all.

    Raises
    ------
    ValueError
        If more than 5 % of the observations are far from following one map, and neighbours in the array are not neighbours in space.
    """
    design = np.column_stack([row, col, np.ones(len(row))]).astype(np.float64)
    if xy is None or np.linalg.matrix_rank(design - design[0] * [1, 1, 0]) < 3 or not np.ptp(xy, axis=0).any():
        return None
    pairs = _neighbours(row, col)
    steps = _median_steps(row, col, xy, pairs)
    start = np.linalg.lstsq(design, xy, rcond=None)[0]
    fits = [_refine(design, xy, start)]
    if steps is not None:
        fits.insert(0, _refine(design, xy, np.vstack([steps, np.median(xy - design[:, :2] @ steps, axis=0)])))
    # The first of those that most observations follow: the one from neighbours does not average over a seam.
    fit, off = max(fits, key=lambda one: (one[1] <= _OFF).sum())
    found = ArrayFit(fit[:2], fit[2], off)
    if (off > _FAR_OFF).mean() <= MOST_MISFITS:
        return found
    torn, apart = _torn(row, col, xy, pairs)
    if steps is not None and torn <= _MOST_TORN and len(pairs[0]) >= len(row):
        return ArrayFit(steps, fit[2], off, bent=True)
    if len(row) < _FEW:
        return None  # too few to tell a contradiction from jitter
    raise ValueError(_contradiction(row, xy, off, pairs, apart))


def array_is_true(row: ArrayLike, col: ArrayLike, xy: NDArray[np.float64]) -> bool:
    """Whether array positions are such and nearly all say the same as the coordinates, or too few are there to tell."""
    try:
        row, col = np.asarray(row, dtype=np.float64), np.asarray(col, dtype=np.float64)
        if not (np.isfinite(row).all() and np.isfinite(col).all()):
            return False
        whole = whole_positions(row, _keys.ARRAY_ROW), whole_positions(col, _keys.ARRAY_COL)
        check_not_pixels(*whole)
        fit_array(*whole, xy)
    except (TypeError, ValueError):
        return False
    return True


def check_not_pixels(row: NDArray[np.int64], col: NDArray[np.int64]) -> None:
    """Raise if array coordinates are pixel positions: a lattice of many steps' pitch, or scattered over a wide raster."""
    if len(row) < _FEW:
        return
    one, other = _neighbours(row, col)
    alone = 1 - len(np.union1d(one, other)) / len(row)
    if alone < _OFF:
        return
    extent = f"{int(np.ptp(row)) + 1} rows x {int(np.ptp(col)) + 1} columns for {len(row)} observations"
    advice = (
        "remove the columns array_row and array_col to infer the lattice from the spatial coordinates, or, if they count "
        "larger bins in steps of smaller ones, divide them"
    )
    try:
        lattice = from_spatial(np.column_stack([col, row]).astype(np.float64))
    except NoLatticeError:
        lattice = None
    if lattice is not None and lattice.pitch >= _COARSEST:
        raise ValueError(
            f"obs['array_row'] and obs['array_col'] look like pixel coordinates, not array positions: they form a "
            f"{lattice.layout} lattice whose neighbours are {lattice.pitch:.1f} steps apart instead of one ({extent}, "
            f"{alone:.0%} without a neighbour): {advice}."
        )
    if alone >= _ALONE and max(np.ptp(row), np.ptp(col)) > _WIDE and len(set((row + col) % 2)) > 1:
        raise ValueError(
            f"obs['array_row'] and obs['array_col'] look like pixel coordinates, not array positions: {alone:.0%} of the "
            f"observations have no neighbour one step away ({extent}): {advice}."
        )


def _unit_steps(row: NDArray[np.int64], col: NDArray[np.int64]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Two steps from an array position to neighbours: the diagonal ones where row + col have one parity."""
    parity = (row + col) % 2
    return ((1, 1), (1, -1)) if (parity == parity[0]).all() else ((1, 0), (0, 1))


def _neighbours(row: NDArray[np.int64], col: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of observations one step apart in the array, those of the first step before those of the second."""
    width = int(np.ptp(col)) + 3
    key = (row - row.min() + 1) * width + (col - col.min() + 1)
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    one, other = [], []
    for down, across in _unit_steps(row, col):
        wanted = key + down * width + across
        place = np.minimum(np.searchsorted(ordered, wanted), len(key) - 1)
        hit = ordered[place] == wanted
        one.append(np.flatnonzero(hit))
        other.append(order[place[hit]])
    return np.concatenate(one), np.concatenate(other)


def _median_steps(
    row: NDArray[np.int64],
    col: NDArray[np.int64],
    xy: NDArray[np.float64],
    pairs: tuple[NDArray[np.intp], NDArray[np.intp]],
) -> NDArray[np.float64] | None:
    """Median physical vectors of one array row and one array column; None with too few neighbours."""
    one, other = pairs
    units = np.array(_unit_steps(row, col))
    taken = np.column_stack([row[other] - row[one], col[other] - col[one]])
    moved = xy[other] - xy[one]
    found = []
    for unit in units:
        of_unit = (taken == unit).all(axis=1)
        if of_unit.sum() < 3:
            return None
        found.append(np.median(moved[of_unit], axis=0))
    return np.linalg.solve(units.astype(np.float64), np.array(found))


def _refine(
    design: NDArray[np.float64], xy: NDArray[np.float64], fit: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least squares on those that follow the map, until these no longer change; and how far off each observation is."""
    off = _off(design, xy, fit)
    for _ in range(30):
        follow = off <= _OFF
        if follow.sum() < 4 or np.linalg.matrix_rank(design[follow]) < 3:
            break
        new = np.linalg.lstsq(design[follow], xy[follow], rcond=None)[0]
        new_off = _off(design, xy, new)
        if (new_off <= _OFF).sum() < follow.sum():
            break
        fit, off = new, new_off
        if ((off <= _OFF) == follow).all():
            break
    return fit, off


def _off(design: NDArray[np.float64], xy: NDArray[np.float64], fit: NDArray[np.float64]) -> NDArray[np.float64]:
    row, col = design[:, 0].astype(np.int64), design[:, 1].astype(np.int64)
    pitch = np.linalg.norm(np.array(_unit_steps(row, col)) @ fit[:2], axis=1).min()
    distance = np.linalg.norm(xy - design @ fit, axis=1)
    return np.divide(distance, pitch, out=np.full(len(xy), np.inf), where=pitch > 0)


def _torn(
    row: NDArray[np.int64],
    col: NDArray[np.int64],
    xy: NDArray[np.float64],
    pairs: tuple[NDArray[np.intp], NDArray[np.intp]],
) -> tuple[float, float]:
    """How torn a slide is, and the median distance of neighbours in the array.

    Torn is the share of neighbours in the array that are another vector apart than most, or of neighbours in space that are none
    in the array, whichever is larger.
    """
    one, other = pairs
    if not len(one):
        return 1.0, float("nan")
    moved = xy[other] - xy[one]
    down = np.column_stack([row[other] - row[one], col[other] - col[one]])
    off = np.empty(len(one))
    for unit in _unit_steps(row, col):
        of_unit = (down == unit).all(axis=1)
        if of_unit.any():
            usual = np.median(moved[of_unit], axis=0)
            off[of_unit] = np.linalg.norm(moved[of_unit] - usual, axis=1) / max(np.linalg.norm(usual), 1e-300)
    apart = float(np.median(np.linalg.norm(moved, axis=1)))
    near, neighbour = cKDTree(xy).query(xy, k=min(7, len(xy)), distance_upper_bound=1.3 * apart)
    first, place = np.nonzero(np.isfinite(near[:, 1:]))
    second = neighbour[first, place + 1]
    wide = 2 if _unit_steps(row, col)[0] == (1, 1) else 1
    split = (np.abs(row[first] - row[second]) > 1) | (np.abs(col[first] - col[second]) > wide)
    return float(max((off > _OFF).mean(), split.mean() if len(split) else 0.0)), apart


def _contradiction(
    row: NDArray[np.int64],
    xy: NDArray[np.float64],
    off: NDArray[np.float64],
    pairs: tuple[NDArray[np.intp], NDArray[np.intp]],
    apart: float,
) -> str:
    try:
        lattice = from_spatial(xy)
        shows = f"show a {lattice.layout} lattice of pitch {lattice.pitch:.4g}"
    except NoLatticeError as error:
        shows = f"show no lattice: {error}"
    return (
        "obs['array_row'] and obs['array_col'] contradict the spatial coordinates: "
        f"{int((off > _OFF).sum())} of {len(row)} observations are more than half a step away from where the array position "
        f"puts them; neighbours in the array ({len(pairs[0])} pairs) are {apart:.4g} apart on median, nearest observations "
        f"{typical_distance(xy):.4g}. Positions of another slide, or ones that were numbered anew after empty ones were dropped, look so. "
        f"Correct them, or remove the two columns: the spatial coordinates {shows}."
    )
