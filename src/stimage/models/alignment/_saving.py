"""What a checkpoint of an aligner holds, beside what every model has."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from stimage.models.alignment._closed_fusion import PARTS as FUSED_PARTS
from stimage.models.alignment._closed_fusion import ClosedFusion
from stimage.models.alignment._encoders import gene_encoder_of, image_encoder_of
from stimage.models.alignment._expression_head import ExpressionHead
from stimage.models.alignment._image_basis import ImageBasis
from stimage.models.alignment._image_features import PatchSpec
from stimage.models.alignment._module import build_aligner, levels_of
from stimage.models.alignment._patch_scale import PatchScale
from stimage.models.alignment._prediction import n_head_inputs
from stimage.models.checkpoints._config import DamagedError, StoredConfig
from stimage.models.checkpoints._weights import check_prefixes, check_shapes, length, load_module, tensors_under
from stimage.modules import AlignerConfig, ImageEncoder, ScGPTEncoder
from stimage.train import AlignmentOptimizerConfig

PARTS = {
    "config": AlignerConfig,
    "optimizer": AlignmentOptimizerConfig,
    "patches": PatchSpec,
    "patch_scale": PatchScale,
}
"""Configurations that make an aligner what it is, beside its weights."""
FLAGS = ("train_image_encoder", "spot_context", "spectral_start", "niches", "is_trained")
_GENE_ENCODER = {"gene_encoder": Literal["STImage", "ScGPTEncoder"], "gene_encoder_id": str}


def tensors_of(
    module: nn.Module, basis: ImageBasis | None, head: ExpressionHead | None, fusion: ClosedFusion | None
) -> dict[str, torch.Tensor]:
    """All that was learned, by its name in a checkpoint."""
    tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    for prefix, part in (("basis", basis), ("head", head)):
        if part is not None:
            tensors |= {f"{prefix}.{name}": torch.from_numpy(values) for name, values in part.tensors().items()}
    if fusion is not None:
        tensors |= {f"fusion.{name}": torch.from_numpy(values) for name, values in fusion.maps.items()}
    return tensors


def restored(
    stored: StoredConfig,
    weights: dict[str, torch.Tensor],
    folder: Path,
    n_genes: int,
    *,
    image_encoder: ImageEncoder | None,
    niche_image_encoder: ImageEncoder | None,
    gene_encoder: ScGPTEncoder | None,
) -> dict[str, Any]:
    """Attributes of the model; raise ``DamagedError`` if config and weights are not of one.

    Parameters
    ----------
    stored, weights
        What the checkpoint holds.
    folder
        Where it is.
    n_genes
        Size of its vocabulary.
    image_encoder, niche_image_encoder, gene_encoder
        Encoders that were given for it.

    Returns
    -------
    dict
        The attributes by name.
    """
    found: dict[str, Any] = {name: stored.dataclass(name, kind) for name, kind in PARTS.items()}
    found |= {name: stored.get(name, bool) for name in FLAGS}
    found |= {"niche_key": stored.get("niche_key", str), "n_spot_genes": stored.get("n_spot_genes", int)}
    found |= {"n_tokens_seen": stored.n_tokens_seen(), "history": stored.history()}
    names, ids = (_pair(stored, name) for name in ("image_encoders", "image_encoder_ids"))
    kind, identity = (stored.optional(name, hint) for name, hint in _GENE_ENCODER.items())
    _check_parts(found, names, kind, n_genes)
    check_prefixes(weights, ("module.", "basis.", "head.", "fusion."))
    found |= _image_encoders(
        names, ids, folder, image_encoder, niche_image_encoder, seed=stored.seed(), trained=found["train_image_encoder"]
    )
    found["gene_encoder"] = gene_encoder_of(kind, identity, folder, gene_encoder)
    axes, head, maps = (tensors_under(weights, f"{prefix}.") for prefix in ("basis", "head", "fusion"))
    _check_axes(found, axes, head)
    axes, tensors = ({name: tensor.numpy() for name, tensor in part.items()} for part in (axes, head))
    basis = ImageBasis(axes.get("spot_image"), axes.get("niche_image"), found["spot_context"]) if axes else None
    if head:
        _check_head(found, basis, head, n_genes)
    found |= {"basis": basis, "head": ExpressionHead.from_tensors(tensors) if head else None}
    if maps:
        _check_maps(found, basis, maps, n_genes)
    found["fusion"] = ClosedFusion({name: tensor.numpy() for name, tensor in maps.items()}) if maps else None
    config: AlignerConfig = found["config"]
    module = tensors_under(weights, "module.")
    found["module"] = load_module(
        lambda: build_aligner(
            config,
            n_genes=n_genes,
            n_spot_genes=found["n_spot_genes"],
            niches=found["niches"],
            basis=basis,
            trained_encoder=found["image_encoder"] if found["train_image_encoder"] else None,
        ),
        module,
        n_blocks=config.n_layers if found["niches"] and config.adaptive else 0,
        widths=(config.dim, config.n_tokens, config.n_fused if config.fusion else 0, found["n_spot_genes"]),
    ).eval()
    return found


def _pair(stored: StoredConfig, name: str) -> list[str | None]:
    """Text on the encoder of spots and that of niches, None where there is none."""
    values = stored.get(name, list)
    if len(values) != 2 or not all(value is None or isinstance(value, str) for value in values):
        raise DamagedError(f"`{name}` are not two names")
    return values


def _check_parts(found: dict[str, Any], names: list[str | None], gene_encoder: str | None, n_genes: int) -> None:
    """Raise ``DamagedError`` unless an aligner can have all of these parts together."""
    spot, niche = names
    if (niche is None) != (spot is None or not found["niches"]) or (spot is None and found["train_image_encoder"]):
        raise DamagedError(
            f"`image_encoders` are {'named' if niche else 'missing'} where the other parts say otherwise"
        )
    if (niche is None) != (found["patch_scale"].niche_width is None):
        raise DamagedError("`patch_scale` does not go with what is seen of niches")
    if spot is None and not found["niches"]:
        raise DamagedError("there are neither images nor niches to align")
    if found["spot_context"] and (not found["niches"] or found["train_image_encoder"]):
        raise DamagedError("`spot_context` is set where niches are not seen beside spots")
    if gene_encoder is not None and found["config"].spot_genes != "embedding":
        raise DamagedError("`gene_encoder` does not go with `config.spot_genes`")
    if found["config"].fusion and not found["niches"]:
        raise DamagedError("`config.fusion` is set where there are no niches to train it")
    if gene_encoder is None and found["n_spot_genes"] != n_genes:
        raise DamagedError(f"`n_spot_genes` is {found['n_spot_genes']}, and there are {n_genes} genes")


def _image_encoders(
    names: list[str | None],
    ids: list[str | None],
    folder: Path,
    given: ImageEncoder | None,
    given_niche: ImageEncoder | None,
    *,
    seed: int,
    trained: bool,
) -> dict[str, ImageEncoder | None]:
    spot, niche = zip(names, ids, strict=True)
    encoder = image_encoder_of(*spot, given, "image_encoder", folder, seed=seed, trained=trained)
    if niche == spot and given_niche is None and not trained:
        return {"image_encoder": encoder, "niche_image_encoder": encoder}
    if given_niche is None and niche[0] == spot[0]:
        given_niche = given
    of_niches = image_encoder_of(*niche, given_niche, "niche_image_encoder", folder, seed=seed)
    return {"image_encoder": encoder, "niche_image_encoder": of_niches}


def _check_axes(found: dict[str, Any], axes: dict[str, torch.Tensor], head: dict[str, torch.Tensor]) -> None:
    """Raise ``DamagedError`` unless the axes of image features are those of the encoders and patches."""
    if found["image_encoder"] is None and (axes or head):
        raise DamagedError("there are weights for images, and no image encoder is named")
    patches: PatchSpec = found["patches"]
    encoders = {
        "spot_image": None if found["train_image_encoder"] else found["image_encoder"],
        "niche_image": found["niche_image_encoder"],
    }
    widths = {"spot_image": patches.spot_widths, "niche_image": patches.niche_widths}
    n_colours = dict(zip(encoders, patches.n_colours, strict=True))
    shapes = {
        name: (encoder.config.width * len(widths[name]) + n_colours[name], length(axes, name, axis=1))
        for name, encoder in encoders.items()
        if encoder is not None
    }
    check_shapes(shapes, axes)


def _check_head(found: dict[str, Any], basis: ImageBasis | None, head: dict[str, torch.Tensor], n_genes: int) -> None:
    """Raise ``DamagedError`` unless the regression is one from these images to the genes."""
    options = {"niches": found["niches"], "trained_encoder": found["train_image_encoder"]}
    n_inputs = n_head_inputs(found["config"], basis, **options)
    shapes = {"mean": (n_inputs,), "weights": (n_inputs, n_genes), "intercept": (n_genes,)}
    check_shapes({**shapes, "penalty": (1,), "slope": (1,)}, head)


def _check_maps(found: dict[str, Any], basis: ImageBasis | None, maps: dict[str, torch.Tensor], n_genes: int) -> None:
    """Raise ``DamagedError`` unless image and genes of all levels have a map to the same components."""
    if basis is None or found["train_image_encoder"] or found["gene_encoder"] is not None or found["config"].weights[2]:
        raise DamagedError("there is a fusion in closed form where vectors are fused otherwise")
    n_components = length(maps, "spot_genes", axis=1)
    n_inputs = {"spot_image": basis.n_spot_image, "spot_genes": n_genes, "niche_genes": n_genes}
    if found["niches"]:
        n_inputs["niche_image"] = basis.n_niche_image
    names = [f"{level}_{part}" for level in levels_of(found["niches"]) for part in FUSED_PARTS]
    check_shapes({name: (n_inputs[name], n_components) for name in names}, maps)
