from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree


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
    for name in np.unique(slides):
        rows = np.flatnonzero(slides == name)
        _, near = cKDTree(positions[rows]).query(positions[rows], k=np.arange(1, min(n_neighbors + 1, len(rows)) + 1))
        votes = np.zeros((len(rows), labels.max() + 1))
        np.add.at(votes, (np.repeat(np.arange(len(rows)), near.shape[1]), labels[rows][near].ravel()), 1.0)
        votes[np.arange(len(rows)), labels[rows]] += 0.5
        result[rows] = votes.argmax(axis=1)
    return result
