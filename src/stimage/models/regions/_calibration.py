from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy import sparse
from scipy.optimize import nnls
from scipy.signal import correlate
from scipy.spatial import cKDTree

from stimage.data import Slide, site_positions
from stimage.models.regions._intervals import prediction_intervals

RegionPredictor = Callable[[Slide, np.ndarray], np.ndarray]
"""Slide and hidden sites to their expression on the slide's scale (hidden sites x genes)."""

N_NEIGHBORS = 128
"""Visible sites that the distance-weighted mean of a hidden site is taken over."""
N_PRACTICE_REGIONS = 16
"""Regions differ in how well they can be predicted: a few large ones are not enough."""


def calibrated_reconstruction(
    predict: RegionPredictor, slide: Slide, hidden: np.ndarray, *, seed: int, interval: float | None = None
) -> np.ndarray:
    r"""Expression of hidden sites: mean, prediction and neighbours, weighted as fits visible regions best.

    Practice regions of the same shape are hidden elsewhere and predicted like the region itself, which stays hidden.
    With the mean :math:`m` of the visible sites, a prediction :math:`p` and the inverse-distance weighted mean :math:`d` of
    the nearest visible sites, the weights of

    .. math:: m + a (p - m) + b (d - m), \quad a, b \ge 0

    are those with the least squared error over sites and genes of the practice regions. A predictor that says too much
    is thus shrunk to the mean, and one that says less than the nearest sites gives way to them.

    Parameters
    ----------
    predict
        The model. It gets a slide whose hidden sites are without data.
    slide
        The slide, on the scale of the answer.
    hidden
        Sites to reconstruct (sites), at least one.
    seed
        Seed of the places of practice regions.
    interval
        Share of values that :func:`prediction_intervals` should hold; none are made by default.

    Returns
    -------
    numpy.ndarray
        Expression (hidden sites x genes), float32; that of ``predict`` where there is no room to practise. With
        ``interval``, expression, lower and upper bounds (3 x hidden sites x genes), the bounds NaN for genes that the slide
        lacks and where there is no room to practise.
    """
    slide = slide.hide(hidden)
    # A gene that the slide lacks has no truth to compare with.
    known = slide.measured
    practised, truth = [], []
    for practice in practice_regions(slide, hidden, seed=seed):
        parts, mean = _deviations(predict, slide, practice)
        practised.append(([part[:, known] for part in parts], mean[known]))
        truth.append(slide.expression[practice].toarray()[:, known])
    weights = (1.0, 0.0)
    if practised:
        design = [np.stack([part.ravel() for part in parts], axis=1) for parts, _ in practised]
        target = [(values - mean).ravel() for values, (_, mean) in zip(truth, practised, strict=True)]
        weights = nnls(np.concatenate(design), np.concatenate(target))[0]
    filled = _combined(*_deviations(predict, slide, hidden), weights)
    if interval is None:
        return filled
    answer = np.full((3, *filled.shape), np.nan, dtype=np.float32)
    answer[0] = filled
    if practised:
        predicted = np.concatenate([_combined(parts, mean, weights) for parts, mean in practised])
        bounds = prediction_intervals(predicted, np.concatenate(truth), filled[:, known], share=interval)
        answer[1:, :, known] = bounds
    return answer


def practice_regions(slide: Slide, hidden: np.ndarray, *, seed: int) -> Iterator[np.ndarray]:
    """The hidden region moved to random other places, as far as there are visible sites.

    Parameters
    ----------
    slide
        The slide, with ``hidden`` hidden.
    hidden
        The region (sites).
    seed
        Seed of the places.

    Yields
    ------
    numpy.ndarray
        Sites of a practice region (sites): at least a third as many as in ``hidden``, at most half of the visible ones.
        There are sixteen, or as many as there are places.
    """
    shown, region = (np.isin(slide.raster, np.flatnonzero(sites)) for sites in (slide.active, hidden))
    # Visible sites under the region at every shift of it.
    overlap = np.rint(correlate(shown.astype(float), region.astype(float), method="fft"))
    enough = (overlap >= max(region.sum() / 3, 1)) & (overlap <= shown.sum() / 2)
    shifts = np.argwhere(enough) - (np.array(region.shape) - 1)
    cells = np.argwhere(region)
    for shift in np.random.default_rng(seed).permutation(shifts)[:N_PRACTICE_REGIONS]:
        moved = cells + shift
        moved = moved[((moved >= 0) & (moved < region.shape)).all(axis=1)]
        sites = slide.raster[tuple(moved[shown[tuple(moved.T)]].T)]
        yield np.isin(np.arange(slide.n_sites), sites)


def distance_weighted_mean(slide: Slide, hidden: np.ndarray) -> np.ndarray:
    """Mean of the nearest visible sites, weighted by the inverse square of their distance.

    Parameters
    ----------
    slide
        The slide.
    hidden
        Sites to predict (sites).

    Returns
    -------
    numpy.ndarray
        Expression (hidden sites x genes).
    """
    positions = site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity)
    visible = np.flatnonzero(slide.active & ~hidden)
    distance, near = cKDTree(positions[visible]).query(
        positions[hidden], k=range(1, min(N_NEIGHBORS, len(visible)) + 1)
    )
    weights = distance**-2.0
    weights /= weights.sum(axis=1, keepdims=True)
    rows = np.repeat(np.arange(len(near)), near.shape[1])
    average = sparse.csr_matrix((weights.ravel(), (rows, visible[near.ravel()])), shape=(len(near), slide.n_sites))
    return (average @ slide.expression).toarray()


def _combined(parts: Sequence[np.ndarray], mean: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Mean and weighted deviations from it, never negative."""
    combined = mean + sum(weight * part for weight, part in zip(weights, parts, strict=True))
    return np.maximum(combined, 0).astype(np.float32)


def _deviations(
    predict: RegionPredictor, slide: Slide, hidden: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Prediction and distance-weighted mean of hidden sites, less the mean of the visible ones, and that mean."""
    slide = slide.hide(hidden)
    mean = slide.gene_mean
    return (predict(slide, hidden) - mean, distance_weighted_mean(slide, hidden) - mean), mean
