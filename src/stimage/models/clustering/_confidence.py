from __future__ import annotations

import numpy as np


def confidence(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    r"""How much nearer each observation is to the centre of its own domain than to that of the nearest other one.

    The simplified silhouette :math:`(b - a) / \max(a, b)` of the distances :math:`a` to the own and :math:`b` to the nearest
    other centre (Hruschka et al. 2004), cut at 0: 0 on a border, near 1 in the middle of a domain.

    Parameters
    ----------
    vectors
        Components (observations x components).
    labels
        Domain of each observation, 0, 1, …

    Returns
    -------
    numpy.ndarray
        Confidence (observations), float32; 1 where there is one domain only.
    """
    n_domains = labels.max() + 1
    if n_domains == 1:
        return np.ones(len(labels), dtype=np.float32)
    own = np.empty(len(labels))
    other = np.full(len(labels), np.inf)
    for domain in range(n_domains):
        members = labels == domain
        distance = np.linalg.norm(vectors - vectors[members].mean(axis=0, dtype=np.float64), axis=1)
        own[members] = distance[members]
        other[~members] = np.minimum(other[~members], distance[~members])
    largest = np.maximum(own, other)
    return np.divide(np.maximum(other - own, 0), largest, out=np.zeros_like(own), where=largest > 0).astype(np.float32)
