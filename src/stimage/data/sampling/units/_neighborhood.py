from __future__ import annotations

import numpy as np

from stimage.data.sampling.units._kind import SampleKind, SampleUnit
from stimage.data.slides._neighbors import NearestSites


class NeighborhoodUnit(SampleKind):
    """A spot and its nearest neighbours (the paper, Eq. 3)."""

    name = "neighborhood"

    def tokens_per_spot(self, unit: SampleUnit) -> int:
        return 1 + unit.n_neighbors

    def context(self, spots: np.ndarray, nearest: NearestSites, unit: SampleUnit) -> np.ndarray:
        return nearest(spots, unit.n_neighbors)
