from __future__ import annotations

import warnings

import numpy as np

N_STARTS = 100
"""Enough that the seed does not matter: with ten, two seeds agree to .7 on some slides, with fifty to .85 and more."""
MOST_WORK = 500_000
"""Starts times observations, above which starts are fewer: large slides have fewer optima that are nearly as good."""
MOST_OBSERVATIONS = 10_000
"""Observations that centres are fitted on; all are assigned."""


def kmeans(vectors: np.ndarray, n_domains: int, seed: int) -> np.ndarray:
    """Domain of each observation: that of the nearest centre of k-means, the best of many starts."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    fitted = sample(vectors, MOST_OBSERVATIONS, seed)
    n_starts = min(MOST_WORK // len(fitted), N_STARTS)
    with warnings.catch_warnings():  # of fewer distinct vectors than domains, which the caller reports
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(n_domains, n_init=n_starts, random_state=seed).fit(fitted).predict(vectors)


def sample(vectors: np.ndarray, n_observations: int, seed: int) -> np.ndarray:
    """The vectors, or a random choice of them where there are more."""
    if len(vectors) <= n_observations:
        return vectors
    return vectors[np.sort(np.random.default_rng(seed).choice(len(vectors), n_observations, replace=False))]
