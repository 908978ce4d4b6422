from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SQUARE_CELL = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))
SQUARE_NEIGHBORS = ((0, -1), (0, 1), (-1, 0), (1, 0))


@dataclass(frozen=True)
class ArraySites:
    """Sites of observations that have array coordinates, as :meth:`Lattice.from_array` finds them.

    Parameters
    ----------
    rows, cols
        Row and column of each observation in the raster, from 0 (observations).
    parity
        Whether it is the even rows of the raster that are shifted, see :class:`Slide`.
    rotation
        Degrees from the axis of array columns to that of the raster's columns.
    neighbors
        Steps (array rows, array columns) to neighbouring sites, whose mean length is the pitch.

    Examples
    --------
    >>> import numpy as np
    >>> import stimage as sti
    >>> sti.data.LATTICES["hex"].from_array(np.array([0, 1]), np.array([2, 3])).cols.tolist()
    [0, 0]
    """

    rows: NDArray[np.int64]
    cols: NDArray[np.int64]
    parity: int = 0
    rotation: float = 0.0
    neighbors: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class PlatformSpots:
    """Spots of the platform that a lattice is known from, which tell its scale.

    Parameters
    ----------
    platform
        Name of the platform.
    pitch
        Micrometres from the centre of one spot to the next.
    pitch_in_diameters
        Lower and upper bound of the same in diameters of a spot.

    Examples
    --------
    >>> import stimage as sti
    >>> sti.data.LATTICES["hex"].spots.pitch
    100.0
    """

    platform: str
    pitch: float
    pitch_in_diameters: tuple[float, float]


class Lattice:
    """How the sites of a raster lie in the tissue. A new layout is a class like this one and an entry of :data:`LATTICES`.

    Sites have a row and a column in the raster. For geometry columns are counted in steps of half a site where every
    second row is shifted, so that positions form a grid along the axes: see :meth:`across`.

    Attributes
    ----------
    name
        Key in :data:`LATTICES`, and ``layout`` of a slide.
    adjective
        What it is called in messages.
    row_spacing
        Distance of two rows, in units of the distance between neighbours in a row.
    shifts_rows
        Whether every second row is shifted right by half a site.
    neighbors
        Steps (rows, steps across) from a site to its neighbours.
    cell
        Corners (x, y) of the cell around a site, in units of the distance between neighbours.
    is_regular
        Whether neighbours in the raster are neighbours in the tissue, at about one distance: otherwise it has no pitch and
        no rings.
    is_complete
        Whether each site that is surrounded by others could have been measured.
    shares_sites
        Whether several observations may lie on one site.
    shared_layout
        Layout of the same geometry whose sites may be shared; empty where there is none.
    uses_array
        Whether sites come from array coordinates where a slide has them.
    fold
        Directions to neighbours, by which the lattice is recognised in spatial coordinates: 4 or 6; ``None`` where it is
        never inferred.
    spots
        Spots of the platform that has this lattice, where there is but one.

    Examples
    --------
    >>> import stimage as sti
    >>> sti.data.LATTICES["hex"].positions([0, 1], [0, 0]).round(2).tolist()
    [[0.0, 0.0], [0.5, 0.87]]
    """

    name: ClassVar[str]
    adjective: ClassVar[str]
    row_spacing: ClassVar[float] = 1.0
    shifts_rows: ClassVar[bool] = False
    neighbors: ClassVar[tuple[tuple[int, int], ...]] = SQUARE_NEIGHBORS
    cell: ClassVar[tuple[tuple[float, float], ...]] = SQUARE_CELL
    is_regular: ClassVar[bool] = True
    is_complete: ClassVar[bool] = True
    shares_sites: ClassVar[bool] = False
    shared_layout: ClassVar[str] = ""
    uses_array: ClassVar[bool] = True
    fold: ClassVar[int | None] = None
    spots: ClassVar[PlatformSpots | None] = None

    def to_array(self, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> tuple[NDArray, NDArray]:
        """Array coordinates of sites, of which :meth:`from_array` makes the same sites.

        Parameters
        ----------
        rows, cols
            Row and column of each site; even rows are not shifted (sites).

        Returns
        -------
        tuple
            Array row and array column, by default the place along the row (sites).
        """
        return rows, self.across(rows, cols)

    def from_array(self, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> ArraySites:
        """Sites from array coordinates.

        Parameters
        ----------
        rows, cols
            Array coordinates (observations).

        Returns
        -------
        ArraySites
            The sites; by default array columns count places along a row, see :meth:`to_array`.

        Raises
        ------
        ValueError
            If the array coordinates cannot be those of this lattice.
        """
        self.check_array(rows, cols)
        parity = int((rows.min() + rows[0] + cols[0]) % 2) if self.shifts_rows else 0
        cols = cols // self.steps_per_column
        one_of_two = tuple(step for step in self.neighbors if step > (0, 0))
        return ArraySites(rows - rows.min(), cols - cols.min(), parity=parity, neighbors=one_of_two)

    def check_array(self, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> None:
        """Raise ``ValueError`` if array coordinates cannot be those of this lattice.

        Parameters
        ----------
        rows, cols
            Array coordinates (observations). Where every second row is shifted, their sums must be all even or all odd.
        """
        odd = int(((rows + cols) % 2).sum())
        if self.shifts_rows and 0 < odd < len(rows):
            raise ValueError(
                f"`layout`={self.name!r} needs array coordinates with row + col all even or all odd, as on Visium; "
                f"found {len(rows) - odd} even and {odd} odd: use `layout`='square' or 'auto'."
            )

    def fits_array(self, rows: NDArray[np.int64], cols: NDArray[np.int64], steps: NDArray[np.float64] | None) -> bool:
        """Whether ``layout="auto"`` may take array coordinates for those of this lattice; never by default.

        Parameters
        ----------
        rows, cols
            Array coordinates (observations).
        steps
            Physical vectors of one array row and of one array column (2 x 2), where known.

        Returns
        -------
        bool
            The first entry of :data:`LATTICES` that fits is taken.
        """
        return False

    @property
    def steps_per_column(self) -> int:
        """Steps across from one column of the raster to the next."""
        return 2 if self.shifts_rows else 1

    def across(self, rows: NDArray[np.int64], cols: NDArray[np.int64], parity: int = 0) -> NDArray[np.int64]:
        """Place of each site along its row, in the smallest steps that the lattice has.

        Parameters
        ----------
        rows, cols
            Row and column of each site (sites).
        parity
            Parity of the slide, see :class:`Slide`.

        Returns
        -------
        numpy.ndarray
            Steps across (sites): twice the column, plus one in shifted rows, where every second row is shifted.
        """
        rows, cols = np.asarray(rows), np.asarray(cols)
        return 2 * cols + (rows + parity) % 2 if self.shifts_rows else cols

    def positions(self, rows: NDArray[np.int64], cols: NDArray[np.int64], parity: int = 0) -> NDArray[np.float64]:
        """Physical positions of sites, in units of the distance between neighbours.

        Parameters
        ----------
        rows, cols
            Row and column of each site (sites).
        parity
            Parity of the slide, see :class:`Slide`.

        Returns
        -------
        numpy.ndarray
            x and y of each site (sites x 2).
        """
        x = self.across(rows, cols, parity) / self.steps_per_column
        return np.stack([x, np.asarray(rows) * self.row_spacing], axis=-1)

    def rings(self, n_rings: int) -> list[tuple[int, int]]:
        """Steps to all sites that are at most some steps between neighbours away, the site itself left out.

        Parameters
        ----------
        n_rings
            Steps between neighbours.

        Returns
        -------
        list of tuple
            Steps (rows, steps across), in ascending order.
        """
        reached = {(0, 0)}
        for _ in range(n_rings):
            reached |= {(row + down, place + right) for row, place in reached for down, right in self.neighbors}
        return sorted(reached - {(0, 0)})

    def cells(self, centres: NDArray[np.float64]) -> NDArray[np.float64]:
        """Cells around sites, which tile the plane.

        Parameters
        ----------
        centres
            Positions of sites (sites x 2).

        Returns
        -------
        numpy.ndarray
            Corners of each site's cell (sites x corners x 2).
        """
        return np.asarray(centres, dtype=np.float64)[:, None] + np.array(self.cell)
