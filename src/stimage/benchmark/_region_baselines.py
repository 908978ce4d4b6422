from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist


def gene_mean(expression: np.ndarray | sparse.spmatrix, positions: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Predict each hidden site by the mean of the visible ones.

    Parameters
    ----------
    expression
        Expression (sites x genes); rows of hidden sites are not looked at.
    positions
        Physical positions (sites x 2); not used here, so that all baselines are called alike.
    hidden
        Hidden sites (sites).

    Returns
    -------
    numpy.ndarray
        Prediction (hidden sites x genes).
    """
    mean = np.asarray(expression[~hidden].mean(axis=0)).ravel()
    return np.tile(mean, (int(hidden.sum()), 1))


def nearest_spots(
    expression: np.ndarray | sparse.spmatrix, positions: np.ndarray, hidden: np.ndarray, *, n_neighbors: int = 16
) -> np.ndarray:
    """Predict each hidden site by the mean of its nearest visible sites; see :func:`gene_mean` for the parameters.

    Sixteen neighbours are what the paper compares with.
    """
    visible = np.flatnonzero(~hidden)
    _, nearest = cKDTree(positions[visible]).query(positions[hidden], k=min(n_neighbors, len(visible)))
    nearest = nearest.reshape(int(hidden.sum()), -1)
    rows = np.repeat(np.arange(len(nearest)), nearest.shape[1])
    weights = sparse.csr_matrix(
        (np.full(nearest.size, 1 / nearest.shape[1]), (rows, visible[nearest.ravel()])),
        shape=(len(nearest), len(positions)),
    )
    return _dense(weights @ expression)


def inverse_distance(
    expression: np.ndarray | sparse.spmatrix, positions: np.ndarray, hidden: np.ndarray, *, power: float = 2.0
) -> np.ndarray:
    """Predict each hidden site by all visible sites, weighted by distance to the power of −2.

    See :func:`gene_mean` for the parameters.
    """
    visible = np.flatnonzero(~hidden)
    weights = cdist(positions[hidden], positions[visible]) ** -power
    weights /= weights.sum(axis=1, keepdims=True)
    return _dense(weights @ expression[visible])


def _dense(matrix: np.ndarray | sparse.spmatrix) -> np.ndarray:
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)
