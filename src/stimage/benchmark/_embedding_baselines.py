from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree


def principal_components(
    expression: np.ndarray | sparse.spmatrix, n_components: int = 30, *, seed: int = 0
) -> np.ndarray:
    """Principal components of expression, centred.

    Parameters
    ----------
    expression
        Log-normalised expression (spots x genes).
    n_components
        Number of components.
    seed
        Seed of the solver.

    Returns
    -------
    numpy.ndarray
        Components (spots x components).

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import principal_components
    >>> principal_components(np.random.default_rng(0).normal(size=(20, 10)), 3).shape
    (20, 3)
    """
    from sklearn.decomposition import PCA

    n_components = min(n_components, min(expression.shape) - 1)
    # The solver takes sparse input without making it dense.
    return PCA(n_components, svd_solver="arpack", random_state=seed).fit_transform(expression)


def neighbor_mean(vectors: np.ndarray, positions: np.ndarray, n_spots: int) -> np.ndarray:
    """Mean of each spot's vector and those of its nearest neighbours: the plainest use of space.

    Parameters
    ----------
    vectors
        Vectors (spots x dimensions) of one slide.
    positions
        Physical positions (spots x 2). On a hexagonal lattice 7, 19 and 37 spots are whole rings.
    n_spots
        Number of spots averaged, the spot itself included.

    Returns
    -------
    numpy.ndarray
        Means (spots x dimensions).

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import neighbor_mean
    >>> neighbor_mean(np.array([[0.0], [1.0], [5.0]]), np.array([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0]]), 2)
    array([[0.5],
           [0.5],
           [3. ]])
    """
    _, nearest = cKDTree(positions).query(positions, k=min(n_spots, len(positions)))
    return vectors[nearest.reshape(len(positions), -1)].mean(axis=1)
