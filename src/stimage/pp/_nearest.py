"""Members of niches: nearest positions with ties broken by direction, and whole rings of a lattice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from stimage.data.lattices import Lattice

_BLOCK = 1 << 20  # candidates looked at together
_SPARE = 16
"""Candidates asked for beyond the number needed, so that those at equal distance are mostly among them."""

_FIRST_DIRECTION = np.radians(-10.0)
"""Where directions start to count: no lattice along the axes has neighbours there, so rounding cannot turn first to last."""


def typical_distance(positions: NDArray[np.float64]) -> float:
    """Median distance from a position to the nearest other one; 0 where there is none."""
    distinct = np.unique(positions, axis=0)
    if len(distinct) < 2:
        return 0.0
    return float(np.median(cKDTree(distinct).query(distinct, k=2)[0][:, 1]))


def nearest_positions(
    positions: NDArray[np.float64], n_neighbors: int, *, tolerance: float, name_order: NDArray[np.intp]
) -> NDArray[np.int64]:
    """The nearest other positions of each position, (n, n_neighbors), in ascending order of their number.

    Distances within ``tolerance`` of the last neighbour's are equal. Of equally far candidates, in the order of their
    direction, those are taken that are spread evenly over this order; of those in one direction, the one whose place in
    ``name_order`` comes first. Needs more positions than neighbours.
    """
    n = len(positions)
    tree = cKDTree(positions)
    nearest = np.empty((n, n_neighbors), dtype=np.int64)
    todo = np.arange(n)
    n_candidates = min(n, 2 * n_neighbors + 1 + _SPARE)
    while len(todo):
        incomplete = []
        step = max(1, _BLOCK // n_candidates)
        for start in range(0, len(todo), step):
            rows = todo[start : start + step]
            distance, candidates = tree.query(positions[rows], k=np.arange(1, n_candidates + 1))
            distance[candidates == rows[:, None]] = np.inf
            last = np.partition(distance, n_neighbors - 1, axis=1)[:, n_neighbors - 1]
            # The farthest candidate must be beyond the tie, or further ones could belong to it.
            farthest = np.where(np.isfinite(distance), distance, -np.inf).max(axis=1)
            complete = (farthest > last + tolerance) | (n_candidates == n)
            incomplete.append(rows[~complete])
            rows, distance, candidates, last = (part[complete] for part in (rows, distance, candidates, last))
            direction = _direction(positions[candidates] - positions[rows, None])
            nearest[rows] = _choose(candidates, distance, last, direction, name_order, n_neighbors, tolerance)
        todo = np.concatenate(incomplete)
        n_candidates = min(n, 4 * n_candidates)
    return nearest


def _direction(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    return (np.arctan2(steps[..., 1], steps[..., 0]) - _FIRST_DIRECTION) % (2 * np.pi)


def _choose(
    candidates: NDArray[np.intp],
    distance: NDArray[np.float64],
    last: NDArray[np.float64],
    direction: NDArray[np.float64],
    name_order: NDArray[np.intp],
    n_neighbors: int,
    tolerance: float,
) -> NDArray[np.int64]:
    nearer = distance < last[:, None] - tolerance
    tied = np.abs(distance - last[:, None]) <= tolerance
    order = np.lexsort((name_order[candidates], direction, ~tied))
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.broadcast_to(np.arange(order.shape[1]), order.shape), axis=1)
    n_tied = tied.sum(axis=1, keepdims=True)
    n_free = n_neighbors - nearer.sum(axis=1, keepdims=True)
    # Exactly n_free of the places 0..n_tied-1 are such that place * n_free wraps around n_tied, at even intervals.
    chosen = nearer | (tied & (place * n_free % n_tied < n_free))
    return np.sort(candidates[chosen].reshape(len(candidates), n_neighbors), axis=1)


def ring_pairs(
    lattice: Lattice, rows: NDArray[np.int64], cols: NDArray[np.int64], parity: int, *, n_rings: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs (from, to) of distinct positions at most ``n_rings`` steps between neighbouring sites apart."""
    across = lattice.across(rows, cols, parity)
    rings = lattice.rings(n_rings)
    reach = max(abs(right) for _, right in rings)
    width = int(across.max()) + 2 * reach + 1  # a step off one side does not come in at the other
    site = rows * width + across
    order = np.argsort(site)
    ordered = site[order]
    sources, targets = [], []
    for down, right in rings:
        wanted = site + down * width + right
        found = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        hit = np.flatnonzero(ordered[found] == wanted)
        sources.append(hit)
        targets.append(order[found[hit]])
    return np.concatenate(sources), np.concatenate(targets)
