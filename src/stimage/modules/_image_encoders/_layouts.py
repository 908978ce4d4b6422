"""From the names that tensors have in published files to those of the networks that are built here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

State = Mapping[str, Tensor]
Renaming = tuple[tuple[str, str], ...]

_TRANSFORMERS: Renaming = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.", ""),
    (r"^encoder\.layer\.", "blocks."),
    (r"^layernorm\.", "norm."),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
)
_DINOV2: Renaming = (
    *_TRANSFORMERS,
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.(weights_in|w12)\.", ".mlp.fc1."),
    (r"\.mlp\.(weights_out|w3)\.", ".mlp.fc2."),
    (r"^register_tokens$", "reg_token"),
)
_VIT: Renaming = (
    *_TRANSFORMERS,
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
)
_CLIP: Renaming = (
    (r"^vision_model\.embeddings\.class_embedding$", "cls_token"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^vision_model\.embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^vision_model\.pre_layrnorm\.", "norm_pre."),
    (r"^vision_model\.post_layernorm\.", "norm."),
    (r"^vision_model\.encoder\.layers\.", "blocks."),
    (r"^visual_projection\.", "head."),
    (r"\.self_attn\.(q|k|v)_proj\.", r".attn.\1."),
    (r"\.self_attn\.out_proj\.", ".attn.proj."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
)
_OPEN_CLIP: Renaming = (
    (r"^visual\.trunk\.", ""),
    (r"^visual\.head\.proj\.", "head."),
    (r"^visual\.class_embedding$", "cls_token"),
    (r"^visual\.positional_embedding$", "pos_embed"),
    (r"^visual\.conv1\.", "patch_embed.proj."),
    (r"^visual\.ln_pre\.", "norm_pre."),
    (r"^visual\.ln_post\.", "norm."),
    (r"^visual\.transformer\.resblocks\.", "blocks."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.ln_(\d)\.", r".norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


def dinov2_to_timm(state: State) -> dict[str, Tensor]:
    """Rename the tensors of a DINOv2 vision transformer to timm's names.

    Parameters
    ----------
    state
        Tensors by their names in DINOv2's own layout, or in that of the transformers library. What is not recognised
        keeps its name.

    Returns
    -------
    dict of str to Tensor
        Query, key and value are one tensor, the position of the class token is added to that token, and the mask token,
        which only training needs, is left out.
    """
    renamed = _joined(_renamed(state, _DINOV2), ("query", "key", "value"))
    renamed.pop("mask_token", None)
    if "cls_token" in renamed and "pos_embed" in renamed:
        renamed["cls_token"] = renamed["cls_token"] + renamed["pos_embed"][:, :1]
        renamed["pos_embed"] = renamed["pos_embed"][:, 1:]
    return renamed


def vit_to_timm(state: State) -> dict[str, Tensor]:
    """Rename the tensors of a vision transformer of the transformers library to timm's names."""
    renamed = _joined(_renamed(state, _VIT), ("query", "key", "value"))
    renamed.pop("mask_token", None)
    return renamed


def clip_to_timm(state: State) -> dict[str, Tensor]:
    """Rename the image tower of CLIP in the transformers library to timm's names."""
    return _with_clip_shapes(_joined(_renamed(state, _CLIP), ("q", "k", "v")))


def open_clip_to_timm(state: State) -> dict[str, Tensor]:
    """Rename the image tower of a model of open_clip to timm's names."""
    renamed = _renamed(state, _OPEN_CLIP)
    if "visual.proj" in renamed:
        renamed["head.weight"] = renamed.pop("visual.proj").T
    return _with_clip_shapes(renamed)


def old_swin_to_timm(state: State) -> dict[str, Tensor]:
    """Rename the tensors of a Swin transformer of timm before 0.9 to today's names.

    Stages were joined at their end, and are now at the start of the next; masks and indices are no longer stored.
    """
    kept = {name: part for name, part in state.items() if not name.endswith(("attn_mask", "relative_position_index"))}
    return {
        re.sub(r"^layers\.(\d)\.downsample\.", lambda found: f"layers.{int(found[1]) + 1}.downsample.", name): part
        for name, part in kept.items()
    }


LAYOUTS: dict[str, Callable[[State], dict[str, Tensor]]] = {
    "timm": dict,
    "dinov2": dinov2_to_timm,
    "vit": vit_to_timm,
    "clip": clip_to_timm,
    "open_clip": open_clip_to_timm,
    "swin": old_swin_to_timm,
}
"""How the tensors of a file are renamed, by layout."""


def _renamed(state: State, renaming: Renaming) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in renaming:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def _joined(state: dict[str, Tensor], parts: tuple[str, str, str]) -> dict[str, Tensor]:
    """Query, key and value of each block as one tensor."""
    first = f".attn.{parts[0]}."
    for name in [name for name in state if first in name]:
        names = [name.replace(first, f".attn.{part}.") for part in parts]
        if all(part in state for part in names):
            state[name.replace(first, ".attn.qkv.")] = torch.cat([state.pop(part) for part in names])
    return state


def _with_clip_shapes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """CLIP keeps class token and positions as vectors, and its projection has no bias."""
    for name, n_dims in (("cls_token", 3), ("pos_embed", 3)):
        while name in state and state[name].ndim < n_dims:
            state[name] = state[name][None]
    if "head.weight" in state and "head.bias" not in state:
        state["head.bias"] = torch.zeros(len(state["head.weight"]), dtype=state["head.weight"].dtype)
    return state
