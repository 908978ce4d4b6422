from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.optimize import curve_fit
from scipy.spatial import cKDTree
from scipy.stats import norm

from stimage import _validate

_N_GROUPS = 8  # of genes that share a variogram
_N_LAGS = 8
_MOST_PAIRS = 20_000  # of which a variogram is estimated
_LARGEST_RANGE = 50.0  # in site distances


def kriging(
    expression: np.ndarray | sparse.spmatrix,
    positions: np.ndarray,
    hidden: np.ndarray,
    *,
    n_neighbors: int = 32,
    interval: float | None = None,
    seed: int = 0,
) -> np.ndarray | tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predict hidden sites by ordinary kriging from their nearest visible sites.

    Genes are sorted into eight groups by how alike neighbours are in them; each group has one exponential variogram with a
    nugget, fitted to the visible sites.

    Parameters
    ----------
    expression
        Expression (sites x genes), at least 0; rows of hidden sites are not looked at.
    positions
        Physical positions (sites x 2).
    hidden
        Hidden sites (sites).
    n_neighbors
        Nearest visible sites that a hidden one is predicted from.
    interval
        Also return bounds between which this share of values would be measured, were they normal.
    seed
        Seed of the pairs that variograms are estimated from.

    Returns
    -------
    numpy.ndarray or tuple
        Prediction (hidden sites x genes); with ``interval`` prediction, lower and upper bounds.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import kriging
    >>> positions = np.stack(np.indices((9, 9)), axis=-1).reshape(-1, 2).astype(float)
    >>> hidden = (abs(positions - 4) < 2).all(axis=1)
    >>> kriging(positions[:, :1], positions, hidden).round().ravel()
    array([3., 3., 3., 4., 4., 4., 5., 5., 5.])

    References
    ----------
    Cressie 1993, Statistics for Spatial Data, chapter 3.
    """
    _validate.check_positive("n_neighbors", n_neighbors)
    if interval is not None:
        _validate.check_range("interval", interval, 0, 1)
    positions, hidden = np.asarray(positions, dtype=np.float64), np.asarray(hidden, dtype=bool)
    visible = expression[~hidden]
    visible = np.asarray(visible.toarray() if sparse.issparse(visible) else visible, dtype=np.float64)
    places, asked = positions[~hidden], positions[hidden]
    tree = cKDTree(places)
    _, nearest = tree.query(asked, k=min(n_neighbors, len(places)))
    nearest = nearest.reshape(len(asked), -1)
    distances, squares = _pairs(tree, visible, np.random.default_rng(seed))
    variance = visible.var(axis=0)
    varies = variance > 1e-12
    # Half the squared difference of neighbours, in units of the variance: low where a gene has a pattern.
    roughness = np.full(visible.shape[1], np.inf)
    near = distances <= np.quantile(distances, 1 / _N_LAGS)
    roughness[varies] = squares[near][:, varies].mean(axis=0) / 2 / variance[varies]
    prediction = np.tile(visible.mean(axis=0), (len(asked), 1))
    error = np.tile(np.sqrt(variance), (len(asked), 1))
    order = np.argsort(roughness, kind="stable")[: int(varies.sum())]
    for genes in np.array_split(order, min(_N_GROUPS, len(order))) if len(order) else []:
        variogram = _variogram(distances, (squares[:, genes] / 2 / variance[genes]).mean(axis=1))
        weights, share = ordinary_weights(places[nearest], asked, *variogram)
        prediction[:, genes] = np.einsum("hn,hng->hg", weights, visible[nearest][:, :, genes])
        error[:, genes] = np.sqrt(np.outer(share, variance[genes]))
    prediction = np.maximum(prediction, 0)
    if interval is None:
        return prediction
    reach = norm.ppf(0.5 + interval / 2) * error
    return prediction, np.maximum(prediction - reach, 0), prediction + reach


def ordinary_weights(
    places: np.ndarray, asked: np.ndarray, nugget: float, sill: float, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (asked x neighbours) of neighbours at places (asked x neighbours x 2), and the variance of what is measured.

    The variogram is ``nugget + sill (1 - exp(-distance / reach))``; the mean is not known, so that weights have sum one.
    """
    n_asked, n, _ = places.shape
    between = np.linalg.norm(places[:, :, None] - places[:, None], axis=3)
    system = np.ones((n_asked, n + 1, n + 1))
    system[:, -1, -1] = 0
    system[:, :n, :n] = sill * np.exp(-between / reach) + nugget * np.eye(n)
    right = np.ones((n_asked, n + 1, 1))
    right[:, :n, 0] = sill * np.exp(-np.linalg.norm(places - asked[:, None], axis=2) / reach)
    solved = np.linalg.solve(system, right)[..., 0]
    variance = nugget + sill - (solved * right[..., 0]).sum(axis=1)
    return solved[:, :n], np.maximum(variance, 0)


def _pairs(tree: cKDTree, visible: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mean distance in each of some classes of distance, and mean squared difference there (classes x genes)."""
    n = len(visible)
    spacing = np.median(tree.query(tree.data, k=2)[0][:, 1])
    edges = spacing * np.concatenate([[0.5], np.arange(1, _N_LAGS + 1) * 1.5])
    first = rng.integers(n, size=_MOST_PAIRS)
    # Partners from the nearest few hundred sites: all classes of distance are met.
    number = min(n, 1 + int(np.pi * (edges[-1] / spacing) ** 2))
    _, near = tree.query(tree.data[np.unique(first)], k=number)
    second = near[np.searchsorted(np.unique(first), first), rng.integers(1, max(number, 2), size=_MOST_PAIRS) % number]
    distance = np.linalg.norm(tree.data[first] - tree.data[second], axis=1)
    kind = np.digitize(distance, edges) - 1
    means, squares = [], []
    for lag in range(_N_LAGS):
        rows = np.flatnonzero(kind == lag)[:2000]
        if len(rows) > 10:
            means.append(distance[rows].mean())
            squares.append(((visible[first[rows]] - visible[second[rows]]) ** 2).mean(axis=0))
    if not means:
        return np.array([spacing]), 2 * visible.var(axis=0)[None]
    return np.array(means), np.array(squares)


def _variogram(distances: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
    """Nugget, sill and range of an exponential variogram through these values."""

    def model(distance: np.ndarray, nugget: float, sill: float, reach: float) -> np.ndarray:
        return nugget + sill * (1 - np.exp(-distance / reach))

    unit = distances.min()
    top = max(float(values.max()), 1e-9)
    start = [0.8 * values.min() + 1e-6, top - 0.8 * values.min() + 1e-6, 3 * unit]
    bounds = ([1e-6 * top, 0, 0.3 * unit], [2 * top, 4 * top, _LARGEST_RANGE * unit])
    try:
        fitted, _ = curve_fit(model, distances, values, p0=np.clip(start, *bounds), bounds=bounds)
    except RuntimeError:  # no least squares found: all of it is nugget
        return top, 0.0, unit
    return tuple(float(value) for value in fitted)
