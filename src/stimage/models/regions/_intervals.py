from __future__ import annotations

import numpy as np

N_LEVELS = 10
"""Levels of predicted expression that a gene's spread may differ between."""
VALUES_PER_LEVEL = 200
"""Measured values that a level needs; genes of similar mean are pooled until there are as many."""


def prediction_intervals(
    practice: np.ndarray, truth: np.ndarray, prediction: np.ndarray, *, share: float
) -> tuple[np.ndarray, np.ndarray]:
    """Shortest intervals that hold a share of what was measured where as much was predicted.

    Split conformal prediction within groups: values of a gene in practice are cut into ten levels by what was predicted,
    and the interval of a level is the shortest that holds ``ceil(share * (n + 1))`` of its n measured values. Expression is
    discrete and mostly zero at low levels, so that no symmetric spread around the prediction would do. Where practice has
    few sites, genes of similar mean share their levels.

    Parameters
    ----------
    practice, truth
        Predicted and measured expression of practice sites (practice sites x genes), at least one site.
    prediction
        Predicted expression to which bounds are computed (sites x genes).
    share
        Share of values that intervals should hold.

    Returns
    -------
    tuple of numpy.ndarray
        Lower and upper bounds (sites x genes each), float32.

    References
    ----------
    Vovk, Gammerman and Shafer 2005, Algorithmic Learning in a Random World, section 4.5 (Mondrian conformal prediction).
    """
    lower, upper = (np.empty(prediction.shape, dtype=np.float32) for _ in range(2))
    n_sites, n_genes = truth.shape
    group_size = min(-(-N_LEVELS * VALUES_PER_LEVEL // n_sites), n_genes)
    by_mean = np.argsort(truth.mean(axis=0), kind="stable")
    for genes in np.array_split(by_mean, n_genes // group_size):
        order = np.argsort(practice[:, genes], axis=None, kind="stable")
        predicted, measured = practice[:, genes].ravel()[order], truth[:, genes].ravel()[order]
        # What is predicted alike is in one level.
        edges = np.unique([part[0] for part in np.array_split(predicted, N_LEVELS) if len(part)])[1:]
        levels = np.split(measured, np.searchsorted(predicted, edges, side="left"))
        bounds = np.array([_shortest(values, share) for values in levels])
        level = np.searchsorted(edges, prediction[:, genes], side="right")
        lower[:, genes], upper[:, genes] = bounds[level, 0], bounds[level, 1]
    return lower, upper


def _shortest(values: np.ndarray, share: float) -> tuple[float, float]:
    """Ends of the shortest interval that holds a share of values and of one more that may be anywhere."""
    values = np.sort(values)
    n_inside = min(int(np.ceil(share * (len(values) + 1))), len(values))
    widths = values[n_inside - 1 :] - values[: len(values) - n_inside + 1]
    start = int(np.argmin(widths))
    return values[start], values[start + n_inside - 1]
