from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse
from scipy.optimize import nnls
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

_WIDTHS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of the Gaussian, in site distances
_UNPRACTISED_WIDTH = 2.0
_N_PRACTICE_REGIONS = 16  # as many as a model's calibration has


def gene_mean(expression: np.ndarray | sparse.spmatrix, positions: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Predict each hidden site by the mean of the visible ones.

    Parameters
    ----------
    expression
        Expression (sites x genes); rows of hidden sites are not used.
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
        Expression (sites x genes); rows of hidden sites are not used.
    positions
        Physical positions (sites x 2).
    hidden
        Hidden sites (sites).
    n_neighbors
        Number of visible sites averaged; the paper uses sixteen.

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
        Expression (sites x genes); rows of hidden sites are not used.
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


def smooth_fill(
    expression: np.ndarray | sparse.spmatrix, positions: np.ndarray, hidden: np.ndarray, *, seed: int = 0
) -> np.ndarray:
    r"""Predict hidden sites in closed form by smoothing, calibrated as :meth:`stimage.models.STImage.reconstruct` is.

    With the mean :math:`m` of the visible sites, their Gaussian mean :math:`s` around a hidden site and
    :func:`inverse_distance` :math:`d`, the answer is

    .. math:: m + a (s - m) + b (d - m), \quad a, b \ge 0,

    cut off at zero. The hidden region is moved to up to sixteen random other places, where at least a third of its sites
    and at most half of all visible ones are visible; the width of the Gaussian and both weights are those with the least
    squared error there.

    Parameters
    ----------
    expression
        Expression (sites x genes), at least 0; rows of hidden sites are not used.
    positions
        Physical positions (sites x 2) on a lattice.
    hidden
        Hidden sites (sites).
    seed
        Seed of the places.

    Returns
    -------
    numpy.ndarray
        Prediction (hidden sites x genes); where there is no room to practise, the Gaussian mean with a width of two site
        distances.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import smooth_fill
    >>> positions = np.stack(np.indices((9, 9)), axis=-1).reshape(-1, 2).astype(float)
    >>> hidden = (abs(positions - 4) < 2).all(axis=1)
    >>> smooth_fill(positions[:, :1], positions, hidden).shape
    (9, 1)
    """
    positions = np.asarray(positions, dtype=np.float64)
    visible = _dense(expression[~hidden])
    places = positions[~hidden]
    spacing = np.median(cKDTree(positions).query(positions, k=2)[0][:, 1])
    asked = positions[hidden]
    practised = list(_practice_regions(places, asked, 0.5 * spacing, np.random.default_rng(seed)))
    if not practised:
        return _gaussian_mean(visible, places, asked, _UNPRACTISED_WIDTH * spacing)
    deviations, designs = [], {width: [] for width in _WIDTHS}
    for practice in practised:
        shown, mean = visible[~practice], visible[~practice].mean(axis=0)
        deviations.append((visible[practice] - mean).ravel())
        inverse = inverse_distance(visible, places, practice) - mean
        for width, design in designs.items():
            smooth = _gaussian_mean(shown, places[~practice], places[practice], width * spacing) - mean
            design.append(np.stack([smooth.ravel(), inverse.ravel()], axis=1))
    target = np.concatenate(deviations)
    fits = {width: nnls(np.concatenate(design), target) for width, design in designs.items()}
    width = min(fits, key=lambda width: fits[width][1])
    (of_smooth, of_inverse), mean = fits[width][0], visible.mean(axis=0)
    smooth = _gaussian_mean(visible, places, asked, width * spacing) - mean
    inverse = inverse_distance(expression, positions, hidden) - mean
    return np.maximum(mean + of_smooth * smooth + of_inverse * inverse, 0)


def _practice_regions(
    places: np.ndarray, region: np.ndarray, tolerance: float, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """Visible sites (sites) under a hidden region that was moved elsewhere, in random order of places."""
    tree = cKDTree(places)
    middle = region[np.square(region - region.mean(axis=0)).sum(axis=1).argmin()]
    n_found = 0
    for place in rng.permutation(np.concatenate([places, region])):
        distance, site = tree.query(region + (place - middle), distance_upper_bound=tolerance * 1.01)
        practice = np.zeros(len(places), dtype=bool)
        practice[site[np.isfinite(distance)]] = True
        if max(len(region) / 3, 1) <= practice.sum() <= len(places) / 2:
            yield practice
            n_found += 1
        if n_found == _N_PRACTICE_REGIONS:
            return


def _gaussian_mean(values: np.ndarray, places: np.ndarray, asked: np.ndarray, width: float) -> np.ndarray:
    """Mean of values weighted by a Gaussian of the distance (asked places x genes)."""
    square = cdist(asked, places, "sqeuclidean")
    # Relative to the nearest site: far from all of them weights would all be zero.
    weights = np.exp((square.min(axis=1, keepdims=True) - square) / (2 * width**2))
    return weights / weights.sum(axis=1, keepdims=True) @ values


def _dense(matrix: np.ndarray | sparse.spmatrix) -> np.ndarray:
    return matrix.toarray() if sparse.issparse(matrix) else np.asarray(matrix)
