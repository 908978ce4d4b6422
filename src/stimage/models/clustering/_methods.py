from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stimage.models.clustering._kmeans import kmeans
from stimage.models.clustering._leiden import leiden
from stimage.models.clustering._mixture import mixture

METHODS: dict[str, Callable[[np.ndarray, int | None, int], np.ndarray]] = {
    "kmeans": kmeans,
    "gmm": mixture,
    "leiden": leiden,
}
"""A new way to divide vectors into domains is a file with a function and a line here. Components (observations x components), number of domains and seed in; domain of each observation out. Leiden alone can
do without a number."""
