from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

MEAN_SIZES = (7, 19, 37)  # whole rings of a hexagonal lattice
NOT_FITTED = ("coordinates only", "raw expression")
"""Baselines that learn nothing from the spots that they are tested on; the axes of the others are fitted to them."""
MOST_DENSE = 50_000
"""Spots up to which expression is made dense and itself compared: in thousands of dimensions more have no neighbours in time."""
_SPOTS_AT_A_TIME = 65_536


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
    tree, n_near = cKDTree(positions), min(n_spots, len(positions))
    means = np.empty(vectors.shape, dtype=np.result_type(vectors.dtype, np.float32))
    for start in range(0, len(positions), _SPOTS_AT_A_TIME):
        part = slice(start, start + _SPOTS_AT_A_TIME)
        _, nearest = tree.query(positions[part], k=n_near)
        means[part] = vectors[nearest.reshape(-1, n_near)].mean(axis=1)
    return means


def embedding_baselines(
    expression: np.ndarray | sparse.spmatrix, slides: np.ndarray, positions: np.ndarray, *, seed: int = 0
) -> dict[str, np.ndarray]:
    """The embeddings that every other one is shown beside: where a spot is, what it expresses, and means of both.

    Expression is centred per slide. Components are those of all slides together, means are taken within a slide.

    Parameters
    ----------
    expression
        Log-normalised expression over the genes of the pool (spots x genes); made dense for up to 50,000 spots.
    slides
        Slide of each spot (spots).
    positions
        Physical positions (spots x 2) within the slide.
    seed
        Seed of the solver of the principal components.

    Returns
    -------
    dict
        Name and vectors (spots x dimensions): coordinates only, raw expression, 30 principal components of one spot, their
        means over 7, 19 and 37 spots, and those over 7 and 37 side by side. Of more than 50,000 spots raw expression is left out.

    Raises
    ------
    ValueError
        If the numbers of spots differ.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import embedding_baselines
    >>> rng = np.random.default_rng(0)
    >>> table = embedding_baselines(rng.random((60, 40)), np.repeat(["a", "b"], 30), rng.random((60, 2)))
    >>> {name: vectors.shape[1] for name, vectors in table.items()}["PCA-30, mean of 7 beside 37"]
    60
    """
    slides = np.asarray(slides).astype(str)
    positions = np.asarray(positions, dtype=np.float64)
    if not expression.shape[0] == len(slides) == len(positions):
        raise ValueError(
            f"`expression`, `slides` and `positions` must have one row per spot, found {expression.shape[0]}, "
            f"{len(slides)} and {len(positions)}."
        )
    parts = [np.flatnonzero(slides == name) for name in np.unique(slides)]
    table = {"coordinates only": positions}
    if len(slides) > MOST_DENSE:
        components = _centred_components(sparse.csr_matrix(expression), parts)
    else:
        centred = expression.toarray() if sparse.issparse(expression) else np.array(expression)
        centred = centred.astype(np.float32, copy=False)
        for rows in parts:
            centred[rows] -= centred[rows].mean(axis=0, dtype=np.float64).astype(np.float32)
        components = principal_components(centred, seed=seed)
        table["raw expression"] = centred
    table["PCA-30"] = components
    means = {}
    for n_spots in MEAN_SIZES:
        means[n_spots] = np.empty_like(components)
        for rows in parts:
            means[n_spots][rows] = neighbor_mean(components[rows], positions[rows], n_spots)
        table[f"PCA-30, mean of {n_spots}"] = means[n_spots]
    return {**table, "PCA-30, mean of 7 beside 37": np.hstack([means[7], means[37]])}


def _centred_components(expression: sparse.csr_matrix, parts: list[np.ndarray], n_components: int = 30) -> np.ndarray:
    """Principal components of sparse expression that is centred per slide, by the covariance of its genes."""
    n_genes = expression.shape[1]
    gram, means = np.zeros((n_genes, n_genes)), []
    for rows in parts:
        total = np.zeros(n_genes)
        for block in np.array_split(rows, -(-len(rows) // _SPOTS_AT_A_TIME)):
            own = expression[block].astype(np.float64)
            gram += (own.T @ own).toarray()
            total += np.asarray(own.sum(axis=0)).ravel()
        means.append(total / len(rows))
        gram -= np.outer(total, means[-1])
    axes = np.linalg.eigh(gram)[1][:, ::-1][:, :n_components]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    axes = np.ascontiguousarray(axes, dtype=np.float32)
    components = expression @ axes
    for rows, mean in zip(parts, means, strict=True):
        components[rows] -= (mean @ axes).astype(np.float32)
    return components
