from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from stimage.data import Slide
from stimage.models._codebook import Codebook
from stimage.models._views import VIEWS, View, views_of
from stimage.modules import MaskedAutoencoder

WEIGHTS: dict[str, float] = {"visible": 0.5, "context": 1.0, "surroundings": 1.0, "codes": 1.2}
"""Spread of each part of the combined embedding. The site itself is the noisiest of its views."""
ENOUGH_SITES = 10_000
"""Sites on which a readout is fitted, in whole slides."""
MOST_SITES = 50_000
"""Sites of a slide that it is fitted on at most, chosen at random."""


@dataclass
class Readout:
    """Combines the views of a site to one embedding: side by side with its codes, each scaled to its weight.

    Scales and codes are those of the training slides, so that embeddings of different slides can be compared.

    Parameters
    ----------
    scales
        Spread of each view on the training slides.
    codebook
        Codes of the training slides.
    """

    scales: dict[View, float]
    codebook: Codebook

    @classmethod
    def fit(
        cls,
        module: MaskedAutoencoder,
        slides: list[Slide],
        *,
        tile_size: int,
        n_repeats: int,
        batch_size: int,
        seed: int,
    ) -> Self:
        """Fit a readout on slides, whole ones in random order until there are enough sites.

        Parameters
        ----------
        module
            The model, in evaluation mode.
        slides
            Training slides.
        tile_size, n_repeats, batch_size
            As in :func:`stream_views`.
        seed
            Seed of everything random.

        Returns
        -------
        Readout
            The readout.
        """
        rng = np.random.default_rng(seed)
        views: dict[View, list[np.ndarray]] = {name: [] for name in VIEWS}
        n_sites = 0
        options = {"tile_size": tile_size, "n_repeats": n_repeats, "n_genes": None, "batch_size": batch_size}
        for number in rng.permutation(len(slides)):
            slide = slides[number]
            chosen = np.flatnonzero(slide.active)
            if len(chosen) > MOST_SITES:
                chosen = np.sort(rng.choice(chosen, MOST_SITES, replace=False))
            for name, vectors in views_of(module, slide, VIEWS, chosen, seed=seed, **options).items():
                views[name].append(vectors)
            n_sites += len(chosen)
            if n_sites >= ENOUGH_SITES:
                break
        stacked = {name: np.concatenate(parts) for name, parts in views.items()}
        scales = {name: float(np.sqrt(vectors.var(axis=0).sum())) or 1.0 for name, vectors in stacked.items()}
        readout = cls(scales, Codebook({}))
        readout.codebook = Codebook.fit(readout._described(stacked), seed=seed)
        return readout

    def _described(self, views: dict[View, np.ndarray]) -> list[np.ndarray]:
        """What the codes are fitted to: context near and far, and the site beside its context."""
        visible, context, surroundings = (views[name] / self.scales[name] for name in VIEWS)
        return [context, surroundings, np.hstack([visible, context])]

    def __call__(self, views: dict[View, np.ndarray]) -> np.ndarray:
        """Embedding of sites.

        Parameters
        ----------
        views
            Every view of the sites (each sites x dim).

        Returns
        -------
        numpy.ndarray
            Embedding (sites x (3 dim + codes)), float32.
        """
        parts = {name: views[name] / self.scales[name] for name in VIEWS}
        parts["codes"] = self.codebook(self._described(views))
        return np.hstack([WEIGHTS[name] * part for name, part in parts.items()]).astype(np.float32)

    @property
    def n_codes(self) -> int:
        """Length of the codes of a site."""
        return len(self.codebook.tensors["axes"])

    def tensors(self) -> dict[str, np.ndarray]:
        """Arrays by name, for a checkpoint."""
        scales = {f"scale.{name}": np.float32([scale]) for name, scale in self.scales.items()}
        return scales | {f"codebook.{name}": array for name, array in self.codebook.tensors.items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray]) -> Self:
        """What :meth:`tensors` gave."""
        scales = {name: float(tensors[f"scale.{name}"][0]) for name in VIEWS}
        prefix = "codebook."
        return cls(scales, Codebook({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}))
