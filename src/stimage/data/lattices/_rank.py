from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stimage.data.lattices._lattice import ArraySites, Lattice

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Rank(Lattice):
    """Ranks of the distinct array rows and columns (the paper, Eq. 5), which leave every second site of Visium empty."""

    name = "rank"
    adjective = "rank"
    is_regular = False
    is_complete = False

    def from_array(self, rows: NDArray[np.int64], cols: NDArray[np.int64]) -> ArraySites:
        row_levels, row = np.unique(rows, return_inverse=True)
        col_levels, col = np.unique(cols, return_inverse=True)
        n, n_sites = len(rows), len(row_levels) * len(col_levels)
        # Pixels have nearly as many levels as observations, so their ranks form an all but empty raster.
        if n >= 100 and n < 0.02 * n_sites:
            raise ValueError(
                f"`layout`='rank' would give {len(row_levels)} x {len(col_levels)} sites for {n} observations: "
                "obs['array_row'] and obs['array_col'] look like pixel coordinates, whose ranks mean nothing. "
                "Remove these two columns and use `layout`='auto' to infer the lattice."
            )
        return ArraySites(row, col)
