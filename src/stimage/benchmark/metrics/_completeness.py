from __future__ import annotations

import numpy as np


def completeness(truth: np.ndarray, found: np.ndarray) -> float:
    """Whether all spots of each annotated domain are in one domain found.

    Parameters
    ----------
    truth, found
        Labels (spots).

    Returns
    -------
    float
        Between 0 and 1; merging annotated domains costs nothing.

    Examples
    --------
    >>> from stimage.benchmark import completeness
    >>> completeness(["a", "a", "b", "b"], [0, 0, 0, 0])
    1.0

    References
    ----------
    Rosenberg and Hirschberg 2007, V-Measure.
    """
    from sklearn.metrics import completeness_score

    return float(completeness_score(truth, found))
