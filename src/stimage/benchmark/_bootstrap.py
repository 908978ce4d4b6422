from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stimage import _validate

_DRAWS_AT_A_TIME = 1_000_000  # numbers


class Difference(NamedTuple):
    """A mean difference over slides and its interval.

    Parameters
    ----------
    mean
        Mean of first minus second.
    low, high
        Bounds of its interval.
    n_slides
        Slides that both were scored on.

    Examples
    --------
    >>> from stimage.benchmark import Difference
    >>> str(Difference(0.05, 0.01, 0.09, 12))
    '+0.050 (+0.010 to +0.090)'
    """

    mean: float
    low: float
    high: float
    n_slides: int

    def __str__(self) -> str:
        return f"{self.mean:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def paired_bootstrap(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    *,
    level: float = 0.95,
    n_draws: int = 10_000,
    seed: int = 0,
) -> Difference:
    """How much better one method is than another on the same slides, with an interval over slides.

    Slides are drawn with replacement, each with both of its scores; the interval holds the middle of the mean differences.
    Slides of one donor are no independent samples: pass means over the slides of a donor where there are several donors.
    With fewer than some ten slides the interval is too narrow.

    Parameters
    ----------
    first, second
        Scores of two methods (slides); slides where either is NaN are left out.
    level
        Share of the draws that lie inside.
    n_draws
        Draws of as many slides as there are.
    seed
        Seed of the draws.

    Returns
    -------
    Difference
        Mean of first minus second, its bounds and the number of slides.

    Raises
    ------
    ValueError
        If the numbers of slides differ, or fewer than two have both scores.

    Examples
    --------
    >>> from stimage.benchmark import paired_bootstrap
    >>> found = paired_bootstrap([0.6, 0.7, 0.9, 0.4], [0.5, 0.5, 0.8, 0.3])
    >>> round(found.mean, 3), 0.09 < found.low < found.high < 0.21
    (0.125, True)

    References
    ----------
    Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 13 (percentile intervals).
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(
            f"`first` has shape {first.shape}, `second` {second.shape}: one score per slide is needed in both."
        )
    _validate.check_range("level", level, 0, 1)
    _validate.check_positive("n_draws", n_draws)
    _validate.check_seed(seed)
    gaps = (first - second)[np.isfinite(first) & np.isfinite(second)]
    n = len(gaps)
    if n < 2:
        raise ValueError(f"{n} slides have both scores: at least 2 are needed.")
    rng = np.random.default_rng(seed)
    step = max(_DRAWS_AT_A_TIME // n, 1)
    sizes = [min(step, n_draws - start) for start in range(0, n_draws, step)]
    means = np.concatenate([rng.choice(gaps, (size, n)).mean(axis=1) for size in sizes])
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Difference(float(gaps.mean()), float(low), float(high), n)
