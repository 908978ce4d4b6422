"""Turning the gene embeddings of a trained module to other slides."""

from __future__ import annotations

import copy

import numpy as np
import torch

from stimage.data import Slide, principal_genes
from stimage.models.embedding._inference import project
from stimage.modules import MaskedAutoencoder, SpotAutoencoder


@torch.no_grad()
def turn_genes_to(module: MaskedAutoencoder | SpotAutoencoder, slides: list[Slide]) -> None:
    """Replace gene embeddings by principal axes of some slides, in the orientation that the module is used to.

    The rotation is the orthogonal one that brings tokens from the axes closest to the module's own tokens (Procrustes).

    Parameters
    ----------
    module
        The module, changed in place. Genes that no slide measures stay as they are.
    slides
        Slides over the module's genes.
    """

    def tokens(of: MaskedAutoencoder | SpotAutoencoder) -> np.ndarray:
        parts = [project(of, slide).cpu().numpy()[slide.active] for slide in slides]
        return np.concatenate([part - part.mean(axis=0) for part in parts])

    fresh = copy.deepcopy(module)
    axes, deviation = principal_genes(slides, module.config.dim)
    fresh.genes.start_from_spectrum(torch.from_numpy(axes), torch.from_numpy(deviation))
    left, _, right = np.linalg.svd(tokens(fresh).T @ tokens(module))
    genes, device = module.genes, module.genes.embedding.device
    rotation = torch.as_tensor(left @ right, dtype=genes.embedding.dtype, device=device)
    measured = torch.as_tensor(np.any([slide.measured for slide in slides], axis=0), device=device)
    genes.embedding[measured] = (fresh.genes.embedding @ rotation)[measured]
    genes.output_embedding[measured] = (fresh.genes.output_embedding @ rotation)[measured]
    genes.output_projection.load_state_dict(fresh.genes.output_projection.state_dict())
