from __future__ import annotations

import numpy as np

from stimage import _validate
from stimage.benchmark.metrics._neighbors import nearest_others


def spatial_coherence(
    found: np.ndarray, positions: np.ndarray, *, n_neighbors: int = 4, n_permutations: int = 1000, seed: int = 0
) -> float:
    """Spatial coherence score: entropy of the pairs of labels on neighbours, as a z-score among permuted labels.

    Parameters
    ----------
    found
        Labels (spots).
    positions
        Physical positions (spots x 2).
    n_neighbors
        Nearest neighbours that a spot has an edge to; four are what PASTE takes.
    n_permutations
        Random permutations of the labels.
    seed
        Seed of the permutations.

    Returns
    -------
    float
        Around 0 for labels without a pattern, the more negative the more coherent. It grows with the number of spots:
        compare methods on one slide only. NaN for a single domain.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import spatial_coherence
    >>> positions = np.stack(np.indices((10, 10)), axis=-1).reshape(-1, 2)
    >>> spatial_coherence(positions[:, 0] >= 5, positions) < -5
    True

    References
    ----------
    Zeira et al. 2022, Alignment and integration of spatial transcriptomics data (PASTE).
    """
    _validate.check_positive("n_neighbors", n_neighbors)
    _validate.check_positive("n_permutations", n_permutations, smallest=2)
    _validate.check_seed(seed)
    codes, found = np.unique(np.asarray(found), return_inverse=True)
    if len(codes) < 2:
        return float("nan")
    _, nearest = nearest_others(positions, n_neighbors)
    edges = np.stack([np.repeat(np.arange(len(found)), nearest.shape[1]), nearest.ravel()], axis=1)
    edges = np.unique(np.sort(edges, axis=1), axis=0)
    rng = np.random.default_rng(seed)
    permuted = np.array([_entropy(rng.permutation(found), edges, len(codes)) for _ in range(n_permutations)])
    spread = permuted.std()
    if spread < 1e-12:
        return float("nan")
    return float((_entropy(found, edges, len(codes)) - permuted.mean()) / spread)


def _entropy(labels: np.ndarray, edges: np.ndarray, n_domains: int) -> float:
    pairs = np.sort(labels[edges], axis=1)
    counts = np.bincount(pairs[:, 0] * n_domains + pairs[:, 1])
    share = counts[counts > 0] / len(edges)
    return float(-(share * np.log(share)).sum())
