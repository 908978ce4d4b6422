from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Literal

import numpy as np
import torch

from stimage.data import Slide
from stimage.models._inference import draw_genes, gene_variance, project
from stimage.models._tiles import Looks, add_vectors, tile_row, tile_starts
from stimage.modules import MaskedAutoencoder

View = Literal["visible", "context", "surroundings"]
VIEWS: tuple[View, ...] = ("visible", "context", "surroundings")
EmbeddingMode = Literal["visible", "context", "surroundings", "combined"]
EMBEDDING_MODES: tuple[EmbeddingMode, ...] = (*VIEWS, "combined")
N_PARTS: dict[View, int] = {"visible": 1, "context": 2, "surroundings": 10}
"""Random parts that the sites of a slide are divided into, for each repeat of a view."""


@dataclass(frozen=True)
class Repeat:
    """One repeat of a view: parts of the slide, and from which genes its tokens are made.

    Parameters
    ----------
    view
        The view.
    draw
        Number of the draw of genes.
    part
        Random part of the slide that each site is in (sites), one byte each: a repeat is drawn for the whole slide.
    """

    view: View
    draw: int
    part: np.ndarray

    def passes(self, sites: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Which of some sites are hidden in each pass, and of which the vectors count: every site's in one at least."""
        if self.view == "visible":
            return [(np.zeros(len(sites), dtype=bool), np.ones(len(sites), dtype=bool))]
        part = self.part[sites]
        hidden = [(part == number) if self.view == "context" else (part != number) for number in (0, 1)]
        return [(some, some) for some in hidden]


def plan_repeats(
    slide: Slide, names: Sequence[View], *, n_repeats: int, n_genes: int | None, seed: int
) -> tuple[list[Repeat], list[np.ndarray | None]]:
    """Repeats of some views, and the genes of each draw (vocabulary indices; all when ``None``)."""
    variance = None if n_genes is None else gene_variance(slide)
    repeats: list[Repeat] = []
    draws: list[np.ndarray | None] = [] if n_genes is not None else [None]
    for name in names:
        rng = np.random.default_rng([seed, VIEWS.index(name)])
        for _ in range(1 if name == "visible" and n_genes is None else n_repeats):
            if n_genes is not None:
                draws.append(draw_genes(slide, variance, n_genes, rng))
            n_parts = N_PARTS[name]
            part = rng.permutation(slide.n_sites) % n_parts if n_parts > 1 else np.zeros(slide.n_sites)
            repeats.append(Repeat(name, len(draws) - 1, part.astype(np.uint8)))
    return repeats, draws


class Band:
    """Consecutive rows of a slide's raster, which move on: tokens of their sites, and sums over windows so far.

    Parameters
    ----------
    module
        The model.
    slide
        The slide.
    names
        Views that are summed up.
    draws
        Genes of each draw.
    """

    def __init__(
        self, module: MaskedAutoencoder, slide: Slide, names: Sequence[View], draws: list[np.ndarray | None]
    ) -> None:
        self.module, self.slide, self.draws = module, slide, draws
        self.first = self.stop = 0
        self.sites = np.zeros(0, dtype=np.int64)
        empty = module.genes.embedding.new_zeros((0, module.config.dim))
        self.tokens = [empty for _ in draws]
        self.totals = dict.fromkeys(names, empty)
        self.weights = dict.fromkeys(names, empty[:, 0])

    def extend(self, stop: int) -> None:
        """Read the rows up to ``stop``."""
        raster = self.slide.raster[self.stop : stop]
        self.stop = max(stop, self.stop)
        sites = raster[raster >= 0].astype(np.int64)
        if not len(sites):
            return
        self.sites = np.concatenate([self.sites, sites])
        # In raster order, sites are one run of rows of the expression matrix.
        rows = slice(sites[0], sites[-1] + 1) if (np.diff(sites) == 1).all() else sites
        expression = self.slide.expression[rows]
        for number, genes in enumerate(self.draws):
            tokens = project(self.module, self.slide, genes, expression=expression)
            self.tokens[number] = torch.cat([self.tokens[number], tokens])
        for name, total in self.totals.items():
            added = total.new_zeros((len(sites), total.shape[1]))
            self.totals[name] = torch.cat([total, added])
            self.weights[name] = torch.cat([self.weights[name], added[:, 0]])

    def raster(self) -> np.ndarray:
        """The rows as an image of places in the band, -1 where there is no tissue."""
        raster = np.where(self.slide.raster[self.first : self.stop] >= 0, 0, -1)
        raster[raster == 0] = np.arange(len(self.sites))
        return raster

    def finish(self, stop: int) -> tuple[np.ndarray, dict[View, np.ndarray]]:
        """Forget the rows up to ``stop``: their sites, and the mean vectors of each view."""
        done = int((self.slide.raster[self.first : stop] >= 0).sum())
        self.first = stop
        views = {}
        for name, total in self.totals.items():
            views[name] = (total[:done] / self.weights[name][:done].unsqueeze(-1)).cpu().numpy()
            self.totals[name], self.weights[name] = total[done:], self.weights[name][done:]
        self.tokens = [tokens[done:] for tokens in self.tokens]
        sites, self.sites = self.sites[:done], self.sites[done:]
        return sites, views


@torch.inference_mode()
def stream_views(
    module: MaskedAutoencoder,
    slide: Slide,
    names: Sequence[View],
    *,
    tile_size: int,
    n_repeats: int,
    n_genes: int | None,
    batch_size: int,
    seed: int,
) -> Iterator[tuple[np.ndarray, dict[View, np.ndarray]]]:
    """What the model says of every site of a slide, seen in different ways, from its first rows to its last.

    Windows cover the slide row by row. What is held at a time is one row of windows, however many there are.

    Parameters
    ----------
    module
        The model, in evaluation mode.
    slide
        The slide.
    names
        Views: ``"visible"``, the site is seen; ``"context"``, it is hidden together with a random half of the slide, and
        so is the other half in a second pass; ``"surroundings"``, it is hidden together with nine tenths of the slide.
    tile_size
        Rows and columns of the windows.
    n_repeats
        Repetitions that are averaged: of the choice of hidden sites, and of the draw of genes.
    n_genes
        Genes drawn in each repeat in proportion to their variance on the slide; all genes when ``None``.
    batch_size
        Windows in a forward pass.
    seed
        Seed of the choice of sites and of the draws.

    Yields
    ------
    tuple
        Some sites, and a view's vectors of them (sites x dim, float32) by its name. Sites that the raster does not show
        do not appear.
    """
    repeats, draws = plan_repeats(slide, names, n_repeats=n_repeats, n_genes=n_genes, seed=seed)
    looks_at = Looks(slide, tile_size, tile_size)
    band = Band(module, slide, names, draws)
    tops = tile_starts(slide.shape[0], tile_size)
    for top, stop in pairwise([*tops, slide.shape[0]]):
        band.extend(top + tile_size)
        tiles = tile_row(band.raster(), top, tile_size, first=band.first)
        active = slide.active[band.sites]
        for (view, draw), group in groupby(repeats, key=lambda repeat: (repeat.view, repeat.draw)):
            looks = [
                looks_at(tile, active & ~hidden, told)
                for repeat in group
                for hidden, told in repeat.passes(band.sites)
                for tile in tiles
            ]
            total, weights = band.totals[view], band.weights[view]
            add_vectors(module, band.tokens[draw], looks, total, weights, batch_size=batch_size)
        yield band.finish(stop)


def views_of(
    module: MaskedAutoencoder, slide: Slide, names: Sequence[View], sites: np.ndarray, **options: int | None
) -> dict[View, np.ndarray]:
    """The views of some sites of a slide by name (sites x dim, float32), see :func:`stream_views`.

    Sites that the raster does not show are NaN.
    """
    place = np.full(slide.n_sites, -1)
    place[sites] = np.arange(len(sites))
    views = {name: np.full((len(sites), module.config.dim), np.nan, dtype=np.float32) for name in names}
    for told, vectors in stream_views(module, slide, names, **options):
        wanted = place[told] >= 0
        for name, part in vectors.items():
            views[name][place[told][wanted]] = part[wanted]
    return views
