"""Vision transformers whose published weights are not in timm's layout."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

_DINOV2_NAMES = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.", ""),
    (r"^encoder\.layer\.", "blocks."),
    (r"^layernorm\.", "norm."),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.(weights_in|w12)\.", ".mlp.fc1."),
    (r"\.mlp\.(weights_out|w3)\.", ".mlp.fc2."),
    (r"^register_tokens$", "reg_token"),
)


def dinov2_to_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of a DINOv2 vision transformer with registers to timm's names.

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
    renamed = {}
    for name, tensor in state.items():
        for pattern, replacement in _DINOV2_NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    renamed.pop("mask_token", None)
    for name in [name for name in renamed if ".attn.query." in name]:
        parts = [name.replace("query", part) for part in ("query", "key", "value")]
        if all(part in renamed for part in parts):
            renamed[name.replace("query", "qkv")] = torch.cat([renamed.pop(part) for part in parts])
    if "cls_token" in renamed and "pos_embed" in renamed:
        renamed["cls_token"] = renamed["cls_token"] + renamed["pos_embed"][:, :1]
        renamed["pos_embed"] = renamed["pos_embed"][:, 1:]
    return renamed


class ConchVisualTower(nn.Module):
    """Visual tower of CONCH: a vision transformer whose tokens one learned query attends to.

    Gives what CONCH's ``encode_image(..., proj_contrast=False, normalize=False)`` gives. Tensors have the names of the
    published file.

    Parameters
    ----------
    trunk
        A vision transformer of timm.
    width
        Length of the features.
    n_heads
        Attention heads of the pooling.
    """

    def __init__(self, trunk: nn.Module, *, width: int = 512, n_heads: int = 8) -> None:
        super().__init__()
        self.visual = nn.ModuleDict(
            {"trunk": trunk, "attn_pool_contrast": _QueryPooling(trunk.num_features, width, n_heads)}
        )
        self.visual["ln_contrast"] = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        """Features of normalised images (n x 3 x height x width), one vector each (n x width)."""
        tokens = self.visual["trunk"].forward_features(images)
        return self.visual["ln_contrast"](self.visual["attn_pool_contrast"](tokens))


class _QueryPooling(nn.Module):
    """Attention of one learned query over the tokens (Yu et al., CoCa, 2022, Section 3.2)."""

    def __init__(self, dim: int, width: int, n_heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, width))
        self.attn = nn.MultiheadAttention(width, n_heads, kdim=dim, vdim=dim, batch_first=True)
        self.ln_q = nn.LayerNorm(width)
        self.ln_k = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.ln_k(tokens)
        query = self.ln_q(self.query).expand(len(tokens), 1, -1)
        return self.attn(query, tokens, tokens, need_weights=False)[0].squeeze(1)
