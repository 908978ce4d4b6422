"""Sites of a slide from its array coordinates, or from bins of a given size."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from stimage.data.lattices import LATTICES, Lattice

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

_SNAP_TOLERANCE = 0.35
"""Largest distance of an array coordinate from its integer; legacy arrays store positions adjusted by up to .3."""

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
    def lattice(self) -> Lattice:
        return LATTICES[self.layout]

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
    """Sites from array coordinates, for ``layout`` ``"auto"`` or a lattice that uses them.

    Array coordinates of one parity of row + col are a hexagonal lattice (Visium) or a square one turned by 45 degrees
    (the 2k array of Spatial Transcriptomics). ``steps`` (2 x 2), the physical vectors of one array row and of one array
    column, tell them apart; without them Visium is assumed.
    """
    if layout == "auto":
        layout = next(name for name, lattice in LATTICES.items() if lattice.fits_array(row, col, steps))
    found = LATTICES[layout].from_array(row, col)
    pitch = float("nan")
    if steps is not None and found.neighbors:
        pitch = float(np.linalg.norm(np.array(found.neighbors) @ steps, axis=1).mean())
    return Sites(layout, found.rows, found.cols, "array", parity=found.parity, pitch=pitch, rotation=found.rotation)


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
