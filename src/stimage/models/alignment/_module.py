"""The module of an aligner: built for the inputs of slides, started in closed form, and used to compute vectors."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch

from stimage import _validate
from stimage.data import PairedSlide
from stimage.data.sampling._alignment_data import in_order
from stimage.models._devices import place_of, to_numpy
from stimage.models.alignment._closed_fusion import N_COMPONENTS, ClosedFusion, closed_maps
from stimage.models.alignment._image_basis import ImageBasis
from stimage.modules import AlignerConfig, AlignmentBatch, ImageEncoder, SpotNicheAligner

Modality = Literal["image", "gene", "fused"]
Level = Literal["spot", "niche", "both"]
_BATCH_SIZE = 512


def levels_of(niches: bool) -> tuple[Literal["spot", "niche"], ...]:
    """Levels that an aligner sees."""
    return ("spot", "niche") if niches else ("spot",)


def asked_levels(level: Level) -> tuple[Literal["spot", "niche"], ...]:
    """Levels whose vectors stand side by side."""
    return levels_of(True) if level == "both" else (level,)


def donors_of(slides: list[PairedSlide]) -> list[str]:
    """Who each slide is from; a slide of nobody known is from somebody of its own."""
    return [f"donor {part.slide.donor}" if part.slide.donor else f"slide {part.slide.name}" for part in slides]


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


def started_aligner(
    config: AlignerConfig,
    slides: list[PairedSlide],
    *,
    spectral_start: bool,
    frozen_genes: bool,
    seed: int,
    niches: bool,
    **sizes: Any,
) -> tuple[SpotNicheAligner, ClosedFusion | None]:
    """A module at its start, in evaluation mode, and the fused vectors where no loss trains a fusion.

    Parameters
    ----------
    config
        Its sizes.
    slides
        Slides as it sees them, which decide the start in closed form.
    spectral_start
        Start in closed form, or at random.
    frozen_genes
        Whether spots come as vectors of a frozen encoder.
    seed
        Seed of the weights.
    niches
        Whether niches are seen.
    sizes
        Further arguments of :func:`build_aligner`.

    Returns
    -------
    tuple
        The module and the fusion in closed form: ``None`` with a cross-scale loss, from a random start, or where a map is
        missing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = build_aligner(config, niches=niches, **sizes)
    fusion = None
    if spectral_start:
        levels, number = levels_of(niches), min(N_COMPONENTS, config.dim)
        maps, scale = closed_maps(slides, levels, n_components=number, frozen_genes=frozen_genes)
        start_from_maps(module, maps, scale)
        fusion = None if config.weights[2] else ClosedFusion.of(maps, levels)
    return module.eval(), fusion


def start_from_maps(module: SpotNicheAligner, maps: dict[str, np.ndarray], scale: np.ndarray) -> None:
    """Start gene tokens as principal components of expression, image tokens as their regression on the image.

    Parameters
    ----------
    module
        The module, changed in place.
    maps, scale
        See :func:`closed_maps`. What is compared starts halfway to components of equal spread: the first ones lead, the
        others are heard.
    """
    for name, weights in maps.items():
        level, part = name.split("_")
        modality = "gene" if part == "genes" else part
        module.start_from(level, modality, torch.from_numpy(weights), torch.from_numpy(scale))


def asked_vectors(modality: Any, level: Any, *, niches: bool, images: bool) -> tuple[Modality, Level]:
    """Modality and level that were asked for, or the defaults; raise ``ValueError`` unless the aligner has them."""
    if level is None:
        level = "both" if niches else "spot"
    _validate.check_choice("level", level, get_args(Level))
    if level != "spot" and not niches:
        raise ValueError(f"`level`={level!r}: this model was built without niches; pass `level='spot'`.")
    if modality is None:
        modality = "fused" if images else "gene"
    _validate.check_choice("modality", modality, get_args(Modality))
    if modality != "gene" and not images:
        raise ValueError(
            f"`modality`={modality!r} needs images, and this model was built without (`image_encoder=None`): only "
            "`modality='gene'` can be had."
        )
    return modality, level


@torch.no_grad()
def vectors(
    module: SpotNicheAligner,
    slides: list[PairedSlide],
    modality: Modality,
    level: Level = "spot",
    *,
    chosen: list[np.ndarray] | None = None,
) -> np.ndarray:
    """Vectors of the spots of slides, or of those chosen of each, slide after slide (spots x dimensions), float32."""
    module.eval()
    levels = asked_levels(level)
    device = place_of(module)
    rows = []
    for _, batch in in_order(slides, _BATCH_SIZE, chosen):
        batch = AlignmentBatch(**{name: values.to(device) for name, values in batch.items()})
        parts = [module.embed(batch, each, modality) for each in levels]
        rows.append(to_numpy(torch.cat([part.float() for part in parts], dim=1)))
    return np.concatenate(rows)
