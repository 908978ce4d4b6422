from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from stimage.models.clustering._blocks import row_blocks


def voted(labels: np.ndarray, positions: np.ndarray, slides: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Domains after a vote of each observation and its nearest neighbours on the same slide; a tie changes nothing.

    Parameters
    ----------
    labels
        Domain of each observation, 0, 1, …
    positions
        Positions (observations x 2).
    slides
        Slide of each observation.
    n_neighbors
        Neighbours that vote.

    Returns
    -------
    numpy.ndarray
        Domain of each observation.
    """
    result = labels.copy()
    n_domains = int(labels.max()) + 1
    for name in np.unique(slides):
        rows = np.flatnonzero(slides == name)
        own, tree = labels[rows], cKDTree(positions[rows])
        nearest = np.arange(1, min(n_neighbors + 1, len(rows)) + 1)
        for block in row_blocks(len(rows)):
            _, near = tree.query(positions[rows[block]], k=nearest)
            voters = np.arange(len(near))
            ballots = voters[:, None] * n_domains + own[near]
            votes = np.bincount(ballots.ravel(), minlength=len(near) * n_domains).reshape(-1, n_domains).astype(float)
            votes[voters, own[block]] += 0.5
            result[rows[block]] = votes.argmax(axis=1)
    return result
