from __future__ import annotations

import warnings

import numpy as np

from stimage.models.clustering._blocks import row_blocks
from stimage.models.clustering._kmeans import MOST_OBSERVATIONS, sample

N_STARTS = 10


def mixture(vectors: np.ndarray, n_domains: int, seed: int) -> np.ndarray:
    """Domain of each observation: the likeliest component of a Gaussian mixture with one covariance for all."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    fitted = sample(vectors, MOST_OBSERVATIONS, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = GaussianMixture(n_domains, covariance_type="tied", n_init=N_STARTS, random_state=seed).fit(fitted)
    return np.concatenate([found.predict(vectors[block]) for block in row_blocks(len(vectors))])
