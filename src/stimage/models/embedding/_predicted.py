from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from stimage.data import Slide
from stimage.models._devices import to_numpy
from stimage.models.embedding._axes import own_axes
from stimage.models.embedding._readout import Readout, sample
from stimage.models.embedding._site_vectors import N_REPEATS, stream_vectors
from stimage.modules import MaskedAutoencoder

MOST_SITES = 10_000
"""Sites of the training slides that a readout is fitted on at most."""


def fitted_readout(
    module: MaskedAutoencoder,
    slides: Sequence[Slide],
    *,
    tile_size: int,
    batch_size: int,
    seed: int,
    shared: bool = False,
) -> Readout:
    """Readout of a model on the principal axes of its training slides, fitted on some of their sites.

    Parameters
    ----------
    module
        The model, in evaluation mode.
    slides
        Training slides.
    tile_size, batch_size, seed, shared
        As in :func:`stream_vectors`.

    Returns
    -------
    Readout
        The readout.
    """
    axes = own_axes(slides)
    parts, sites = zip(*sample(slides, MOST_SITES, seed=seed).values(), strict=True)
    # Each site is predicted once: more repeats change a fit to thousands of sites less than another seed does.
    options = {"tile_size": tile_size, "batch_size": batch_size, "seed": seed, "n_repeats": 1, "shared": shared}
    predicted = [predicted_components(module, slide, axes, **options) for slide in parts]
    return Readout.fit(parts, sites, axes, predicted, seed=seed)


@torch.inference_mode()
def predicted_components(
    module: MaskedAutoencoder,
    slide: Slide,
    axes: np.ndarray,
    *,
    tile_size: int,
    batch_size: int,
    seed: int,
    n_genes: int | None = None,
    n_repeats: int = N_REPEATS,
    shared: bool = False,
) -> np.ndarray:
    """Principal components of each site as a model predicts them while the site is masked with a random half of the slide.

    Parameters
    ----------
    module
        The model, in evaluation mode.
    slide
        The slide, on the model's genes and scale.
    axes
        Principal axes over the model's genes (genes x components), zero where they have none of a gene.
    tile_size, batch_size, seed, n_genes, n_repeats, shared
        As in :func:`stream_vectors`.

    Returns
    -------
    numpy.ndarray
        Components (sites x components), centred over the sites with counts, float32; 0 at sites that the raster does not show.
    """
    measured = np.where(slide.measured[:, None], axes, 0).astype(np.float32)
    directions = to_numpy(module.genes.output_embedding.detach()).T @ measured
    components = np.zeros((slide.n_sites, axes.shape[1]), dtype=np.float32)
    options = {"tile_size": tile_size, "batch_size": batch_size, "seed": seed, "n_genes": n_genes}
    options |= {"n_repeats": n_repeats, "shared": shared}
    done = np.zeros(slide.n_sites, dtype=bool)
    device = module.genes.output_embedding.device
    for sites, vectors in stream_vectors(module, slide, "context", **options):
        latent = module.genes.output_projection(torch.from_numpy(vectors).to(device))
        components[sites] = to_numpy(latent) @ directions
        done[sites] = True
    if (done & slide.active).any():
        components[done] -= components[done & slide.active].mean(axis=0)
    return components
