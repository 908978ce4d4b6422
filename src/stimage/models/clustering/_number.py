from __future__ import annotations

import numpy as np
import pandas as pd

from stimage._settings import progress
from stimage.models.clustering._kmeans import sample

FEWEST, MOST = 2, 15
"""Numbers that are compared."""
N_HALVES = 8
N_STARTS = 3
MOST_OBSERVATIONS = 4_000
N_TILES = 6
"""Tiles along each axis of a slide."""
_CLEAR = 0.9
_NEAR_BEST = 0.25
"""Share of what the best number lacks of full agreement that another may lack beside."""


def agreement_of_halves(
    vectors: np.ndarray, positions: np.ndarray | None, slides: np.ndarray, seed: int, *, show_progress: bool = True
) -> pd.DataFrame:
    """How well clusterings of two halves of the tissue agree, for each number of domains.

    Each slide is cut at quantiles into 6 x 6 tiles. Random halves of the tiles are clustered by k-means, and the centres of
    either half divide all observations: the adjusted Rand index of the two divisions is averaged over eight random halves.
    Neighbours are alike, so that halves of single observations would agree at any number.

    Parameters
    ----------
    vectors
        Components (observations x components).
    positions
        Positions (observations x 2); without them halves are of single observations.
    slides
        Slide of each observation (observations).
    seed
        Seed of the halves.
    show_progress
        Show a progress bar.

    Returns
    -------
    pandas.DataFrame
        ``n_domains``, ``agreement`` (mean) and ``deviation`` (over halves).

    References
    ----------
    Lange et al. 2004, Stability-Based Validation of Clustering Solutions, Neural Computation 16.
    """
    from sklearn.metrics import adjusted_rand_score

    rows = sample(np.arange(len(vectors)), MOST_OBSERVATIONS, seed)
    vectors = vectors[rows]
    tiles = rows if positions is None else _tiles(positions, slides)[rows]
    names = np.unique(tiles)
    rng = np.random.default_rng(seed)
    numbers = np.arange(FEWEST, min(MOST, len(vectors) // 4) + 1)
    table = []
    for number in progress(numbers, "Numbers of domains") if show_progress else numbers:
        scores = []
        for _ in range(N_HALVES):
            first = np.isin(tiles, rng.permutation(names)[: len(names) // 2])
            if min(first.sum(), (~first).sum()) < number:
                continue
            start = int(rng.integers(1 << 31))
            divisions = [_divided(vectors[half], vectors, int(number), start) for half in (first, ~first)]
            scores.append(adjusted_rand_score(*divisions))
        if scores:
            table.append({"n_domains": int(number), "agreement": np.mean(scores), "deviation": np.std(scores)})
    return pd.DataFrame(table)


def steady_number(curve: pd.DataFrame) -> int:
    """The number of domains to take from a curve of agreement.

    The largest number at which halves agree to .9 (as for prediction strength, Tibshirani and Walther 2005). Tissue is rarely
    as clear: where no number reaches it, the smallest that lacks at most a quarter more of full agreement than the best. Two
    domains agree best on most tissues (white and grey matter, say), and are rarely what is looked for: three or more are taken.
    """
    candidates = curve[curve["n_domains"] >= 3]
    if not len(candidates):
        return int(curve["n_domains"].iloc[-1])
    numbers, agreement = candidates["n_domains"].to_numpy(), candidates["agreement"].to_numpy()
    if agreement.max() >= _CLEAR:
        return int(numbers[agreement >= _CLEAR][-1])
    return int(numbers[1 - agreement <= (1 + _NEAR_BEST) * (1 - agreement.max())][0])


def _divided(fitted: np.ndarray, vectors: np.ndarray, number: int, seed: int) -> np.ndarray:
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return KMeans(number, n_init=N_STARTS, random_state=seed).fit(fitted).predict(vectors)


def _tiles(positions: np.ndarray, slides: np.ndarray) -> np.ndarray:
    """Tile of each observation: no two slides share one."""
    tiles = np.zeros(len(positions), dtype=np.int64)
    inner = np.linspace(0, 1, N_TILES + 1)[1:-1]
    for number, name in enumerate(np.unique(slides)):
        rows = np.flatnonzero(slides == name)
        column, row = (np.searchsorted(np.quantile(axis, inner), axis, side="right") for axis in positions[rows].T)
        tiles[rows] = (number * N_TILES + row) * N_TILES + column
    return tiles
