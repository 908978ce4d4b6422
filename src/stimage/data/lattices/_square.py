from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stimage.data.lattices._lattice import ArraySites, Lattice

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Square(Lattice):
    """Square lattice; array coordinates that form a checkerboard are turned by 45 degrees, so that it has no holes."""

    name = "square"
    adjective = "square"
    shared_layout = "bins"
    fold = 4

    def fits_array(self, rows: NDArray[np.int64], cols: NDArray[np.int64], steps: NDArray[np.float64] | None) -> bool:
        return True

    def from_array(self, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> ArraySites:
        parity = (rows + cols) % 2
        if not (parity == parity[0]).all():
            return super().from_array(rows, cols)
        # The four nearest sites are the diagonal ones.
        up, along = (rows - cols) // 2, (rows + cols) // 2
        return ArraySites(up - up.min(), along - along.min(), rotation=45.0, neighbors=((1, 1), (1, -1)))
