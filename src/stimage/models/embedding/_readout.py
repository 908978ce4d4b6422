from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy import sparse

from stimage.data import Slide, gaussian_mean
from stimage.models.embedding._codes import NicheCodes

WIDTHS = (1.0, 2.2)
"""Of the context, in distances between sites: a sharp centre with a long tail, since no single width suits every tissue."""
CODE_WIDTH = 1.5
CODE_WEIGHT = 0.7
"""Spread of the codes beside that of the context. Codes help within a tissue; at full weight they separate patients."""
SQUARE = 32
"""Rows and columns of the squares that a fit is on: of a large slide, only some squares and what is around them are read."""
WEIGHT = 0.5
"""Of the predictions of a model: at more weight they also separate donors."""
MARGIN = 8
"""Sites around a square that are read with it, more than the Gaussians of its surroundings reach with any weight."""


@dataclass
class Readout:
    r"""Makes an embedding of principal components: averaged around each site, beside niche codes.

    .. math::
        c_i = \tfrac12 \mathcal G_{1}[a]_i + \tfrac12 \mathcal G_{2.2}[a]_i + \tfrac s2 \hat a_i, \qquad
        q_i = \mathcal G_{1.5}\big[\operatorname{codes}(\mathcal G_{1.5}[a] + \tfrac s2 \hat a)\big]_i, \qquad
        z_i = [\, c_i / \sigma_c \;;\; 0.7\, q_i / \sigma_q \,],

    where :math:`a_i` are the principal components of the site's own expression, :math:`\mathcal G_w` is
    :func:`stimage.data.gaussian_mean` and :math:`\hat a_i` is what a model predicts of them from visible sites while the
    site is masked; nothing in the closed form. :math:`s` is the slope of :math:`a` on :math:`\hat a` over the slide, between
    0 and 1: predictions that explain little of a slide count little.

    Parameters
    ----------
    axes
        Principal axes (genes x components).
    scales
        Total spread of contexts and of codes on the sites of the fit: root of the variance summed over dimensions.
    codes
        Niche codes.
    """

    axes: np.ndarray
    scales: np.ndarray
    codes: NicheCodes

    @classmethod
    def fit(
        cls,
        slides: Sequence[Slide],
        sites: Sequence[np.ndarray],
        axes: np.ndarray,
        predicted: Sequence[np.ndarray | None],
        *,
        seed: int,
    ) -> Self:
        """Fit codes and scales.

        Parameters
        ----------
        slides
            The slides, see :func:`sample`.
        sites
            Of each, the sites that the fit is on.
        axes
            Principal axes (genes x components).
        predicted
            Of each slide, predicted components (sites x components), or ``None``.
        seed
            Seed of the mixtures.

        Returns
        -------
        Readout
            The readout.
        """
        readout = cls(np.ascontiguousarray(axes), np.ones(2, dtype=np.float32), NicheCodes({}))
        parts = [readout._surroundings(slide, part) for slide, part in zip(slides, predicted, strict=True)]
        near = np.concatenate([part[chosen] for (_, part), chosen in zip(parts, sites, strict=True)])
        readout.codes = NicheCodes.fit(near, seed=seed)
        context = [part[chosen] for (part, _), chosen in zip(parts, sites, strict=True)]
        codes = [
            readout._codes(slide, part)[chosen] for slide, (_, part), chosen in zip(slides, parts, sites, strict=True)
        ]
        spreads = [float(np.sqrt(np.concatenate(part).var(axis=0).sum())) for part in (context, codes)]
        readout.scales = np.array([spread or 1.0 for spread in spreads], dtype=np.float32)
        return readout

    def __call__(self, slide: Slide, predicted: np.ndarray | None = None) -> np.ndarray:
        """Embedding of the sites of a slide.

        Parameters
        ----------
        slide
            The slide, over the genes of the axes.
        predicted
            Predicted components (sites x components), or ``None``.

        Returns
        -------
        numpy.ndarray
            Embedding (sites x (components + codes)), float32.
        """
        context, near = self._surroundings(slide, predicted)
        codes = self._codes(slide, near)
        return np.hstack([context / self.scales[0], CODE_WEIGHT * codes / self.scales[1]]).astype(np.float32)

    @property
    def n_dimensions(self) -> int:
        """Length of an embedding."""
        return self.axes.shape[1] + self.codes.n_codes

    def components(self, slide: Slide) -> np.ndarray:
        """Principal components of the sites of a slide, centred over those with counts (sites x components)."""
        return components_of(slide, self.axes)

    def tensors(self) -> dict[str, np.ndarray]:
        """Arrays by name, for a checkpoint."""
        codes = {f"codes.{name}": array for name, array in self.codes.tensors.items()}
        return {"axes": self.axes, "scales": self.scales, **codes}

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray]) -> Self:
        """What :meth:`tensors` gave."""
        prefix = "codes."
        codes = {name.removeprefix(prefix): part for name, part in tensors.items() if name.startswith(prefix)}
        return cls(tensors["axes"], tensors["scales"], NicheCodes(codes))

    def _surroundings(self, slide: Slide, predicted: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Contexts of sites, and what their codes are of (sites x components)."""
        own = self.components(slide)
        context = sum(gaussian_mean(slide, own, width) for width in WIDTHS) / len(WIDTHS)
        near = gaussian_mean(slide, own, CODE_WIDTH)
        if predicted is None:
            return context, near
        added = np.float32(WEIGHT * slope(slide, own, predicted)) * predicted
        return context + added, near + added

    def _codes(self, slide: Slide, near: np.ndarray) -> np.ndarray:
        return gaussian_mean(slide, self.codes(near), CODE_WIDTH)


def components_of(slide: Slide, axes: np.ndarray) -> np.ndarray:
    """Principal components of the sites of a slide, centred over those with counts (sites x components)."""
    components = np.zeros((slide.n_sites, axes.shape[1]), dtype=np.float32)
    for sites, block in _blocks(slide):
        components[sites] = block @ axes
    return components - slide.gene_mean @ axes


def slope(slide: Slide, own: np.ndarray, predicted: np.ndarray) -> float:
    """Slope of components on those predicted, over the sites with counts and between 0 and 1."""
    own, predicted = own[slide.active].astype(np.float64), predicted[slide.active].astype(np.float64)
    return float(np.clip((own * predicted).sum() / max(np.square(predicted).sum(), 1e-12), 0, 1))


def sample(slides: Sequence[Slide], most_sites: int, *, seed: int) -> dict[int, tuple[Slide, np.ndarray]]:
    """Some sites with counts in random squares of the slides.

    Parameters
    ----------
    slides
        The slides.
    most_sites
        How many sites are chosen at most; slides that have fewer in all are taken whole.
    seed
        Seed of the choice of squares.

    Returns
    -------
    dict
        By the number of a slide, the slide with no more tissue than has to be read for the chosen sites, and these sites.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(slides))
    squares = []
    for number, slide in enumerate(slides):
        sites = np.flatnonzero(slide.active)
        row, col = slide.site_index[sites].T // SQUARE
        place = row * slide.shape[1] + col
        by_square = np.argsort(place, kind="stable")
        parts = np.split(sites[by_square], np.flatnonzero(np.diff(place[by_square])) + 1)
        squares += [(number, part) for part in parts if len(part)]
    chosen: dict[int, list[np.ndarray]] = {}
    n_missing = most_sites
    for index in rng.permutation(len(squares)):
        number, sites = squares[index]
        chosen.setdefault(number, []).append(sites[:n_missing])
        n_missing -= len(chosen[number][-1])
        if not n_missing:
            break
    found = {int(number): np.sort(np.concatenate(chosen[number])) for number in order if number in chosen}
    return {number: (_around(slides[number], sites), sites) for number, sites in found.items()}


def _around(slide: Slide, sites: np.ndarray) -> Slide:
    """A slide with some sites and what is around them left as tissue."""
    if len(sites) == slide.active.sum():
        return slide
    shown = np.zeros(slide.shape, dtype=bool)
    for row, col in np.unique(slide.site_index[sites] // SQUARE, axis=0) * SQUARE:
        rows, cols = (slice(max(first - MARGIN, 0), first + SQUARE + MARGIN) for first in (row, col))
        shown[rows, cols] = True
    # Nothing else of the slide is read but its mean, which stays.
    return slide.restrict(shown, centre=slide.gene_mean)


def _blocks(slide: Slide) -> Iterator[tuple[Any, sparse.csr_matrix]]:
    """Some sites and their expression at a time; all at once where it is in memory."""
    if sparse.issparse(slide.expression):
        yield slice(None), slide.expression
    else:
        yield from slide.expression.row_blocks(slide.active)
