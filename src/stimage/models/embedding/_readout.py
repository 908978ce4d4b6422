from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from stimage.data import Slide
from stimage.models.embedding._codes import NicheCodes
from stimage.models.embedding._site_vectors import stream_vectors
from stimage.models.embedding._tiles import tiles_of
from stimage.modules import MaskedAutoencoder

MOST_SITES = 10_000
"""Sites of the training slides that a readout is fitted on at most."""
LEAST_SPREAD = 1e-5
"""Spread of vectors, relative to their length, below which they differ by rounding errors alone."""


@dataclass
class Readout:
    """Makes an embedding of context vectors: scaled to unit total spread, and beside them their niche codes.

    Scale and codes are those of the training slides, so that embeddings of different slides can be compared.

    Parameters
    ----------
    scale
        Total spread of the context vectors on the training slides: root of the variance summed over dimensions.
    codes
        Codes of the context vectors of the training slides.
    """

    scale: float
    codes: NicheCodes

    @classmethod
    def fit(cls, module: MaskedAutoencoder, slides: list[Slide], *, tile_size: int, batch_size: int, seed: int) -> Self:
        """Fit a readout on some sites of the training slides.

        Parameters
        ----------
        module
            The model, in evaluation mode.
        slides
            Training slides.
        tile_size, batch_size
            As in :func:`stream_vectors`.
        seed
            Seed of everything random.

        Returns
        -------
        Readout
            The readout.
        """
        chosen = sample_sites(slides, tile_size // 2, seed=seed)
        options = {"tile_size": tile_size, "batch_size": batch_size, "seed": seed}
        vectors = np.concatenate(
            [context_vectors(module, slides[number], sites, **options) for number, sites in chosen.items()]
        )
        scale = float(np.sqrt(vectors.var(axis=0).sum()))
        if scale <= LEAST_SPREAD * np.sqrt(np.square(vectors).sum(axis=1).mean()):
            # An untrained model may give all sites the same vector: rounding errors must not be scaled up.
            scale, vectors = 1.0, np.repeat(vectors[:1], len(vectors), axis=0)
        return cls(scale, NicheCodes.fit(vectors, seed=seed))

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Embedding of sites.

        Parameters
        ----------
        vectors
            Context vectors of the sites (sites x dim).

        Returns
        -------
        numpy.ndarray
            Embedding (sites x (dim + codes)), float32.
        """
        return np.hstack([vectors / self.scale, self.codes(vectors)]).astype(np.float32)

    def tensors(self) -> dict[str, np.ndarray]:
        """Arrays by name, for a checkpoint."""
        codes = {f"codes.{name}": array for name, array in self.codes.tensors.items()}
        return {"scale": np.float32([self.scale]), **codes}

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray]) -> Self:
        """What :meth:`tensors` gave."""
        prefix = "codes."
        codes = {name.removeprefix(prefix): part for name, part in tensors.items() if name.startswith(prefix)}
        return cls(float(tensors["scale"][0]), NicheCodes(codes))


def sample_sites(slides: list[Slide], square: int, *, seed: int) -> dict[int, np.ndarray]:
    """Sites with counts in random squares of the slides, until there are enough of them.

    Squares half as wide as a tile lie in few tiles: of a large slide, only these few are run.

    Parameters
    ----------
    slides
        The slides.
    square
        Rows and columns of a square.
    seed
        Seed of the choice of squares.

    Returns
    -------
    dict
        Sites by the number of their slide.
    """
    squares = []
    for number, slide in enumerate(slides):
        sites = np.flatnonzero(slide.active)
        row, col = slide.site_index[sites].T // square
        place = row * slide.shape[1] + col
        order = np.argsort(place, kind="stable")
        parts = np.split(sites[order], np.flatnonzero(np.diff(place[order])) + 1)
        squares += [(number, part) for part in parts]
    chosen: dict[int, list[np.ndarray]] = {}
    n_missing = MOST_SITES
    for index in np.random.default_rng(seed).permutation(len(squares)):
        number, sites = squares[index]
        chosen.setdefault(number, []).append(sites[:n_missing])
        n_missing -= len(chosen[number][-1])
        if not n_missing:
            break
    return {number: np.concatenate(parts) for number, parts in sorted(chosen.items())}


def context_vectors(
    module: MaskedAutoencoder, slide: Slide, sites: np.ndarray, *, tile_size: int, batch_size: int, seed: int
) -> np.ndarray:
    """Context vectors of some sites of a slide (sites x dim), from the tiles that show them alone."""
    wanted = np.zeros(slide.n_sites, dtype=bool)
    wanted[sites] = True
    shown = np.zeros(slide.shape, dtype=bool)
    for tile in tiles_of(slide, tile_size):
        if wanted[tile.sites[tile.sites >= 0]].any():
            shown[max(tile.top, 0) : tile.top + tile_size, max(tile.left, 0) : tile.left + tile_size] = True
    # Nothing else of the slide is read but its mean, which stays.
    slide = slide.restrict(shown, centre=slide.gene_mean)
    options = {"tile_size": tile_size, "n_genes": None, "batch_size": batch_size, "seed": seed}
    return np.concatenate(
        [vectors for _, vectors in stream_vectors(module, slide, "context", wanted=wanted, **options)]
    )
