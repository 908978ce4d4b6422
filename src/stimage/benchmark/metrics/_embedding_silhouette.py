from __future__ import annotations

import numpy as np

_WORKING_MEMORY = 128  # MiB of distances at a time


def embedding_silhouette(found: np.ndarray, embedding: np.ndarray) -> float:
    """Average silhouette width of domains in the space of an embedding (Euclidean).

    Parameters
    ----------
    found
        Labels (spots).
    embedding
        Vectors (spots x dimensions).

    Returns
    -------
    float
        Between -1 and 1, higher is better separated. NaN for a single domain, or where every spot is its own.

    Notes
    -----
    All pairs are compared, in blocks of bounded memory: minutes for a hundred thousand spots.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import embedding_silhouette
    >>> round(embedding_silhouette([0, 0, 1, 1], np.array([[0.0], [1.0], [9.0], [10.0]])), 3)
    0.889

    References
    ----------
    Rousseeuw 1987, Silhouettes.
    """
    from sklearn import config_context
    from sklearn.metrics import silhouette_score

    found = np.asarray(found)
    if not 2 <= len(np.unique(found)) < len(found):
        return float("nan")
    with config_context(working_memory=_WORKING_MEMORY):
        return float(silhouette_score(np.asarray(embedding, dtype=np.float64), found))
