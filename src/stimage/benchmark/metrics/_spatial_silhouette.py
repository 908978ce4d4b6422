from __future__ import annotations

import numpy as np

from stimage.benchmark.metrics._embedding_silhouette import embedding_silhouette


def spatial_silhouette(found: np.ndarray, positions: np.ndarray) -> float:
    """Average silhouette width of domains in space: how compact they are.

    Layers and rings are not compact, and score low however right they are: read it beside the others.

    Parameters
    ----------
    found
        Labels (spots).
    positions
        Physical positions (spots x 2).

    Returns
    -------
    float
        Between -1 and 1. NaN for a single domain, or where every spot is its own.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import spatial_silhouette
    >>> round(spatial_silhouette([0, 0, 1, 1], np.array([[0, 0], [0, 1], [9, 0], [9, 1]])), 2)
    0.89

    References
    ----------
    Yuan et al. 2024, Benchmarking spatial clustering methods (SDMBench's ASW).
    """
    return embedding_silhouette(found, positions)
