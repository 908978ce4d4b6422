"""What neighbours explain of a site, and how widely slides are averaged for it; no label is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from stimage.data import Slide, gaussian_mean
from stimage.models.embedding._readout import WIDTHS as CONTEXT_WIDTHS
from stimage.models.embedding._readout import components_of, shown_alone

WIDTHS = (0.7, 1.0, 1.5, 2.2, 3.0, 4.5)
"""Gaussians that a model is compared with, in distances between sites."""
WIDER = (4.5, 6.4, 9.0, 13.0)
"""Gaussians beyond the widest that predicts an ordinary slide best, each half as wide again as the last."""
ORDINARY = 3.0
"""Spots and cells are predicted best by Gaussians up to this width; only what wider ones predict better is averaged more."""
FEWEST_SITES = 1_000
"""Active sites that each slide must have for this: on fewer there is no room for wide means."""
BLOCK = 80
"""Rows and columns, about, of the blocks that are looked at: a Visium slide is one."""
ENOUGH_SITES = 10_000
"""Sites that are predicted; blocks are added until there are so many."""


def width_factor(slides: Sequence[Slide], axes: np.ndarray, *, seed: int) -> float:
    """How many times wider than usual slides are averaged.

    Bins of few counts are mostly noise, and their domains are many bins across: a mean of a few sites says little of either.
    The Gaussian mean that best predicts hidden sites tells: where it is wider than that of any ordinary slide, the
    wider Gaussian of the context becomes that one, and the others grow with it.

    Parameters
    ----------
    slides
        Slides that are fitted together, which share a factor.
    axes
        Principal axes (genes x components).
    seed
        Seed of the blocks that are looked at, and of the sites that are hidden.

    Returns
    -------
    float
        Factor of the widths, 1 for ordinary slides and at most 5.9.
    """
    if any(int(slide.active.sum()) < FEWEST_SITES for slide in slides):
        return 1.0
    parts = list(blocks_of(slides, seed))
    components = [components_of(part, axes) for part in parts]
    own = np.concatenate([found[part.active] for part, found in zip(parts, components, strict=True)])

    def share(width: float) -> float:
        predicted = [
            predicted_by_neighbors(part, found, width, seed=seed)[part.active]
            for part, found in zip(parts, components, strict=True)
        ]
        return explained(own, np.concatenate(predicted))

    best, reached = ORDINARY, share(ORDINARY)
    # The share rises to the best width and falls beyond: an ordinary slide costs two means.
    for width in WIDER:
        found = share(width)
        if found <= reached:
            break
        best, reached = width, found
    return 1.0 if best == ORDINARY else best / CONTEXT_WIDTHS[-1]


def explained(own: np.ndarray, predicted: np.ndarray) -> float:
    """Share of the components of sites that a prediction explains, with the slope that suits it best."""
    own, predicted = own.astype(np.float64), predicted.astype(np.float64)
    product, square = (own * predicted).sum(), np.square(predicted).sum()
    return float(product**2 / max(square * np.square(own).sum(), 1e-12)) if product > 0 else 0.0


def explained_by_neighbors(slide: Slide, own: np.ndarray, sites: np.ndarray, *, seed: int) -> float:
    """The same of the best of six Gaussian means of a random half of the slide, at the sites of the other half.

    Parameters
    ----------
    slide
        The slide.
    own
        Components of its sites (sites x components).
    sites
        Sites that are compared.
    seed
        Seed of the halves.

    Returns
    -------
    float
        Share of the components at ``sites``.
    """
    return max(explained(own[sites], predicted_by_neighbors(slide, own, width, seed=seed)[sites]) for width in WIDTHS)


def predicted_by_neighbors(slide: Slide, own: np.ndarray, width: float, *, seed: int) -> np.ndarray:
    """Components of each site as the Gaussian mean of a random half of the slide predicts them, one that the site is not in.

    Parameters
    ----------
    slide
        The slide.
    own
        Components of its sites (sites x components).
    width
        Of the Gaussian, in distances between sites.
    seed
        Seed of the halves.

    Returns
    -------
    numpy.ndarray
        Components (sites x components).
    """
    half = np.random.default_rng(seed).permutation(slide.n_sites) % 2 == 0
    predicted = np.empty_like(own)
    for masked in (half, ~half):
        predicted[masked] = gaussian_mean(slide.hide(masked), own, width)[masked]
    return predicted


def blocks_of(slides: Sequence[Slide], seed: int) -> Iterator[Slide]:
    """Random blocks of slides, each a slide of its own with no more raster than it needs, until there are enough sites."""
    places = [
        (slide, rows, cols)
        for slide in slides
        for rows in _cuts(slide.shape[0])
        for cols in _cuts(slide.shape[1])
        if (slide.raster[rows, cols] >= 0).any()
    ]
    n_sites = 0
    for index in np.random.default_rng(seed).permutation(len(places)):
        slide, rows, cols = places[index]
        shown = np.zeros(slide.shape, dtype=bool)
        shown[rows, cols] = True
        nothing = np.empty(0, dtype=np.int64)
        part, _, _ = shown_alone(slide.restrict(shown, centre=slide.gene_mean), nothing, None)
        yield replace(part, raster=part.raster[rows, cols])
        n_sites += part.n_sites
        if n_sites >= ENOUGH_SITES:
            return


def _cuts(length: int) -> list[slice]:
    """An axis cut into equal parts that start at even places, where rows of a hexagonal lattice are shifted alike."""
    n_parts = max(round(length / BLOCK), 1)
    bounds = [*(2 * round(part * length / n_parts / 2) for part in range(n_parts)), length]
    return [slice(*pair) for pair in pairwise(bounds)]
