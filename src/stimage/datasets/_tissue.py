"""Where the observations of a simulated section lie, and which domain each belongs to."""

from typing import Literal

import numpy as np

from stimage.data.lattices import LATTICES

IRREGULAR = "irregular"
"""Positions of cells, which are on no lattice."""
Pattern = Literal["layers", "patches"]

_N_WAVES = 64
_HOLE_RADIUS = 0.045


def layouts() -> list[str]:
    """What a section can look like: the regular lattices, and cells."""
    return [*(name for name, lattice in LATTICES.items() if lattice.is_regular), IRREGULAR]


def places(layout: str, n_rows: int, n_cols: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
    """Positions in units of the pitch, and (array_row, array_col) where the layout has them."""
    row, col = (index.ravel() for index in np.indices((n_rows, n_cols)))
    if layout != IRREGULAR:
        lattice = LATTICES[layout]
        return lattice.positions(row, col), np.column_stack(lattice.to_array(row, col))
    # Cells exclude each other, so jittering a lattice is closer to tissue than independent uniform points.
    return np.column_stack([col, row]) + rng.uniform(-0.45, 0.45, (len(row), 2)), None


def to_unit_square(positions: np.ndarray) -> np.ndarray:
    """Centre positions and divide by the longer side, so that one length scale suits every slide size."""
    low, high = positions.min(axis=0), positions.max(axis=0)
    return (positions - (low + high) / 2) / max((high - low).max(), 1.0)


class SmoothField:
    """Gaussian random field with a squared-exponential covariance, zero mean and unit variance.

    Random Fourier features (Rahimi & Recht 2007): a sum of plane waves costs the same at any set of points
    and needs no lattice.
    """

    def __init__(self, length_scale: float | np.ndarray, rng: np.random.Generator, n_fields: int = 1) -> None:
        scale = np.broadcast_to(length_scale, n_fields)[:, None, None]
        self._frequency = rng.normal(size=(n_fields, 2, _N_WAVES)) / scale
        self._phase = rng.uniform(0, 2 * np.pi, (n_fields, 1, _N_WAVES))

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Values at `points` (n, 2), shape (n, n_fields)."""
        waves = [
            np.cos(points @ frequency + phase).mean(axis=1)
            for frequency, phase in zip(self._frequency, self._phase, strict=True)
        ]
        return np.sqrt(2 * _N_WAVES) * np.column_stack(waves)


class LayeredField:
    """Sum of smooth fields, given as ``{length scale: standard deviation}``: large areas, and detail within them."""

    def __init__(self, layers: dict[float, float], rng: np.random.Generator, n_fields: int = 1) -> None:
        self._layers = [(deviation, SmoothField(scale, rng, n_fields)) for scale, deviation in layers.items()]

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Values at `points` (n, 2), shape (n, n_fields)."""
        return sum(deviation * field(points) for deviation, field in self._layers)


def tissue_mask(points: np.ndarray, n_holes: int, rng: np.random.Generator) -> np.ndarray:
    """Boolean mask (n,) of the points under tissue: an irregular outline, less `n_holes` round holes."""
    radius = _radius(points)
    angle = np.arctan2(points[:, 1], points[:, 0])
    wobble = sum(
        rng.normal(0, 0.04 / order) * np.cos(order * angle + rng.uniform(0, 2 * np.pi)) for order in range(2, 8)
    )
    inside = radius < 0.95 + wobble
    for centre in points[rng.choice(np.flatnonzero(radius < 0.7), n_holes)] if n_holes else ():
        inside &= np.hypot(*(points - centre).T) > _HOLE_RADIUS * rng.uniform(0.6, 1.2)
    return inside


def _radius(points: np.ndarray) -> np.ndarray:
    """Distance from the centre, 1 at the edge: a superellipse, between an ellipse and the capture area's rectangle."""
    return ((points / np.abs(points).max(axis=0)) ** 4).sum(axis=1) ** 0.25


class DomainMap:
    """Domains of one tissue. Its sections share the anatomy and differ by a small deformation.

    Layers are bands of equal distance from a point outside the tissue; patches are the Voronoi cells of
    two or three seeds per domain. Both are drawn in smoothly deformed space, which curves the borders.
    """

    def __init__(self, pattern: Pattern, n_domains: int, points: np.ndarray, rng: np.random.Generator) -> None:
        self._pattern = pattern
        # Patches are ragged, layers only bend.
        self._warp = SmoothField(0.25 if pattern == "layers" else 0.1, rng, 2)
        angle = rng.uniform(0, 2 * np.pi)
        self._origin = 1.1 * np.array([np.cos(angle), np.sin(angle)])
        # Layers differ in thickness, but none vanishes.
        self._quantiles = np.cumsum(rng.dirichlet(np.full(n_domains, 12.0)))[:-1]
        n_seeds = max(n_domains, round(2.5 * n_domains))
        self._seeds = _spread(points[_radius(points) < 0.8], n_seeds, rng)
        self._domain_of_seed = np.arange(len(self._seeds)) % n_domains

    def __call__(self, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Domain (n,) of each point; `rng` draws this section's own deformation."""
        warped = points + 0.05 * self._warp(points) + 0.012 * SmoothField(0.25, rng, 2)(points)
        if self._pattern == "layers":
            depth = np.hypot(*(warped - self._origin).T)
            return np.searchsorted(np.quantile(depth, self._quantiles), depth)
        to_seed = np.linalg.norm(warped[:, None] - self._seeds[None], axis=2)
        return self._domain_of_seed[to_seed.argmin(axis=1)]


def _spread(points: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Farthest-point sample of at most `n` of the `points`."""
    chosen = [int(rng.integers(len(points)))]
    distance = np.full(len(points), np.inf)
    while len(chosen) < min(n, len(points)):
        distance = np.minimum(distance, np.hypot(*(points - points[chosen[-1]]).T))
        chosen.append(int(distance.argmax()))
    return points[chosen]
