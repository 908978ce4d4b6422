from __future__ import annotations

import numpy as np


def adjusted_rand_index(truth: np.ndarray, found: np.ndarray) -> float:
    """Agreement of two partitions, whatever the names: 1 when they are the same, 0 on average by chance.

    Parameters
    ----------
    truth, found
        Labels (spots).

    Returns
    -------
    float
        The adjusted Rand index.

    Examples
    --------
    >>> from stimage.benchmark import adjusted_rand_index
    >>> adjusted_rand_index(["a", "a", "b", "b"], [1, 1, 0, 0])
    1.0

    References
    ----------
    Hubert and Arabie 1985, Comparing Partitions.
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(truth, found))
