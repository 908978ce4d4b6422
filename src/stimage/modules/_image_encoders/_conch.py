"""The visual tower of CONCH, whose pooling timm does not have."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
