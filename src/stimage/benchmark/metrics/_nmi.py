from __future__ import annotations

import numpy as np


def normalized_mutual_information(truth: np.ndarray, found: np.ndarray) -> float:
    """Mutual information of two partitions, divided by the arithmetic mean of their entropies.

    Parameters
    ----------
    truth, found
        Labels (spots).

    Returns
    -------
    float
        Between 0 and 1. It rises with the number of domains, also by chance.

    Examples
    --------
    >>> from stimage.benchmark import normalized_mutual_information
    >>> normalized_mutual_information(["a", "a", "b", "b"], [1, 1, 0, 0])
    1.0
    """
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(truth, found))
