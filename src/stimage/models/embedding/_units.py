"""Models of the sample units that the paper compares its windows with: building, embedding, filling in a region."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from stimage.data import NearestSites, SampleUnit, Slide, macro_domains
from stimage.models._devices import to_numpy
from stimage.models.embedding._inference import draw_genes, gene_variance, project
from stimage.models.embedding._site_vectors import N_REPEATS
from stimage.modules import (
    AutoencoderConfig,
    MaskedAutoencoder,
    NeighborhoodAutoencoder,
    SliceAutoencoder,
    SpotAutoencoder,
)

REGION_NEIGHBORS = 16
"""Visible sites whose embeddings are averaged at a hidden one; the paper's way with scGPT-spatial."""


def build_module(n_genes: int, config: AutoencoderConfig, unit: SampleUnit) -> MaskedAutoencoder | SpotAutoencoder:
    """An untrained module of a sample unit."""
    if unit.name == "neighborhood":
        return NeighborhoodAutoencoder(
            n_genes, config, n_neighbors=unit.n_neighbors, neighbor_weights=unit.neighbor_weights
        )
    kinds = {"patch": MaskedAutoencoder, "spot": SpotAutoencoder, "slice": SliceAutoencoder}
    return kinds[unit.name](n_genes, config)


@torch.inference_mode()
def embed_spots(
    module: SpotAutoencoder,
    slide: Slide,
    unit: SampleUnit,
    *,
    n_genes: int | None,
    chunk: int,
    seed: int,
) -> np.ndarray:
    """``h̃`` of every site of a slide, all of whose values are visible.

    Parameters
    ----------
    module
        The model, in evaluation mode.
    slide
        The slide. A site without data enters as one at the mean of every gene, and is in nobody's context.
    unit
        Sample unit of the model.
    n_genes
        Genes drawn in each of some repeats, which are averaged, in proportion to their variance on the slide; all genes when ``None``.
    chunk
        Sites in a forward pass.
    seed
        Seed of the draws and of the macro-domains.

    Returns
    -------
    numpy.ndarray
        Embeddings (sites x dim), float32.
    """
    rng = np.random.default_rng(seed)
    n_draws = 1 if n_genes is None else N_REPEATS
    variance = None if n_genes is None else gene_variance(slide)
    if unit.name == "neighborhood":
        context = NearestSites(slide)(np.arange(slide.n_sites), unit.n_neighbors)
    else:
        context = _domains_of_all_sites(slide, unit, seed) if unit.name == "slice" else None
    total = 0
    for _ in range(n_draws):
        tokens = project(module, slide, None if n_genes is None else draw_genes(slide, variance, n_genes, rng))
        empty = torch.as_tensor(~slide.active, device=tokens.device)
        tokens = torch.where(empty.unsqueeze(-1), module.genes.normalise(torch.zeros_like(tokens[:1])), tokens)
        spots = torch.cat([module.encode(part) for part in tokens.split(chunk)])
        placed = _in_context(module, slide, spots, context, chunk)
        total = total + torch.cat([module.finish(part) for part in placed])
    return to_numpy(total / n_draws)


def _domains_of_all_sites(slide: Slide, unit: SampleUnit, seed: int) -> np.ndarray:
    """Macro-domain of every site; of one without data that of the nearest site with data."""
    domains = macro_domains(slide, unit.n_macro_domains, seed=seed)
    empty = np.flatnonzero(domains < 0)
    domains[empty] = domains[NearestSites(slide)(empty, 1)[:, 0]]
    return domains


def _in_context(
    module: SpotAutoencoder, slide: Slide, spots: torch.Tensor, context: np.ndarray | None, chunk: int
) -> Iterator[torch.Tensor]:
    """All spots (sites x dim), fused with what ``context`` says: neighbours, macro-domain or nothing."""
    if isinstance(module, NeighborhoodAutoencoder):
        near = torch.as_tensor(context, device=spots.device)
        for part, neighbors in zip(spots.split(chunk), near.split(chunk), strict=True):
            yield module.combine(part, spots[neighbors.clamp(min=0)], neighbors >= 0)
    elif isinstance(module, SliceAutoencoder):
        active, domains = (torch.as_tensor(part, device=spots.device) for part in (slide.active, context))
        means = module.domain_means(*(part.unsqueeze(0) for part in (spots, active, domains)))[0]
        for part, mean in zip(spots.split(chunk), means.split(chunk), strict=True):
            yield module.fusion(part, mean)
    else:
        yield from spots.split(chunk)


@torch.inference_mode()
def reconstruct_from_nearest(
    module: SpotAutoencoder, slide: Slide, unit: SampleUnit, hidden: np.ndarray, *, chunk: int
) -> np.ndarray:
    """Centred expression of hidden sites: the mean embedding of the nearest visible sites, decoded.

    Parameters
    ----------
    module
        The model, in evaluation mode.
    slide
        The slide. Its means are taken over the visible sites: nothing of the hidden sites is used.
    unit
        ``"spot"`` or ``"neighborhood"``.
    hidden
        Sites to reconstruct (sites), at least one.
    chunk
        Sites in a forward pass.

    Returns
    -------
    numpy.ndarray
        Expression on the slide's scale minus its means over the visible sites (hidden sites x genes), float32.
    """
    slide = slide.hide(hidden)
    vectors = embed_spots(module, slide, unit, n_genes=None, chunk=chunk, seed=0)
    near = NearestSites(slide)(np.flatnonzero(hidden), REGION_NEIGHBORS)
    known = (near >= 0).astype(np.float32)
    mean = (vectors[near] * known[..., None]).sum(axis=1) / known.sum(axis=1, keepdims=True)
    return to_numpy(module.genes.decode_all(torch.as_tensor(mean, device=module.genes.embedding.device)))
