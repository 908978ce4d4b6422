"""The baselines of hidden regions, one line each."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stimage.benchmark.regions._baselines import gene_mean, inverse_distance, nearest_spots, smooth_fill
from stimage.benchmark.regions._kriging import kriging

Predictor = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

REGION_BASELINES: dict[str, Predictor] = {
    "mean of the window": gene_mean,
    "mean of 16 nearest spots": nearest_spots,
    "inverse distance": inverse_distance,
    "closed-form fill": smooth_fill,
    "kriging": kriging,
}
"""Functions of expression, positions and hidden (mask) that return the expression of the hidden spots, by name."""
