"""Frozen encoders of an aligner: built, read from a checkpoint, and told apart."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stimage.models._stimage import STImage
from stimage.models.alignment._image_features import PatchSpec, encoder_id, named_encoder
from stimage.models.alignment._setup import has_image
from stimage.models.checkpoints._manifest import GENE_ENCODER
from stimage.models.checkpoints._weights import tensors_id
from stimage.modules import AlignerConfig, ImageEncoder, ScGPTEncoder

if TYPE_CHECKING:
    from anndata import AnnData


def check_images(adatas: list[AnnData]) -> None:
    without = [number for number, adata in enumerate(adatas) if not has_image(adata)]
    if without:
        which = "the AnnData has" if len(adatas) == 1 else f"AnnData number {without[0]} (from 0) has"
        raise KeyError(
            f"No image: {which} no `uns['spatial']`. Add the image in the way of squidpy; or go without: a model built with "
            "`image_encoder=None` aligns spots with their niches by genes alone, and any model has `modality='gene'`."
        )


def check_parts(gene_encoder: Any, patches: Any, config: Any) -> None:
    """Raise ``TypeError`` for parts of another kind."""
    for parameter, value, kinds in (
        ("gene_encoder", gene_encoder, (STImage, ScGPTEncoder)),
        ("patches", patches, (PatchSpec,)),
        ("config", config, (AlignerConfig,)),
    ):
        if value is not None and not isinstance(value, kinds):
            names = " or ".join(f"{'.'.join(kind.__module__.split('.')[:2])}.{kind.__name__}" for kind in kinds)
            raise TypeError(f"`{parameter}` must be a {names}, found {type(value).__name__}.")


def image_encoders(
    spot: str | ImageEncoder | None,
    niche: str | ImageEncoder | None,
    *,
    trained: bool,
    niches: bool,
    seed: int,
) -> tuple[ImageEncoder | None, ImageEncoder | None]:
    """Encoders of spot and niche patches, built where only a name was given; one that is trained is a copy."""
    for parameter, value in (("image_encoder", spot), ("niche_image_encoder", niche)):
        if value is not None and not isinstance(value, str | ImageEncoder):
            raise TypeError(
                f"`{parameter}` must be a name, an encoder of `stimage.modules.load_image_encoder` or None, found "
                f"{type(value).__name__}."
            )
    if spot is None:
        if niche is not None:
            raise ValueError("`niche_image_encoder` was given without `image_encoder`: pass both, or neither.")
        if trained:
            raise ValueError("`train_image_encoder` was set without `image_encoder`: pass one, or leave it out.")
        return None, None
    spot = named_encoder(spot, seed) if isinstance(spot, str) else spot
    niche = spot if niche is None else named_encoder(niche, seed) if isinstance(niche, str) else niche
    spot = copy.deepcopy(spot) if trained else spot
    return spot.eval().requires_grad_(False), niche.eval().requires_grad_(False) if niches else None


def image_encoder_of(
    name: str | None,
    expected: str | None,
    given: ImageEncoder | None,
    parameter: str,
    directory: str | Path,
    *,
    seed: int,
    trained: bool = False,
) -> ImageEncoder | None:
    """An image encoder that a checkpoint names: the one given, or built by name; the same weights unless it was trained."""
    if name is None:
        return None
    if given is not None and not isinstance(given, ImageEncoder):
        raise TypeError(f"`{parameter}` must be a stimage.modules.ImageEncoder, found {type(given).__name__}.")
    if given is None:
        try:
            given = named_encoder(name, seed)
        except ValueError as error:
            name = name[:80]
            raise ValueError(
                f"The model in {str(directory)!r} was trained with the image encoder {name!a}: pass `{parameter}="
                f"stimage.modules.load_image_encoder({name!a}, weights=...)`."
            ) from error
    if trained:  # its weights are in the checkpoint
        return copy.deepcopy(given).eval().requires_grad_(False)
    if encoder_id(given) != expected:
        raise ValueError(
            f"`{parameter}` has other weights than the {name[:80]!a} that the model in {str(directory)!r} was trained with: "
            "pass the same ones."
        )
    return given.eval().requires_grad_(False)


def gene_encoder_of(
    kind: str | None, expected: str | None, directory: Path, given: ScGPTEncoder | None
) -> STImage | ScGPTEncoder | None:
    """The frozen gene encoder of a checkpoint: saved beside it, or given."""
    if kind is None:
        return None
    if kind == STImage.__name__:
        encoder = STImage.load(directory / GENE_ENCODER)
    elif isinstance(given, ScGPTEncoder):
        encoder = given
    else:
        found = "" if given is None else f", found {type(given).__name__}"
        raise ValueError(
            f"The model in {str(directory)!r} was trained with a frozen {kind}: pass it as `gene_encoder`{found}."
        )
    if gene_encoder_id(encoder) != expected:
        raise ValueError(
            f"`gene_encoder` has other weights than the {kind} that the model in {str(directory)!r} was trained with: pass "
            "the same one, or get the model again."
        )
    return encoder


def gene_encoder_id(encoder: STImage | ScGPTEncoder) -> str:
    """Hash of a gene encoder: its weights and its genes, 16 hexadecimal digits."""
    if isinstance(encoder, STImage):
        return encoder.model_id
    return tensors_id(encoder.state_dict(), repr(sorted(encoder.vocabulary.items())))
