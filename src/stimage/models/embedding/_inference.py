from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy import sparse

from stimage.data import Slide, crop, select_window_genes
from stimage.models._devices import to_numpy
from stimage.models.embedding._tiles import Tile, TileInputs, add_vectors, tiles_of
from stimage.modules import MaskedAutoencoder

ROWS_AT_A_TIME = 8192
"""Rows of expression that are read at a time where all of them are needed: a matrix may be on disk."""


def project(
    module: MaskedAutoencoder,
    slide: Slide,
    genes: np.ndarray | None = None,
    *,
    expression: sparse.csr_matrix | None = None,
) -> torch.Tensor:
    """Tokens of sites of a slide from all genes, or from some of them.

    Parameters
    ----------
    module
        The model.
    slide
        The slide.
    genes
        Vocabulary indices; all genes by default.
    expression
        Rows of the slide's expression (sites x genes); all of them by default.

    Returns
    -------
    Tensor
        Tokens (sites x dim).
    """
    embedding = to_numpy(module.genes.embedding.detach())
    if genes is not None:
        subset = np.zeros_like(embedding)
        subset[genes] = embedding[genes]
        embedding = subset
    expression = slide.expression if expression is None else expression
    projected = expression @ embedding - slide.gene_mean @ embedding
    device = module.genes.embedding.device
    return module.genes.normalise(torch.from_numpy(projected.astype(np.float32)).to(device))


def active_rows(*slides: Slide) -> Iterator[tuple[sparse.csr_matrix, ...]]:
    """Expression of the active sites of slides that share them, some rows at a time."""
    sites = np.flatnonzero(slides[0].active)
    for start in range(0, len(sites), ROWS_AT_A_TIME):
        yield tuple(slide.expression[sites[start : start + ROWS_AT_A_TIME]] for slide in slides)


def _sums(values: sparse.csr_matrix) -> np.ndarray:
    return np.asarray(values.sum(axis=0, dtype=np.float64)).ravel()


def gene_variance(slide: Slide) -> np.ndarray:
    """Variance of each gene around the slide's centre over the active sites (genes)."""
    total = np.zeros(slide.expression.shape[1])
    for (rows,) in active_rows(slide):
        total += _sums(rows.multiply(rows))
    return np.maximum(total / max(slide.active.sum(), 1) - slide.gene_mean**2, 0)


def draw_genes(slide: Slide, variance: np.ndarray, n_genes: int, rng: np.random.Generator) -> np.ndarray:
    """Genes that a slide measures, drawn in proportion to their variance (vocabulary indices)."""
    candidates = np.flatnonzero(slide.measured)
    return candidates[select_window_genes(variance[candidates], n_genes, rng=rng)]


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
    near = np.unique(np.concatenate([tile.sites[tile.sites >= 0] for tile in tiles]))
    place = np.full(slide.n_sites + 1, -1)  # the last one is that of no site
    place[near] = np.arange(len(near))
    tokens = project(module, slide, expression=slide.expression[near])
    make_input, visible, wanted = TileInputs(slide, *tiles[0].sites.shape), slide.active[near], hidden[near]
    inputs = [make_input(Tile(tile.top, tile.left, place[tile.sites]), visible, wanted) for tile in tiles]
    total, weights = torch.zeros_like(tokens), tokens.new_zeros(len(tokens))
    add_vectors(module, tokens, inputs, total, weights, batch_size=batch_size)
    nowhere = total.new_full((1, total.shape[1]), torch.nan)  # what the raster does not show
    vectors = torch.cat([total / weights.unsqueeze(-1), nowhere])[place[np.flatnonzero(hidden)]]
    return to_numpy(module.genes.decode_all(vectors))


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
        The slide on the requested scale; in both, only visible sites are used.

    Returns
    -------
    numpy.ndarray
        Expression (predicted sites x genes), float32.
    """
    if scaled.target_sum != slide.target_sum:
        covariance = variance = 0
        for x, y in active_rows(scaled, slide):
            covariance = covariance + _sums(x.multiply(y))
            variance = variance + _sums(x.multiply(x))
        n_sites = slide.active.sum()
        covariance = covariance / n_sites - scaled.gene_mean * slide.gene_mean
        variance = variance / n_sites - scaled.gene_mean**2
        limit = slide.target_sum / scaled.target_sum  # the slope at no expression, the largest there is
        slope = np.divide(covariance, variance, out=np.full_like(variance, limit), where=variance > 1e-12)
        centred = centred * np.clip(slope, 0, max(limit, 1.0))
    # Expression is never negative, a linear read-out can be.
    return np.maximum(centred + slide.gene_mean, 0).astype(np.float32)
