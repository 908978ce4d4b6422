"""The module of an aligner: built for the inputs of slides, started in closed form, and used to compute vectors."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from stimage.data import PairedSlide, principal_genes
from stimage.data.sampling._alignment_data import in_order
from stimage.models.alignment._expression_head import ExpressionHead
from stimage.models.alignment._image_basis import ImageBasis
from stimage.modules import AlignerConfig, AlignmentBatch, ImageEncoder, SpotNicheAligner

Modality = Literal["image", "gene", "fused"]
Level = Literal["spot", "niche", "both"]
_BATCH_SIZE = 512
_START_COMPONENTS = 32
_SMALLEST_SPREAD = 1e-3


def build_aligner(
    config: AlignerConfig,
    *,
    n_genes: int,
    n_spot_genes: int,
    niches: bool,
    basis: ImageBasis | None,
    trained_encoder: ImageEncoder | None,
) -> SpotNicheAligner:
    """An untrained module.

    Parameters
    ----------
    config
        Its sizes.
    n_genes
        Genes of the vocabulary, which niches are described by.
    n_spot_genes
        Numbers that describe the expression of a spot.
    niches
        Whether niches are seen.
    basis
        Components of image features, if there are any.
    trained_encoder
        Encoder of pixels of spots that is trained along.

    Returns
    -------
    stimage.modules.SpotNicheAligner
        The module.
    """
    sizes: dict[str, Any] = {"n_spot_genes": n_spot_genes}
    if niches:
        sizes["n_niche_genes"] = n_genes
    if trained_encoder is not None:
        sizes["n_spot_image"] = trained_encoder.config.width
        sizes["spot_image_encoder"] = trained_encoder.requires_grad_(True)
    elif basis is not None:
        sizes["n_spot_image"] = basis.n_spot_image
    if niches and basis is not None:
        sizes["n_niche_image"] = basis.n_niche_image
    return SpotNicheAligner(config, **sizes)


def n_head_inputs(config: AlignerConfig, *, niches: bool) -> int:
    """What the regression of expression sees of a spot: image vectors of the spot, and of its niche."""
    return config.dim * (2 if niches else 1)


def start_from_spectrum(
    module: SpotNicheAligner, slides: list[PairedSlide], *, niches: bool, frozen_genes: bool
) -> None:
    """Start gene tokens as principal components of expression, image tokens as their regression on the image.

    Parameters
    ----------
    module
        The module, changed in place.
    slides
        Slides as the module sees them.
    niches
        Whether niches are seen.
    frozen_genes
        Whether spots come as vectors of a frozen encoder, which have no such components.
    """
    number = min(_START_COMPONENTS, module.config.dim)
    axes, deviation = principal_genes([slide.slide for slide in slides], number)
    # With few spots the last directions have no spread but that of rounding.
    varies = deviation > _SMALLEST_SPREAD * deviation[0]
    axes, deviation = axes[:, varies], deviation[varies]
    typical = float(np.sqrt((deviation**2).mean()))
    axes = axes / typical
    # What is compared starts halfway to components of equal spread: the first ones lead, the others are heard.
    scale = torch.from_numpy(np.sqrt(typical / deviation))
    batches = [slide.batch(np.flatnonzero(slide.measured)) for slide in slides]
    for level in ("spot", "niche") if niches else ("spot",):
        if level == "spot" and frozen_genes:
            continue
        module.start_from(level, "gene", torch.from_numpy(axes), scale)
        scores = [batch[f"{level}_genes"] @ axes for batch in batches]
        images = [batch.get(f"{level}_image") for batch in batches]
        if images[0] is not None and images[0].dtype != np.uint8:
            head = ExpressionHead.fit(images, scores)
            module.start_from(level, "image", torch.from_numpy(head.weights.astype(np.float32)), scale)


@torch.no_grad()
def vectors(
    module: SpotNicheAligner, slides: list[PairedSlide], modality: Modality, level: Level = "spot"
) -> np.ndarray:
    """Vectors of the spots of slides, slide after slide (spots x dimensions), float32."""
    module.eval()
    levels = ("spot", "niche") if level == "both" else (level,)
    device = next(module.parameters()).device
    rows = []
    for _, batch in in_order(slides, _BATCH_SIZE):
        batch = AlignmentBatch(**{name: values.to(device) for name, values in batch.items()})
        parts = [module.embed(batch, each, modality) for each in levels]
        rows.append(torch.cat(parts, dim=1).float().cpu().numpy())
    return np.concatenate(rows)


def head_inputs(module: SpotNicheAligner, slides: list[PairedSlide], *, niches: bool) -> list[np.ndarray]:
    """Image vectors of the spots of each slide: aligned, of spot and niche."""
    return [vectors(module, [slide], "image", "both" if niches else "spot") for slide in slides]


def fit_head(module: SpotNicheAligner, slides: list[PairedSlide], *, niches: bool) -> ExpressionHead:
    """Regression from image vectors to expression, fitted on the measured spots of slides."""
    inputs = head_inputs(module, slides, niches=niches)
    return ExpressionHead.fit(
        [part[slide.measured] for part, slide in zip(inputs, slides, strict=True)],
        [_expression(slide)[slide.measured] for slide in slides],
    )


def retrieved_expression(
    module: SpotNicheAligner, slides: list[PairedSlide], training: list[PairedSlide], n_neighbors: int
) -> np.ndarray:
    """Mean expression of the training spots whose gene vectors are nearest to the image vectors (spots x genes)."""
    from sklearn.neighbors import NearestNeighbors

    measured = np.concatenate([slide.measured for slide in training])
    keys = vectors(module, training, "gene")[measured]
    expression = np.concatenate([_expression(slide) for slide in training])[measured]
    number = min(n_neighbors, len(keys))
    finder = NearestNeighbors(n_neighbors=number, metric="cosine", algorithm="brute").fit(keys)
    return finder.kneighbors_graph(vectors(module, slides, "image")) @ expression / number


def _expression(slide: PairedSlide) -> np.ndarray:
    """Expression of each spot (spots x genes)."""
    return slide.slide.expression[slide.slide.site_of_observation].toarray()
