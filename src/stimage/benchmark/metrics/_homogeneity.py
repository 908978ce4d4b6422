from __future__ import annotations

import numpy as np


def homogeneity(truth: np.ndarray, found: np.ndarray) -> float:
    """Whether each domain found holds spots of one annotated domain only.

    Parameters
    ----------
    truth, found
        Labels (spots).

    Returns
    -------
    float
        Between 0 and 1; splitting an annotated domain costs nothing.

    Examples
    --------
    >>> from stimage.benchmark import homogeneity
    >>> round(homogeneity(["a", "a", "b", "b"], [0, 1, 2, 2]), 6)
    1.0

    References
    ----------
    Rosenberg and Hirschberg 2007, V-Measure.
    """
    from sklearn.metrics import homogeneity_score

    return float(homogeneity_score(truth, found))
