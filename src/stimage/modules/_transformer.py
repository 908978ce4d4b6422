from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class LocalAttention(nn.Module):
    """Self-attention whose heads look at neighbourhoods of learned width.

    The score of site j for site i is ``q_i·k_j/√d − s_h |p_i − p_j|²`` with a learned s_h > 0 for each head: it depends
    on physical distances alone, so it is the same on every lattice and wherever in a window a site lies, and windows
    may be larger at inference. Since ``|p_i − p_j|² = |p_i|² − 2 p_i·p_j + |p_j|²`` and the first term cancels in the
    softmax, the penalty is an inner product, and so is the mask: a few more dimensions of q and k instead of a
    sites x sites bias, which fused kernels take at full speed. Under autocast to 16 bits each factor of the penalty is
    the sum of two numbers of 16 bits, so that distances keep some 16 bits instead of 8.

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

    def forward(
        self,
        sites: Tensor,
        positions: Tensor,
        visible: Tensor,
        *,
        n_visible: int | None = None,
        n_output: int | None = None,
    ) -> Tensor:
        """Attend.

        Parameters
        ----------
        sites
            Site vectors (batch x sites x dim).
        positions
            Physical positions in site distances (batch x sites x 2).
        visible
            Sites that may be attended to (batch x sites).
        n_visible
            Leading sites among which these are; all by default.
        n_output
            Trailing sites that gather; all by default.

        Returns
        -------
        Tensor
            What each site gathered (batch x output sites x dim).
        """
        batch, n_sites, dim = sites.shape
        n_visible, n_output = (n_sites if n is None else n for n in (n_visible, n_output))
        if n_visible == n_output == n_sites:
            query, key, value = self.projection(sites).view(batch, n_sites, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        else:
            weight, bias = self.projection.weight, self.projection.bias
            looking = functional.linear(_last(sites, n_output), weight[:dim], bias[:dim])
            looked_at = functional.linear(sites[:, :n_visible], weight[dim:], bias[dim:])
            query = looking.view(batch, n_output, self.n_heads, -1).transpose(1, 2)
            key, value = looked_at.view(batch, n_visible, 2, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        if n_sites == 1:
            # A site on its own looks at itself, whatever the scores.
            attended = value
        else:
            attended = self._attend(query, key, value, positions, visible)
        attended = attended.transpose(1, 2).reshape(batch, n_output, dim)
        return self.dropout(self.output(attended))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, positions: Tensor, visible: Tensor) -> Tensor:
        size, n_queries, n_keys = query.shape[-1], query.shape[2], key.shape[2]
        by_place = self._by_place(_last(positions, n_queries), query.dtype)
        of_place = _of_place(positions[:, :n_keys], visible[:, :n_keys], key.dtype)
        # Kernels want rows of whole 16 bytes.
        fill = -(size + of_place.shape[-1]) % (16 // query.element_size())
        by_place, of_place = (functional.pad(part, (0, fill)) for part in (by_place, of_place))
        attended = functional.scaled_dot_product_attention(
            # Dividing scores instead would round distances once more.
            torch.cat([query * size**-0.5, by_place], dim=-1),
            torch.cat([key, of_place.expand(-1, self.n_heads, -1, -1)], dim=-1),
            functional.pad(value, (0, of_place.shape[-1])),
            scale=1.0,
        )
        return attended[..., :size]

    def _by_place(self, positions: Tensor, dtype: torch.dtype) -> Tensor:
        """What queries add for their place (batch x heads x sites x terms)."""
        sharpness = self.log_sharpness.exp().view(1, -1, 1, 1)
        place = positions.unsqueeze(1)
        parts = _split(sharpness * torch.cat([2 * place, -torch.ones_like(place[..., :1])], dim=-1), dtype)
        terms = [part for part in parts for _ in parts]
        if len(parts) > 1:
            # The term that cancels: rounded gradients of the scores do not quite add up to zero, and far from the
            # window's centre what is left would drown the gradient of the sharpness.
            terms += _split(-sharpness * place.square().sum(dim=-1, keepdim=True), dtype)
        return torch.cat([*terms, torch.full_like(terms[0][..., :1], -_FAR)], dim=-1).to(dtype)


def _last(sites: Tensor, n: int) -> Tensor:
    """The last sites; all of them as they are, since the gradient of a part is copied into zeros."""
    return sites if n == sites.shape[1] else sites[:, sites.shape[1] - n :]


_FAR = 2.0**15
"""Its square is more than any penalty; it is a number of 16 bits of either kind."""


def _of_place(positions: Tensor, visible: Tensor, dtype: torch.dtype) -> Tensor:
    """What keys add for their place, and for not being visible (batch x 1 x sites x terms)."""
    parts = _split(torch.cat([positions, positions.square().sum(dim=-1, keepdim=True)], dim=-1), dtype)
    terms = [part for _ in parts for part in parts]
    if len(parts) > 1:
        terms.append(torch.ones_like(positions))
    return torch.cat([*terms, torch.where(visible, 0.0, _FAR).unsqueeze(-1)], dim=-1).to(dtype).unsqueeze(1)


def _split(values: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Numbers of 32 bits as a sum of numbers that each fit a type; the gradient is that of the first."""
    if dtype not in (torch.bfloat16, torch.float16):
        return [values]
    # Bits are dropped by hand, since compilers leave out a cast there and back.
    n_dropped = 16 if dtype == torch.bfloat16 else 13
    whole = values.detach()
    bits = whole.float().view(torch.int32)
    first = ((bits + (1 << (n_dropped - 1))) & -(1 << n_dropped)).view(torch.float32)
    return [values + (first - whole), whole - first]


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

    def forward(
        self,
        sites: Tensor,
        positions: Tensor,
        visible: Tensor,
        *,
        n_visible: int | None = None,
        n_output: int | None = None,
    ) -> Tensor:
        """Transform site vectors (batch x sites x dim), or the last ``n_output`` of them."""
        attended = self.attention(
            self.attention_norm(sites), positions, visible, n_visible=n_visible, n_output=n_output
        )
        sites = _last(sites, attended.shape[1]) + attended
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

    Attributes
    ----------
    checkpointing
        Whether activations within a block are computed again on the way back instead of being kept: training then needs
        the memory of one block, and a third more time. Off at first.

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
        self.checkpointing = False
        self.blocks = nn.ModuleList(Block(dim, n_heads, dim_feedforward, dropout) for _ in range(n_layers))
        # Each block starts as the identity (its last layers are zero), so that the spectral start is kept.
        for block in self.blocks:
            for layer in (block.attention.output, block.feedforward[2]):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(
        self,
        sites: Tensor,
        positions: Tensor,
        visible: Tensor,
        *,
        n_visible: int | None = None,
        n_output: int | None = None,
    ) -> Tensor:
        """Transform site vectors.

        Parameters
        ----------
        sites
            Site vectors (batch x sites x dim).
        positions
            Physical positions in site distances (batch x sites x 2).
        visible
            Sites that may be attended to (batch x sites).
        n_visible
            Leading sites among which these are; all by default.
        n_output
            Trailing sites whose vectors are wanted; all by default.

        Returns
        -------
        Tensor
            Site vectors (batch x output sites x dim).
        """
        for number, block in enumerate(self.blocks, start=1):
            # What no later block looks at and nobody asked for is not computed.
            counts = {"n_visible": n_visible, "n_output": n_output if number == len(self.blocks) else None}
            if self.checkpointing and torch.is_grad_enabled():
                sites = checkpoint(block, sites, positions, visible, use_reentrant=False, **counts)
            else:
                sites = block(sites, positions, visible, **counts)
        return sites
