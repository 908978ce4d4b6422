from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stimage.data.lattices._square import Square

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Bins(Square):
    """Square bins of spatial coordinates, shared by several observations if need be."""

    name = "bins"
    adjective = "binned"
    is_regular = False
    shares_sites = True
    shared_layout = ""
    uses_array = False
    fold = None

    def fits_array(self, rows: NDArray[np.int64], cols: NDArray[np.int64], steps: NDArray[np.float64] | None) -> bool:
        return False
