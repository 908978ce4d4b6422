from __future__ import annotations

import numpy as np

from stimage.benchmark.metrics._neighbors import nearest_others


def chaos(found: np.ndarray, positions: np.ndarray) -> float:
    """Mean distance from each spot to the nearest one of its domain, on standardised coordinates.

    Parameters
    ----------
    found
        Labels (spots).
    positions
        Physical positions (spots x 2); each axis is standardised.

    Returns
    -------
    float
        Lower is smoother. It depends on the number of spots: compare methods on one slide only. As in SDMBench, spots of
        domains of one or two spots add nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import chaos
    >>> positions = np.stack(np.indices((8, 8)), axis=-1).reshape(-1, 2)
    >>> halves, checks = positions[:, 0] >= 4, positions.sum(axis=1) % 2
    >>> chaos(halves, positions) < chaos(checks, positions)
    True

    References
    ----------
    Shang and Zhou 2022, SpatialPCA; Yuan et al. 2024, Benchmarking spatial clustering methods (SDMBench).
    """
    _, found = np.unique(np.asarray(found), return_inverse=True)
    positions = np.asarray(positions, dtype=np.float64)
    spread = positions.std(axis=0)
    scaled = (positions - positions.mean(axis=0)) / np.where(spread > 0, spread, 1)
    total = 0.0
    for domain in range(found.max() + 1):
        members = scaled[found == domain]
        if len(members) > 2:
            total += nearest_others(members, 1)[0].sum()
    return float(total / len(found))
