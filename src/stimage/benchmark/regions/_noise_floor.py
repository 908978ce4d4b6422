from __future__ import annotations

import numpy as np
from scipy import sparse, stats

from stimage.data.slides._slide import COUNTS_PER_SPOT

_GRID_POINTS = 120
_ITERATIONS = 400
_VALUES_PER_BIN = 2_500
_LARGEST_SUM = 2_000  # expected count from which the variance follows from its limit for large counts


def counting_noise_floor(
    counts: np.ndarray | sparse.spmatrix, library_size: np.ndarray, *, n_bins: int | None = None
) -> float:
    r"""Mean squared error that no predictor of log-normalised expression can get below, for counting noise alone.

    A spot with true proportions :math:`p_g` and :math:`L` counts in all shows :math:`x_g \sim \mathrm{Poisson}(L p_g)`
    of gene g. A predictor that does not see the spot can at best say the mean of
    :math:`y_g = \log(1 + 10^4 x_g / L)`, and its squared error is then :math:`v(L p_g, L) = \mathrm{Var}(y_g \mid p_g, L)`,
    averaged over genes and spots. The rates are not known; their distribution is estimated from the counts by maximum
    likelihood over all distributions (a Poisson mixture on a grid of rates, by expectation-maximisation; Kiefer and
    Wolfowitz 1956, Laird 1978), for spots of similar library size together, and the variance is averaged over it.
    Single rates cannot be estimated from single counts, but this average can. Biological and technical variation beyond
    Poisson counts as signal here: the floor is a lower bound.

    Parameters
    ----------
    counts
        Raw counts (spots x genes) of the spots and genes that are predicted.
    library_size
        Counts of each spot over all genes that were measured, not only those in ``counts`` (spots).
    n_bins
        Number of groups of spots of similar library size; by default one for every 2,500 values, at most 16.

    Returns
    -------
    float
        The floor, in squared units of log1p of counts per 10,000.

    Raises
    ------
    ValueError
        If counts are negative or not whole numbers, or library sizes are smaller than the counts or zero.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import counting_noise_floor
    >>> rng = np.random.default_rng(0)
    >>> library_size = np.full(100, 5000)
    >>> rates = rng.gamma(0.5, 2.0, size=200)
    >>> counts = rng.poisson(rates, size=(100, 200))
    >>> y = np.log1p(1e4 * counts / 5000)
    >>> floor = counting_noise_floor(counts, library_size)
    >>> bool(abs(floor / y.var(axis=0).mean() - 1) < 0.05)
    True

    References
    ----------
    Laird 1978, Nonparametric maximum likelihood estimation of a mixing distribution, JASA 73.
    """
    counts = np.asarray(counts.toarray() if sparse.issparse(counts) else counts)
    library_size = np.asarray(library_size, dtype=np.float64).ravel()
    _check(counts, library_size)
    if n_bins is None:
        n_bins = int(np.clip(counts.size // _VALUES_PER_BIN, 1, 16))
    total = 0.0
    for spots in np.array_split(np.argsort(library_size, kind="stable"), min(n_bins, len(counts))):
        total += len(spots) * _floor_of_group(counts[spots].astype(np.int64), library_size[spots])
    return total / len(counts)


def _floor_of_group(counts: np.ndarray, library_size: np.ndarray) -> float:
    values, times = np.unique(counts, return_counts=True)
    if not values.any():
        return 0.0
    depth = float(np.exp(np.log(library_size).mean()))
    # Rates below a tenth of the smallest visible mean cannot be told from none.
    grid = np.concatenate([[0.0], np.geomspace(min(0.1 / counts.shape[0], 1e-3), values.max() * 1.5 + 3, _GRID_POINTS)])
    likelihood = stats.poisson.pmf(values[:, None], grid[None, :])
    weights = np.full(len(grid), 1 / len(grid))
    share = times / times.sum()
    for _ in range(_ITERATIONS):
        weights = weights * (likelihood.T @ (share / (likelihood @ weights)))
    return float(weights @ log_count_variance(grid, depth))


def log_count_variance(mean: np.ndarray, library_size: float) -> np.ndarray:
    """Variance of log1p of counts per 10,000 when the count is Poisson.

    Parameters
    ----------
    mean
        Expected counts.
    library_size
        Counts of the spot over all genes.

    Returns
    -------
    numpy.ndarray
        Variance for each expected count.
    """
    mean = np.asarray(mean, dtype=np.float64)
    scale = COUNTS_PER_SPOT / library_size
    # For large counts by linearisation around the mean.
    variance = mean * (scale / (1 + scale * mean)) ** 2
    small = mean <= _LARGEST_SUM
    if small.any():
        largest = mean[small].max()
        count = np.arange(int(largest + 12 * np.sqrt(largest)) + 25)
        probability = stats.poisson.pmf(count[:, None], mean[small][None, :])
        value = np.log1p(scale * count)
        first = value @ probability
        variance[small] = np.einsum("cm,cm->m", (value[:, None] - first) ** 2, probability)
    return variance


def _check(counts: np.ndarray, library_size: np.ndarray) -> None:
    if counts.ndim != 2 or not counts.size:
        raise ValueError(f"`counts` must be spots x genes with at least one of each, found shape {counts.shape}.")
    if len(library_size) != len(counts):
        raise ValueError(f"`library_size` has {len(library_size)} values for {len(counts)} spots of `counts`.")
    if not np.isfinite(counts).all() or (counts < 0).any() or (counts != np.rint(counts)).any():
        raise ValueError("`counts` must be whole numbers and not negative: pass raw counts.")
    if not np.isfinite(library_size).all() or (library_size <= 0).any():
        raise ValueError("`library_size` must be positive: leave out spots without counts.")
    if (counts.sum(axis=1) > library_size * (1 + 1e-6)).any():
        raise ValueError("`library_size` is smaller than the counts of some spots: pass the sum over all genes.")
