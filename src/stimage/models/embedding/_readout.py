from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from scipy import sparse

from stimage.data import Slide
from stimage.data.slides._smoothing import GaussianMean
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
SITES_AT_A_TIME = 16_384
"""Sites whose posteriors, four times as wide as their codes, are held together."""
MARGIN = 8
"""Sites around a square that are read with it, more than Gaussians of a factor of 1 reach with any weight."""


@dataclass
class Readout:
    r"""Makes an embedding of principal components: averaged around each site, beside niche codes.

    .. math::
        c_i = \tfrac12 \mathcal G_{f}[a]_i + \tfrac12 \mathcal G_{2.2 f}[a]_i + \tfrac s2 \hat a_i, \qquad
        q_i = \mathcal G_{1.5 f}\big[\operatorname{codes}(\mathcal G_{1.5 f}[a] + \tfrac s2 \hat a)\big]_i, \qquad
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
    width_factor
        Factor :math:`f` of all widths.
    """

    axes: np.ndarray
    scales: np.ndarray
    codes: NicheCodes
    width_factor: float = 1.0

    @classmethod
    def fit(
        cls,
        slides: Sequence[Slide],
        sites: Sequence[np.ndarray],
        axes: np.ndarray,
        predicted: Sequence[np.ndarray | None],
        *,
        seed: int,
        width_factor: float = 1.0,
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
        width_factor
            Factor of all widths.

        Returns
        -------
        Readout
            The readout.
        """
        scales = np.ones(2, dtype=np.float32)
        # In single precision, as it is stored.
        readout = cls(np.ascontiguousarray(axes), scales, NicheCodes({}), float(np.float32(width_factor)))
        shown = [shown_alone(*part) for part in zip(slides, sites, predicted, strict=True)]
        contexts, nears = [], []
        for slide, chosen, part in shown:
            own = readout.components(slide)
            added = _added(slide, own, part)
            nears.append(readout._near(slide, own, added, np.empty_like(own)))
            contexts.append(readout._context(slide, own, added)[chosen])
        chosen_near = [near[chosen] for near, (_, chosen, _) in zip(nears, shown, strict=True)]
        readout.codes = NicheCodes.fit(np.concatenate(chosen_near), seed=seed)
        codes = [readout._codes(slide, near)[chosen] for near, (slide, chosen, _) in zip(nears, shown, strict=True)]
        spreads = [float(np.sqrt(np.concatenate(part).var(axis=0).sum())) for part in (contexts, codes)]
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
        # Whole slides have room for few arrays: what a part is made of has its place until then.
        vectors = np.empty((slide.n_sites, self.n_dimensions), dtype=np.float32)
        context, codes = np.split(vectors, [self.axes.shape[1]], axis=1)
        own = components_of(slide, self.axes, out=context)
        added = _added(slide, own, predicted)
        near = self._near(slide, own, added, codes if codes.shape == own.shape else np.empty_like(own))
        self._context(slide, own, added)
        context /= self.scales[0]
        self._codes(slide, near, out=codes)
        codes *= np.float32(CODE_WEIGHT)
        codes /= self.scales[1]
        return vectors

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
        factor = {} if self.width_factor == 1 else {"width_factor": np.array([self.width_factor], dtype=np.float32)}
        return {"axes": self.axes, "scales": self.scales, **factor, **codes}

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray]) -> Self:
        """What :meth:`tensors` gave."""
        prefix = "codes."
        codes = {name.removeprefix(prefix): part for name, part in tensors.items() if name.startswith(prefix)}
        factor = float(tensors["width_factor"][0]) if "width_factor" in tensors else 1.0
        return cls(tensors["axes"], tensors["scales"], NicheCodes(codes), factor)

    def _codes(self, slide: Slide, near: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        codes = np.empty((slide.n_sites, self.codes.n_codes), dtype=np.float32) if out is None else out
        for start in range(0, slide.n_sites, SITES_AT_A_TIME):
            part = slice(start, start + SITES_AT_A_TIME)
            codes[part] = self.codes(near[part])
        return GaussianMean(slide, self.width_factor * CODE_WIDTH)(codes, out=codes)

    def _near(self, slide: Slide, own: np.ndarray, added: np.ndarray | None, out: np.ndarray) -> np.ndarray:
        """What codes of sites are of (sites x components)."""
        near = GaussianMean(slide, self.width_factor * CODE_WIDTH)(own, out=out)
        if added is not None:
            near += added
        return near

    def _context(self, slide: Slide, own: np.ndarray, added: np.ndarray | None) -> np.ndarray:
        """Contexts of sites (sites x components), in the place of their own components."""
        means = [GaussianMean(slide, self.width_factor * width) for width in WIDTHS]
        for dimension in range(own.shape[1]):
            column = own[:, dimension : dimension + 1]
            column[:] = sum(mean(column) for mean in means) / len(means)
        if added is not None:
            own += added
        return own


def _added(slide: Slide, own: np.ndarray, predicted: np.ndarray | None) -> np.ndarray | None:
    """What predictions add to the surroundings of sites (sites x components)."""
    return None if predicted is None else np.float32(WEIGHT * slope(slide, own, predicted)) * predicted


def components_of(slide: Slide, axes: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Principal components of the sites of a slide, centred over those with counts (sites x components)."""
    components = np.empty((slide.n_sites, axes.shape[1]), dtype=np.float32) if out is None else out
    components[:] = 0
    for sites, block in _blocks(slide):
        components[sites] = block @ axes
    components -= slide.gene_mean @ axes
    return components


def slope(slide: Slide, own: np.ndarray, predicted: np.ndarray) -> float:
    """Slope of components on those predicted, over the sites with counts and between 0 and 1."""
    own, predicted = own[slide.active].astype(np.float64), predicted[slide.active].astype(np.float64)
    return float(np.clip((own * predicted).sum() / max(np.square(predicted).sum(), 1e-12), 0, 1))


def sample(
    slides: Sequence[Slide], most_sites: int, *, seed: int, margin: int = MARGIN
) -> dict[int, tuple[Slide, np.ndarray]]:
    """Some sites with counts in random squares of the slides.

    Parameters
    ----------
    slides
        The slides.
    most_sites
        How many sites are chosen at most; slides that have fewer in all are taken whole.
    seed
        Seed of the choice of squares.
    margin
        Sites around a square that are read with it.

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
    return {number: (_around(slides[number], sites, margin), sites) for number, sites in found.items()}


def _around(slide: Slide, sites: np.ndarray, margin: int) -> Slide:
    """A slide with some sites and what is around them left as tissue."""
    if len(sites) == slide.active.sum():
        return slide
    shown = np.zeros(slide.shape, dtype=bool)
    for row, col in np.unique(slide.site_index[sites] // SQUARE, axis=0) * SQUARE:
        rows, cols = (slice(max(first - margin, 0), first + SQUARE + margin) for first in (row, col))
        shown[rows, cols] = True
    # Nothing else of the slide is read but its mean, which stays.
    return slide.restrict(shown, centre=slide.gene_mean)


def shown_alone(
    slide: Slide, sites: np.ndarray, predicted: np.ndarray | None
) -> tuple[Slide, np.ndarray, np.ndarray | None]:
    """The sites of a slide that its raster shows as a slide of their own, with the new numbers of some of them."""
    kept = np.zeros(slide.n_sites, dtype=bool)
    kept[slide.raster[slide.raster >= 0]] = True
    if kept.all():
        return slide, sites, predicted
    # Entry -1 of the numbers is that of no tissue.
    number = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)
    of_kept = kept[slide.site_of_observation]
    part = replace(
        slide,
        expression=slide.expression[kept],
        library_size=slide.library_size[kept],
        raster=number[slide.raster].astype(np.int32),
        observation_index=slide.observation_index[of_kept],
        site_of_observation=number[slide.site_of_observation[of_kept]],
        centre=slide.gene_mean,
    )
    return part, number[sites], None if predicted is None else predicted[kept]


def _blocks(slide: Slide) -> Iterator[tuple[Any, sparse.csr_matrix]]:
    """Some sites and their expression at a time; all at once where it is in memory."""
    if sparse.issparse(slide.expression):
        yield slice(None), slide.expression
    else:
        yield from slide.expression.row_blocks(slide.active)
