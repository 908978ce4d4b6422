"""What the configuration beside a model of open_clip says of its image tower."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stimage.modules._image_encoder_configs import ImageEncoderConfig

FILE = "open_clip_config.json"
_HEAD_WIDTH = 64


def with_published_settings(config: ImageEncoderConfig, weights: Path) -> ImageEncoderConfig:
    """The configuration with architecture and normalisation of the file ``open_clip_config.json`` beside the weights.

    Whether the activation is the exact GELU or CLIP's fast one cannot be told from the tensors.
    """
    path = weights.parent / FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{str(path)!r} is not there: {config.name!r} needs the {FILE} that is published with its weights, which says "
            "how they are used. Save it in the same folder."
        )
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        model, preprocessing = settings["model_cfg"], settings.get("preprocess_cfg", {})
        return replace(
            config,
            **_architecture(model, model["vision_cfg"]),
            width=int(model["embed_dim"]),
            mean=tuple(preprocessing.get("mean", config.mean)),
            std=tuple(preprocessing.get("std", config.std)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{str(path)!r} is not a configuration of open_clip that can be built here ({type(error).__name__}: {error}): "
            "get the published one again."
        ) from error


def _architecture(model: Mapping[str, Any], vision: Mapping[str, Any]) -> dict[str, Any]:
    size = int(vision.get("image_size", 224))
    arguments: dict[str, Any] = {"num_classes": int(model["embed_dim"]), "img_size": size}
    if "timm_model_name" in vision:
        # A linear projection of the class token.
        if vision.get("timm_pool", "") not in ("", "token") or vision.get("timm_proj", "linear") != "linear":
            raise ValueError(f"pooling {vision.get('timm_pool')!r} and projection {vision.get('timm_proj')!r}")
        return {"architecture": vision["timm_model_name"], "arguments": arguments, "input_size": size}
    unknown = set(vision) - {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
    if unknown:
        raise ValueError(f"settings {sorted(unknown)}")
    width, patch_size = int(vision["width"]), int(vision["patch_size"])
    arguments |= {
        "patch_size": patch_size,
        "embed_dim": width,
        "depth": int(vision["layers"]),
        "num_heads": width // int(vision.get("head_width", _HEAD_WIDTH)),
        "mlp_ratio": float(vision.get("mlp_ratio", 4.0)),
    }
    fast = "quickgelu_" if model.get("quick_gelu") else ""
    return {
        "architecture": f"vit_base_patch32_clip_{fast}224",
        "arguments": arguments,
        "input_size": size,
        "patch_size": patch_size,
    }
