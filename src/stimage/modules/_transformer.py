from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class LocalAttention(nn.Module):
    """Self-attention whose heads look at neighbourhoods of learned width.

    The score of site j for site i is ``q_i·k_j/√d − s_h |p_i − p_j|²`` with a learned s_h > 0 for each head: it depends
    on physical distances alone, so it is the same on every lattice and wherever in a window a site lies, and windows
    may be larger at inference. Since ``|p_i − p_j|² = |p_i|² − 2 p_i·p_j + |p_j|²`` and the first term cancels in the
    softmax, the penalty is an inner product: three more dimensions of q and k instead of a sites x sites bias.

    Parameters
    ----------
    dim
        Length of site vectors.
    n_heads
        Number of heads; divides ``dim``.
    dropout
        Dropout on the output.

    Examples
    --------
    >>> import torch
    >>> from stimage.modules import LocalAttention
    >>> attention = LocalAttention(dim=16, n_heads=4, dropout=0.0)
    >>> attention(torch.randn(1, 5, 16), torch.randn(1, 5, 2), torch.ones(1, 5, dtype=torch.bool)).shape
    torch.Size([1, 5, 16])
    """

    widths = (0.7, 16.0)
    """Width of the narrowest and of the widest head's Gaussian at the start, in site distances."""

    def __init__(self, dim: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        if dim % n_heads:
            raise ValueError(f"`n_heads`={n_heads} does not divide `dim`={dim}.")
        self.n_heads = n_heads
        self.projection = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        start = torch.linspace(*torch.tensor(self.widths).log(), n_heads).exp()
        self.log_sharpness = nn.Parameter((0.5 / start.square()).log())

    def forward(self, sites: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        """Attend.

        Parameters
        ----------
        sites
            Site vectors (batch x sites x dim).
        positions
            Physical positions in site distances (batch x sites x 2).
        visible
            Sites that may be looked at (batch x sites).

        Returns
        -------
        Tensor
            What each site gathered (batch x sites x dim).
        """
        batch, n_sites, dim = sites.shape
        query, key, value = self.projection(sites).view(batch, n_sites, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        if n_sites == 1:
            # A site on its own looks at itself, whatever the scores.
            attended = value
        else:
            attended = self._attend(query, key, value, positions, visible)
        attended = attended.transpose(1, 2).reshape(batch, n_sites, dim)
        return self.dropout(self.output(attended))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        sharpness = self.log_sharpness.exp().view(1, -1, 1, 1)
        place = positions.unsqueeze(1)
        by_place = sharpness * torch.cat([2 * place, -torch.ones_like(place[..., :1])], dim=-1)
        of_place = torch.cat([place, place.square().sum(dim=-1, keepdim=True)], dim=-1)
        of_place = of_place.expand(-1, self.n_heads, -1, -1)
        attended = functional.scaled_dot_product_attention(
            torch.cat([query * query.shape[-1] ** -0.5, by_place.to(query.dtype)], dim=-1),
            torch.cat([key, of_place.to(key.dtype)], dim=-1),
            functional.pad(value, (0, 3)),
            attn_mask=visible[:, None, None, :],
            scale=1.0,
        )
        return attended[..., :-3]


class Block(nn.Module):
    """Pre-norm transformer block with :class:`LocalAttention`."""

    def __init__(self, dim: int, n_heads: int, dim_feedforward: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = LocalAttention(dim, n_heads, dropout)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.feedforward = nn.Sequential(
            nn.Linear(dim, dim_feedforward), nn.GELU(), nn.Linear(dim_feedforward, dim), nn.Dropout(dropout)
        )

    def forward(self, sites: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        """Transform site vectors (batch x sites x dim)."""
        sites = sites + self.attention(self.attention_norm(sites), positions, visible)
        return sites + self.feedforward(self.feedforward_norm(sites))


class SiteTransformer(nn.Module):
    """Transformer over the sites of a window, with relative positions only.

    Parameters
    ----------
    dim
        Length of site vectors.
    n_layers
        Number of blocks.
    n_heads
        Number of attention heads.
    dim_feedforward
        Width of the feed-forward networks.
    dropout
        Dropout after attention and feed-forward.

    Examples
    --------
    >>> import torch
    >>> from stimage.modules import SiteTransformer
    >>> transformer = SiteTransformer(dim=16, n_layers=2, n_heads=4, dim_feedforward=32)
    >>> transformer(torch.randn(1, 5, 16), torch.randn(1, 5, 2), torch.ones(1, 5, dtype=torch.bool)).shape
    torch.Size([1, 5, 16])
    """

    def __init__(self, dim: int, n_layers: int, n_heads: int, dim_feedforward: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, n_heads, dim_feedforward, dropout) for _ in range(n_layers))
        # Each block starts as the identity (its last layers are zero), so that the spectral start is kept.
        for block in self.blocks:
            for layer in (block.attention.output, block.feedforward[2]):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, sites: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        """Transform site vectors.

        Parameters
        ----------
        sites
            Site vectors (batch x sites x dim).
        positions
            Physical positions in site distances (batch x sites x 2).
        visible
            Sites that may be looked at (batch x sites).

        Returns
        -------
        Tensor
            Site vectors (batch x sites x dim).
        """
        for block in self.blocks:
            sites = block(sites, positions, visible)
        return sites
