from __future__ import annotations

import numpy as np

from stimage.models.clustering._blocks import row_blocks


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
    centres = [vectors[labels == domain].mean(axis=0, dtype=np.float64) for domain in range(n_domains)]
    found = np.empty(len(labels), dtype=np.float32)
    for block in row_blocks(len(labels)):
        distance = np.stack([np.linalg.norm(vectors[block] - centre, axis=1) for centre in centres])
        members = (labels[block], np.arange(distance.shape[1]))
        own = distance[members]
        distance[members] = np.inf
        other = distance.min(axis=0)
        largest = np.maximum(own, other)
        found[block] = np.divide(np.maximum(other - own, 0), largest, out=np.zeros_like(own), where=largest > 0)
    return found
