"""Encoders that turn what was measured at a spot or a niche into a few tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TokenProjection(nn.Module):
    """What all encoders here share: a linear projection of a vector to tokens, which can be given a start.

    Parameters
    ----------
    n_inputs
        Length of the vector.
    dim
        Length of tokens.
    n_tokens
        Number of tokens.
    """

    def __init__(self, n_inputs: int, dim: int, n_tokens: int) -> None:
        super().__init__()
        self.n_tokens = n_tokens
        self.projection = nn.Linear(n_inputs, n_tokens * dim)

    @torch.no_grad()
    def start_from(self, weights: Tensor) -> None:
        """Start from a linear map, so that training starts from what is known in closed form.

        Every token starts with the same components and a little of its own random start, from which tokens part.

        Parameters
        ----------
        weights
            The map (inputs x components), most important component first. Token dimensions beyond them start small.
        """
        start = self.projection.weight.mul_(0.1).unflatten(0, (self.n_tokens, -1))
        self.projection.bias.zero_()
        weights = weights[:, : start.shape[1]]
        start[:, : weights.shape[1]] += weights.T

    def project(self, values: Tensor) -> Tensor:
        """Tokens before any context (n x tokens x dim) from vectors (n x inputs)."""
        return self.projection(values).unflatten(1, (self.n_tokens, -1))


class FeatureTokens(TokenProjection):
    """Tokens from a vector of a frozen encoder: features of an image, or a gene embedding.

    A linear projection and a perceptron, which is added to it and starts at zero, so that a given start is kept.

    Parameters
    ----------
    n_features
        Length of the frozen vector.
    dim
        Length of tokens.
    n_tokens
        Number of tokens.
    dropout
        Dropout of the vector and inside the perceptron.
    linear
        The linear projection only: nothing adapts to the tissue.

    Examples
    --------
    >>> import torch
    >>> from stimage.modules import FeatureTokens
    >>> FeatureTokens(100, dim=16, n_tokens=4)(torch.randn(3, 100)).shape
    torch.Size([3, 4, 16])
    """

    def __init__(self, n_features: int, dim: int, n_tokens: int, dropout: float = 0.1, *, linear: bool = False) -> None:
        super().__init__(n_features, dim, n_tokens)
        self.perceptron = None
        if not linear:
            self.dropout = nn.Dropout(dropout)
            self.perceptron = nn.Sequential(
                nn.LayerNorm(n_features),
                nn.Linear(n_features, 2 * dim),
                nn.GELU(),
                nn.Dropout(dropout),
                nn.Linear(2 * dim, n_tokens * dim),
            )
            _start_at_zero(self.perceptron[4])

    def forward(self, features: Tensor) -> Tensor:
        """Tokens (n x tokens x dim) from frozen vectors (n x features)."""
        if self.perceptron is None:
            return self.project(features)
        features = self.dropout(features)
        return self.project(features) + self.perceptron(features).unflatten(1, (self.n_tokens, -1))


class GeneTransformerEncoder(TokenProjection):
    """AE-Gene: linear projection of expression to tokens, then a transformer over them.

    Blocks normalise first and start as the identity (their last layers are zero), so that a given start is kept; no
    normalisation follows the last block, so that tokens keep their length. The width of the feed-forward networks, which the paper does not
    give, is four times ``dim``.

    Parameters
    ----------
    n_genes
        Number of genes.
    dim
        Length of tokens.
    n_tokens
        Number of tokens.
    n_layers
        Number of transformer blocks.
    n_heads
        Attention heads; divides ``dim``.
    dropout
        Dropout in all blocks.

    Raises
    ------
    ValueError
        If the heads do not divide ``dim``.

    Examples
    --------
    >>> import torch
    >>> from stimage.modules import GeneTransformerEncoder
    >>> encoder = GeneTransformerEncoder(100, dim=16, n_tokens=4, n_layers=2)
    >>> encoder(torch.randn(3, 100)).shape
    torch.Size([3, 4, 16])

    References
    ----------
    ST-Align, Eq. 6.
    """

    def __init__(
        self, n_genes: int, dim: int, n_tokens: int, n_layers: int = 6, n_heads: int = 8, dropout: float = 0.1
    ) -> None:
        super().__init__(n_genes, dim, n_tokens)
        if dim % n_heads:
            raise ValueError(f"`n_heads`={n_heads} does not divide `dim`={dim}.")
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                dim, n_heads, 4 * dim, dropout, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(n_layers)
        )
        for block in self.blocks:
            _start_at_zero(block.self_attn.out_proj)
            _start_at_zero(block.linear2)

    def forward(self, expression: Tensor) -> Tensor:
        """Tokens (n x tokens x dim) from centred log expression (n x genes)."""
        tokens = self.project(expression)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


class GeneMLPEncoder(TokenProjection):
    """Linear projection of expression to tokens, then a perceptron on each of them.

    The perceptron is added to its input and starts at zero, so that a start from principal axes is kept.

    Parameters
    ----------
    n_genes
        Number of genes.
    dim
        Length of tokens.
    n_tokens
        Number of tokens.
    dropout
        Dropout of the perceptron.
    linear
        The linear projection only: nothing adapts to the tissue.

    Examples
    --------
    >>> import torch
    >>> from stimage.modules import GeneMLPEncoder
    >>> GeneMLPEncoder(100, dim=16, n_tokens=4)(torch.randn(3, 100)).shape
    torch.Size([3, 4, 16])
    """

    def __init__(self, n_genes: int, dim: int, n_tokens: int, dropout: float = 0.1, *, linear: bool = False) -> None:
        super().__init__(n_genes, dim, n_tokens)
        self.feedforward = None
        if not linear:
            self.feedforward = nn.Sequential(
                nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim), nn.Dropout(dropout)
            )
            _start_at_zero(self.feedforward[3])

    def forward(self, expression: Tensor) -> Tensor:
        """Tokens (n x tokens x dim) from centred log expression (n x genes)."""
        tokens = self.project(expression)
        return tokens if self.feedforward is None else tokens + self.feedforward(tokens)


def _start_at_zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
