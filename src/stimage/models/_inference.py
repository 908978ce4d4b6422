from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from stimage.data import Slide, crop, window_positions
from stimage.modules import MaskedAutoencoder

View = Literal["visible", "context", "surroundings"]
VIEWS: tuple[View, ...] = ("visible", "context", "surroundings")
EmbeddingMode = Literal["visible", "context", "surroundings", "combined"]
EMBEDDING_MODES: tuple[EmbeddingMode, ...] = (*VIEWS, "combined")


@dataclass(frozen=True)
class Tile:
    """A window of a slide at inference: where it is and which sites it shows (-1 where there is no tissue)."""

    top: int
    left: int
    sites: np.ndarray


def tiles_of(slide: Slide, size: int) -> list[Tile]:
    """Overlapping windows that cover a slide, half a window apart; windows without tissue are left out."""

    def starts(length: int) -> list[int]:
        if length <= size:
            return [(length - size) // 2]
        return sorted({*range(0, length - size, max(size // 2, 1)), length - size})

    tiles = []
    for top in starts(slide.shape[0]):
        for left in starts(slide.shape[1]):
            sites = crop(slide.raster, top, left, size, size)
            if (sites >= 0).any():
                tiles.append(Tile(top, left, sites))
    return tiles


def project(module: MaskedAutoencoder, slide: Slide, genes: np.ndarray | None = None) -> torch.Tensor:
    """Tokens of all sites of a slide (sites x dim) from all genes, or from some of them (vocabulary indices)."""
    embedding = module.genes.embedding.detach().cpu().numpy()
    if genes is not None:
        subset = np.zeros_like(embedding)
        subset[genes] = embedding[genes]
        embedding = subset
    projected = slide.expression @ embedding - slide.gene_mean @ embedding
    device = module.genes.embedding.device
    return module.genes.normalise(torch.from_numpy(projected.astype(np.float32)).to(device))


def site_vectors(
    module: MaskedAutoencoder,
    slide: Slide,
    tokens: torch.Tensor,
    hidden: np.ndarray,
    tiles: list[Tile],
    *,
    batch_size: int,
) -> torch.Tensor:
    """Site vectors of a slide while some sites are hidden, averaged over the tiles that cover a site.

    Parameters
    ----------
    module
        The model.
    slide
        The slide.
    tokens
        Tokens of its sites (sites x dim).
    hidden
        Sites hidden (sites); sites without counts always are.
    tiles
        Windows of one size.
    batch_size
        Windows in a forward pass.

    Returns
    -------
    Tensor
        Vectors (sites x dim); NaN for sites that no tile covers. A site counts more in a tile the farther it is from
        the tile's border, where it has its surroundings on all sides.
    """
    device = tokens.device
    height, width = tiles[0].sites.shape
    from_border = [np.minimum(np.arange(n), np.arange(n)[::-1]) + 1.0 for n in (height, width)]
    weight = torch.as_tensor(np.outer(*from_border).ravel(), dtype=torch.float32, device=device)
    hidden_sites = torch.as_tensor(hidden | ~slide.active, device=device)
    total = torch.zeros(len(tokens), tokens.shape[1], device=device)
    weights = torch.zeros(len(tokens), device=device)
    for batch in _batches(tiles, batch_size):
        sites = torch.as_tensor(np.stack([tile.sites.ravel() for tile in batch]), dtype=torch.long, device=device)
        positions = np.stack([window_positions(slide, tile.top, tile.left, height, width) for tile in batch])
        tissue = sites >= 0
        known = sites.clamp(min=0)
        vectors = module(tokens[known], torch.as_tensor(positions, device=device), tissue, hidden_sites[known] & tissue)
        share = weight.expand(len(batch), -1)[tissue]
        total.index_add_(0, sites[tissue], vectors[tissue] * share.unsqueeze(-1))
        weights.index_add_(0, sites[tissue], share)
    return total / torch.where(weights > 0, weights, torch.nan).unsqueeze(-1)


def _batches(tiles: list[Tile], batch_size: int) -> Iterator[list[Tile]]:
    for start in range(0, len(tiles), batch_size):
        yield tiles[start : start + batch_size]


@torch.inference_mode()
def site_views(
    module: MaskedAutoencoder,
    slide: Slide,
    names: Sequence[View],
    *,
    tile_size: int,
    n_repeats: int,
    n_genes: int | None,
    batch_size: int,
    seed: int,
) -> dict[View, np.ndarray]:
    """What the model says of every site of a slide, seen in different ways.

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

    Returns
    -------
    dict
        A view's vectors (sites x dim, float32) by its name.
    """
    tiles = tiles_of(slide, tile_size)
    all_genes = project(module, slide) if n_genes is None else None
    views = {}
    for name in names:
        rng = np.random.default_rng([seed, VIEWS.index(name)])
        total, times = 0, torch.zeros(slide.n_sites, 1)
        for _ in range(1 if name == "visible" and n_genes is None else n_repeats):
            tokens = project(module, slide, draw_genes(slide, n_genes, rng)) if all_genes is None else all_genes
            for hidden in _hidden_sets(name, slide.n_sites, rng):
                vectors = site_vectors(module, slide, tokens, hidden, tiles, batch_size=batch_size)
                told = (
                    torch.ones(slide.n_sites, 1) if name == "visible" else torch.as_tensor(hidden).unsqueeze(1).float()
                )
                total = total + torch.where(told.bool(), vectors.cpu(), 0.0)
                times = times + told
        views[name] = (total / times).numpy().astype(np.float32)
    return views


def _hidden_sets(view: View, n_sites: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Which sites are hidden in each pass of a repeat; every site is hidden in one of them at least."""
    if view == "visible":
        return [np.zeros(n_sites, dtype=bool)]
    if view == "context":
        half = rng.permutation(n_sites) % 2 == 0
        return [half, ~half]
    part = rng.permutation(n_sites) % 10
    return [part != 0, part != 1]


def draw_genes(slide: Slide, n_genes: int, rng: np.random.Generator) -> np.ndarray:
    from stimage.data import select_window_genes

    candidates = np.flatnonzero(slide.measured)
    expression = slide.expression[slide.active]
    variance = np.asarray(expression.multiply(expression).mean(axis=0)).ravel() - slide.gene_mean**2
    return candidates[select_window_genes(np.maximum(variance, 0)[candidates], n_genes, rng=rng)]


@torch.inference_mode()
def reconstruct_slide(
    module: MaskedAutoencoder, slide: Slide, hidden: np.ndarray, *, context: int, tile_size: int, batch_size: int
) -> np.ndarray:
    """Centred expression of hidden sites, predicted from the sites around them.

    Parameters
    ----------
    module
        The model, in evaluation mode.
    slide
        The slide. Its means are taken over the visible sites: nothing of the hidden sites is used.
    hidden
        Sites to reconstruct (sites), at least one.
    context
        Sites of surroundings that a window has on every side of the hidden sites.
    tile_size
        Largest window. A hidden region that needs more is covered by several.
    batch_size
        Windows in a forward pass.

    Returns
    -------
    numpy.ndarray
        Expression on the slide's scale minus its means over the visible sites (hidden sites x genes), float32.
    """
    slide = slide.hide(hidden)
    shown = np.isin(slide.raster, np.flatnonzero(hidden))
    rows, cols = np.nonzero(shown)
    top, left = rows.min() - context, cols.min() - context
    height, width = rows.max() + context + 1 - top, cols.max() + context + 1 - left
    if max(height, width) <= tile_size:
        tiles = [Tile(int(top), int(left), crop(slide.raster, top, left, height, width))]
    else:
        tiles = [tile for tile in tiles_of(slide, tile_size) if hidden[tile.sites[tile.sites >= 0]].any()]
    vectors = site_vectors(module, slide, project(module, slide), hidden, tiles, batch_size=batch_size)
    return module.genes.decode_all(vectors[torch.as_tensor(hidden)]).cpu().numpy()


def uncentred(centred: np.ndarray, scaled: Slide, slide: Slide) -> np.ndarray:
    """Expression on a slide's own scale from centred predictions on another.

    Both scales are increasing functions of the same counts, and predictions lie near a gene's mean: gene by gene, one
    scale is regressed on the other.

    Parameters
    ----------
    centred
        Predictions on the scale of ``scaled``, minus its means (predicted sites x genes).
    scaled
        The slide on the scale of the predictions.
    slide
        The slide on the scale that is asked for; in both, only visible sites are looked at.

    Returns
    -------
    numpy.ndarray
        Expression (predicted sites x genes), float32.
    """
    if scaled.target_sum != slide.target_sum:
        x, y = scaled.expression[scaled.active], slide.expression[slide.active]
        covariance = np.asarray(x.multiply(y).mean(axis=0)).ravel() - scaled.gene_mean * slide.gene_mean
        variance = np.asarray(x.multiply(x).mean(axis=0)).ravel() - scaled.gene_mean**2
        limit = slide.target_sum / scaled.target_sum  # the slope at no expression, the largest there is
        slope = np.divide(covariance, variance, out=np.full_like(variance, limit), where=variance > 1e-12)
        centred = centred * np.clip(slope, 0, max(limit, 1.0))
    # Expression is never negative, a linear read-out can be.
    return np.maximum(centred + slide.gene_mean, 0).astype(np.float32)
