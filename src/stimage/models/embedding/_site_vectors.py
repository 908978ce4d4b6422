from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch

from stimage.data import Slide
from stimage.models._devices import to_numpy
from stimage.models.embedding._inference import draw_genes, gene_variance, project
from stimage.models.embedding._tiles import TileInputs, add_vectors, tile_row, tile_starts
from stimage.modules import MaskedAutoencoder
from stimage.train._processes import part_of_process, sum_over_processes

EmbeddingMode = Literal["visible", "context"]
EMBEDDING_MODES: tuple[EmbeddingMode, ...] = get_args(EmbeddingMode)
N_REPEATS = 3
"""How often the choice of masked sites, and the draw of genes, are repeated and averaged."""


def plan_passes(
    slide: Slide, mode: EmbeddingMode, *, n_genes: int | None, seed: int, n_repeats: int = N_REPEATS
) -> list[tuple[np.ndarray | None, list[np.ndarray]]]:
    """Passes over a slide: genes that its tokens are made of, and the sites that are masked in each pass with them.

    Masked sites are drawn for the whole slide, one byte a site. With ``mode="context"`` a random half is masked, then the
    other half.
    """
    rng = np.random.default_rng([seed, EMBEDDING_MODES.index(mode)])

    def masked() -> list[np.ndarray]:
        if mode == "visible":
            return [np.zeros(slide.n_sites, dtype=bool)]
        half = rng.permutation(slide.n_sites) % 2 == 0
        return [half, ~half]

    if n_genes is None:
        # Without draws of genes, every repeat with all sites visible would be the same.
        n_repeats = 1 if mode == "visible" else n_repeats
        return [(None, [part for _ in range(n_repeats) for part in masked()])]
    variance = gene_variance(slide)
    return [(draw_genes(slide, variance, n_genes, rng), masked()) for _ in range(n_repeats)]


class SlideRows:
    """Consecutive rows of a slide's raster, which move down: tokens of their sites, and sums over tiles so far.

    Parameters
    ----------
    module
        The model.
    slide
        The slide.
    draws
        Genes that tokens are made of: all genes (``None``) or some (vocabulary indices), for each draw.
    """

    def __init__(self, module: MaskedAutoencoder, slide: Slide, draws: Sequence[np.ndarray | None]) -> None:
        self.module, self.slide, self.draws = module, slide, draws
        self.first = self.stop = 0
        self.sites = np.zeros(0, dtype=np.int64)
        empty = module.genes.embedding.new_zeros((0, module.config.dim))
        self.tokens = [empty for _ in draws]
        self.total, self.weights = empty, empty[:, 0]

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
        added = self.total.new_zeros((len(sites), self.total.shape[1]))
        self.total, self.weights = torch.cat([self.total, added]), torch.cat([self.weights, added[:, 0]])

    def raster(self) -> np.ndarray:
        """The rows as an image of places among their sites, -1 where there is no tissue."""
        raster = np.where(self.slide.raster[self.first : self.stop] >= 0, 0, -1)
        raster[raster == 0] = np.arange(len(self.sites))
        return raster

    def finish(
        self, stop: int, *, summed: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Forget the rows up to ``stop``: their sites, and the sites' mean vectors over tiles; ``summed`` adds up parts."""
        done = int((self.slide.raster[self.first : stop] >= 0).sum())
        self.first = stop
        parts = torch.cat([self.total[:done], self.weights[:done].unsqueeze(-1)], dim=1)
        parts = parts if summed is None else summed(parts)
        vectors = to_numpy(parts[:, :-1] / parts[:, -1:])
        self.total, self.weights = self.total[done:], self.weights[done:]
        self.tokens = [tokens[done:] for tokens in self.tokens]
        sites, self.sites = self.sites[:done], self.sites[done:]
        return sites, vectors


@torch.inference_mode()
def stream_vectors(
    module: MaskedAutoencoder,
    slide: Slide,
    mode: EmbeddingMode,
    *,
    tile_size: int,
    n_genes: int | None,
    batch_size: int,
    seed: int,
    n_repeats: int = N_REPEATS,
    shared: bool = False,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Encoder output at the sites of a slide, from its first rows to its last.

    Tiles cover the slide row by row. What is held at a time is one row of tiles, however many there are.

    Parameters
    ----------
    module
        The model, in evaluation mode.
    slide
        The slide.
    mode
        ``"visible"``: the output at a visible site; ``"context"``: at a site while it is masked together with a random half
        of the slide.
    tile_size
        Rows and columns of the tiles.
    n_genes
        Genes drawn in each repeat in proportion to their variance on the slide; all genes when ``None``.
    batch_size
        Tiles in a forward pass.
    seed
        Seed of the choice of masked sites and of the draws.
    n_repeats
        How often both are repeated.
    shared
        Divide the tiles among the processes of a training, all of which call this for the same slide and get all vectors.

    Yields
    ------
    tuple
        Some sites and their vectors (sites x dim, float32). Sites that the raster does not show do not appear.
    """
    plan = plan_passes(slide, mode, n_genes=n_genes, seed=seed, n_repeats=n_repeats)
    own = part_of_process() if shared else slice(None)
    make_input = TileInputs(slide, tile_size, tile_size)
    rows = SlideRows(module, slide, [genes for genes, _ in plan])
    tops = tile_starts(slide.shape[0], tile_size)
    for top, stop in pairwise([*tops, slide.shape[0]]):
        rows.extend(top + tile_size)
        tiles = tile_row(rows.raster(), top, tile_size, first=rows.first)
        active = slide.active[rows.sites]
        everything = np.ones(len(active), dtype=bool)
        for tokens, (_, passes) in zip(rows.tokens, plan, strict=True):
            inputs = []
            for masked in passes:
                hidden = masked[rows.sites]
                output = everything if mode == "visible" else hidden
                inputs += [make_input(tile, active & ~hidden, output) for tile in tiles]
            inputs = inputs[own]
            add_vectors(module, tokens, inputs, rows.total, rows.weights, batch_size=batch_size)
        yield rows.finish(stop, summed=sum_over_processes if shared else None)
