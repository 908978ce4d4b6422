from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stimage.data.lattices._lattice import Lattice, PlatformSpots

if TYPE_CHECKING:
    from numpy.typing import NDArray

_ANGLES = np.pi / 6 + np.arange(6) * np.pi / 3
_SQUARE_HEX_RATIO = 3**0.25
"""Row step over column step that separates a checkerboard (1) from Visium (sqrt(3)): their geometric mean."""


class Hex(Lattice):
    """Hexagonal lattice (Visium): array columns count half sites, so that row + column has one parity."""

    name = "hex"
    adjective = "hexagonal"
    row_spacing = np.sqrt(3) / 2
    shifts_rows = True
    neighbors = ((0, -2), (0, 2), (-1, -1), (-1, 1), (1, -1), (1, 1))
    cell = tuple(zip(np.cos(_ANGLES) / np.sqrt(3), np.sin(_ANGLES) / np.sqrt(3), strict=True))
    fold = 6
    # Space Ranger takes a spot for 55 or 65 micrometres.
    spots = PlatformSpots("Visium", pitch=100.0, pitch_in_diameters=(1.4, 2.0))

    def fits_array(self, rows: NDArray[np.int64], cols: NDArray[np.int64], steps: NDArray[np.float64] | None) -> bool:
        parity = (rows + cols) % 2
        return bool((parity == parity[0]).all()) and not _is_checkerboard(steps)


def _is_checkerboard(steps: NDArray[np.float64] | None) -> bool:
    """Whether rows are as far apart as columns: a square lattice turned by 45 degrees (2k array of Spatial Transcriptomics)."""
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
