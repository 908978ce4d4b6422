"""Neighbours in space that metrics share: lists and sparse graphs, never all pairs."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree


def nearest_others(positions: np.ndarray, n_neighbors: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances and indices (spots x neighbours) of the nearest other spots, also where spots lie on top of each other."""
    positions = np.asarray(positions, dtype=np.float64)
    n = len(positions)
    number = min(n_neighbors, n - 1)
    distances, nearest = cKDTree(positions).query(positions, k=number + 1)
    is_self = nearest == np.arange(n)[:, None]
    # Of more spots on one place than were asked for, a spot itself may be missing: then the last goes.
    is_self[~is_self.any(axis=1), -1] = True
    return distances[~is_self].reshape(n, number), nearest[~is_self].reshape(n, number)


def neighbor_graph(positions: np.ndarray, n_neighbors: int) -> sparse.csr_matrix:
    """Graph (spots x spots) in which each spot has weights of sum one to its nearest others."""
    _, nearest = nearest_others(positions, n_neighbors)
    n, number = nearest.shape
    indptr = np.arange(0, n * number + 1, number)
    return sparse.csr_matrix((np.full(n * number, 1 / number), nearest.ravel(), indptr), shape=(n, n))
