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

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import gene_mean
    >>> expression = np.array([[1.0], [2.0], [6.0]])
    >>> positions = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    >>> gene_mean(expression, positions, np.array([True, False, False]))
    array([[4.]])
    """
    mean = np.asarray(expression[~hidden].mean(axis=0)).ravel()
    return np.tile(mean, (int(hidden.sum()), 1))


def nearest_spots(
    expression: np.ndarray | sparse.spmatrix, positions: np.ndarray, hidden: np.ndarray, *, n_neighbors: int = 16
) -> np.ndarray:
    """Predict each hidden site by the mean of its nearest visible sites.

    Parameters
    ----------
    expression
        Expression (sites x genes); rows of hidden sites are not looked at.
    positions
        Physical positions (sites x 2).
    hidden
        Hidden sites (sites).
    n_neighbors
        Number of visible sites averaged; sixteen are what the paper compares with.

    Returns
    -------
    numpy.ndarray
        Prediction (hidden sites x genes).

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import nearest_spots
    >>> expression = np.array([[1.0], [2.0], [6.0]])
    >>> positions = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    >>> nearest_spots(expression, positions, np.array([True, False, False]), n_neighbors=1)
    array([[2.]])
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
    """Predict each hidden site by all visible sites, weighted by a negative power of their distance.

    Parameters
    ----------
    expression
        Expression (sites x genes); rows of hidden sites are not looked at.
    positions
        Physical positions (sites x 2).
    hidden
        Hidden sites (sites).
    power
        Visible sites weigh distance to the power of ``-power``.

    Returns
    -------
    numpy.ndarray
        Prediction (hidden sites x genes).

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import inverse_distance
    >>> expression = np.array([[1.0], [2.0], [6.0]])
    >>> positions = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    >>> inverse_distance(expression, positions, np.array([True, False, False]))
    array([[2.8]])
    """
    visible = np.flatnonzero(~hidden)
    # A visible site at the very place of a hidden one decides alone.
    weights = np.maximum(cdist(positions[hidden], positions[visible]), 1e-9) ** -power
    weights /= weights.sum(axis=1, keepdims=True)
    return _dense(weights @ expression[visible])


def _dense(matrix: np.ndarray | sparse.spmatrix) -> np.ndarray:
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)
