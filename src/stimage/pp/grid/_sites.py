"""Sites of a slide from its array coordinates, or from bins of a given size."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_SNAP_TOLERANCE = 0.35
"""Largest distance of an array coordinate from its integer; legacy arrays store positions adjusted by up to .3."""
_SQUARE_HEX_RATIO = 3**0.25
"""Row step over column step that separates a checkerboard (1) from Visium (sqrt(3)): their geometric mean."""


LEAST_OCCUPANCY = 0.05
"""Occupied share of the raster below which sites that nothing confirms are not taken for those of a lattice or bins."""


MOST_MISFITS = 0.05
"""Share of a slide's observations that need not fit its lattice; they are named."""


class NoLatticeError(ValueError):
    """The positions do not lie on one lattice of the layout asked for."""


@dataclass(frozen=True)
class Sites:
    """The raster of one slide: integer ``row`` and ``col`` from 0 per observation, and what is known of the lattice."""

    layout: str
    row: NDArray[np.int64]
    col: NDArray[np.int64]
    source: str
    parity: int = 0
    pitch: float = float("nan")
    rotation: float = 0.0
    misfits: NDArray[np.intp] = field(default_factory=lambda: np.empty(0, dtype=np.intp))
    """Observations that do not fit the lattice, the farthest off first."""
    rejected: str = ""
    """Why these are bins where a lattice was looked for."""
    looked_like_lattice: bool = False
    """Whether it was more than the disorder of cells or beads that spoke against it."""

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.row.max()) + 1, int(self.col.max()) + 1

    @property
    def n_sites(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def occupancy(self) -> float:
        return len(self.counts) / self.n_sites

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Observations on each of the occupied sites."""
        return np.unique(self.row * self.shape[1] + self.col, return_counts=True)[1]


def from_array(
    row: NDArray[np.int64], col: NDArray[np.int64], layout: str, steps: NDArray[np.float64] | None = None
) -> Sites:
    """Sites from array coordinates, for ``layout`` ``"auto"``, ``"hex"``, ``"square"`` or ``"rank"``.

    Array coordinates of one parity of row + col are a hexagonal lattice (Visium) or a square one turned by 45 degrees
    (the 2k array of Spatial Transcriptomics). ``steps`` (2 x 2), the physical vectors of one array row and of one array
    column, tell them apart; without them Visium is assumed.
    """
    if layout == "rank":
        row_levels, rank_row = np.unique(row, return_inverse=True)
        col_levels, rank_col = np.unique(col, return_inverse=True)
        n, n_sites = len(row), len(row_levels) * len(col_levels)
        # Pixels have nearly as many levels as observations, so their ranks form an all but empty raster.
        if n >= 100 and n < 0.02 * n_sites:
            raise ValueError(
                f"`layout`='rank' would give {len(row_levels)} x {len(col_levels)} sites for {n} observations: "
                "obs['array_row'] and obs['array_col'] look like pixel coordinates, whose ranks mean nothing. "
                "Remove these two columns and use `layout`='auto' to infer the lattice."
            )
        return Sites("rank", rank_row, rank_col, "array")

    parity = (row + col) % 2
    one_parity = bool((parity == parity[0]).all())
    if layout == "hex":
        check_one_parity(row, col)
    if layout == "auto":
        layout = "hex" if one_parity and not _is_checkerboard(steps) else "square"
    if layout == "hex":
        neighbours = ((0, 2), (1, 1), (1, -1))
        half = col // 2
        return Sites(
            "hex",
            row - row.min(),
            half - half.min(),
            "array",
            parity=int((row.min() + parity[0]) % 2),
            pitch=_pitch(steps, neighbours),
        )
    if one_parity:
        # The four nearest sites are the diagonal ones: turn the raster by 45 degrees so that it has no holes.
        up, along = (row - col) // 2, (row + col) // 2
        pitch = _pitch(steps, ((1, 1), (1, -1)))
        return Sites("square", up - up.min(), along - along.min(), "array", pitch=pitch, rotation=45.0)
    return Sites("square", row - row.min(), col - col.min(), "array", pitch=_pitch(steps, ((0, 1), (1, 0))))


def check_one_parity(row: NDArray[np.int64], col: NDArray[np.int64]) -> None:
    """Raise ``ValueError`` unless array coordinates can be those of a hexagonal lattice."""
    odd = int(((row + col) % 2).sum())
    if 0 < odd < len(row):
        raise ValueError(
            f"`layout`='hex' needs array coordinates with row + col all even or all odd, as on Visium; "
            f"found {len(row) - odd} even and {odd} odd: use `layout`='square' or 'auto'."
        )


def from_bins(spatial: NDArray[np.float64], bin_size: float | None = None) -> Sites:
    """Square bins of ``bin_size``; ``None`` takes the largest size at which half of the occupied bins hold one position."""
    origin = spatial.min(axis=0)
    if bin_size is None:
        bin_size = _choose_bin_size(spatial)
    sites = np.floor((spatial - origin) / bin_size)
    if sites.max() >= np.iinfo(np.int32).max:
        raise ValueError(
            f"`bin_size`={bin_size:g} is far too small for coordinates that span {np.ptp(spatial, axis=0)}."
        )
    sites = sites.astype(np.int64)
    return Sites("bins", sites[:, 1], sites[:, 0], "spatial", pitch=float(bin_size))


def _choose_bin_size(spatial: NDArray[np.float64]) -> float:
    positions = np.unique(spatial, axis=0)
    if len(positions) < 2:
        raise ValueError("All observations have the same spatial position: no `bin_size` can be chosen.")
    positions = positions - positions.min(axis=0)
    extent = positions.max(axis=0)
    # A side per position if they were spread evenly; on a line the longer axis alone counts.
    even = max(np.sqrt(extent.prod() / len(positions)), extent.max() / len(positions))
    for size in even * 1.05 ** np.arange(30.0, -200.0, -1.0):
        bins = np.floor(positions / size).astype(np.int64)
        counts = np.unique(bins[:, 0] * (bins[:, 1].max() + 1) + bins[:, 1], return_counts=True)[1]
        if np.median(counts) <= 1:
            break
    return float(size)


def whole_positions(values: ArrayLike, name: str) -> NDArray[np.int64]:
    """Array coordinates as whole numbers; raise ``ValueError`` where they are none, not even with an offset or jitter."""
    values = np.asarray(values)
    if values.dtype.kind in "iu":
        return values.astype(np.int64)
    values = values.astype(np.float64)
    # A common offset (e.g. every coordinate ends in .5) is the phase of the coordinates modulo one.
    phase = np.angle(np.exp(2j * np.pi * values).mean()) / (2 * np.pi)
    if abs(phase) < 0.1:  # jitter, not an offset
        phase = 0.0
    whole = np.rint(values - phase)
    off = np.abs(values - phase - whole)
    if off.max() > _SNAP_TOLERANCE:
        raise ValueError(
            f"obs[{name!r}] must hold array coordinates one apart, found e.g. {values[off.argmax()]:g}: "
            "if these are pixel coordinates, remove array_row and array_col to infer the lattice from the spatial ones."
        )
    return whole.astype(np.int64)


def _is_checkerboard(steps: NDArray[np.float64] | None) -> bool:
    if steps is None:
        return False
    row_step, col_step = np.linalg.norm(steps, axis=1)
    ratio = row_step / col_step
    if ratio < 1 / _SQUARE_HEX_RATIO:
        raise ValueError(
            f"obs['array_row'] and obs['array_col'] look exchanged: one row is {ratio:.2f} of a column apart, "
            "on Visium it is 1.73. Exchange the two columns, or pass `layout`='hex' or 'square' to take them as they are."
        )
    return bool(ratio < _SQUARE_HEX_RATIO)


def _pitch(steps: NDArray[np.float64] | None, neighbours: tuple[tuple[int, int], ...]) -> float:
    if steps is None:
        return float("nan")
    return float(np.linalg.norm(np.array(neighbours) @ steps, axis=1).mean())
