from __future__ import annotations

import numpy as np

from stimage import _validate
from stimage.benchmark.metrics._neighbors import nearest_others


def pas(found: np.ndarray, positions: np.ndarray, *, n_neighbors: int = 10) -> float:
    """Proportion of abnormal spots: those whose label more than half of their nearest neighbours do not share.

    Of neighbours that are equally far away, as on a lattice, each counts in part, so that neither the order of the spots
    nor a rotation of the slide matters.

    Parameters
    ----------
    found
        Labels (spots).
    positions
        Physical positions (spots x 2).
    n_neighbors
        Neighbours that are looked at; ten are what SDMBench takes.

    Returns
    -------
    float
        Between 0 and 1, lower is smoother; a single domain scores 0. NaN for a single spot.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import pas
    >>> positions = np.stack(np.indices((8, 8)), axis=-1).reshape(-1, 2)
    >>> found = positions[:, 0] >= 4
    >>> found[0] = True  # one spot astray
    >>> pas(found, positions)
    0.015625

    References
    ----------
    Shang and Zhou 2022, SpatialPCA; Yuan et al. 2024, Benchmarking spatial clustering methods (SDMBench).
    """
    _validate.check_positive("n_neighbors", n_neighbors)
    _, found = np.unique(np.asarray(found), return_inverse=True)
    if len(found) < 2:
        return float("nan")
    number = min(n_neighbors, len(found) - 1)
    # Twice as many as asked for: enough for the neighbours at one distance on any lattice.
    distances, nearest = nearest_others(positions, 2 * number + 2)
    furthest = distances[:, number - 1, None]
    closer = distances < furthest * (1 - 1e-9)
    tied = ~closer & (distances <= furthest * (1 + 1e-9))
    differs = found[nearest] != found[:, None]
    n_tied = number - closer.sum(axis=1)
    n_different = (closer & differs).sum(axis=1) + n_tied * (tied & differs).sum(axis=1) / tied.sum(axis=1)
    return float((n_different > number / 2 + 1e-9).mean())
