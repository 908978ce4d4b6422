"""Autoencoders of the sample units that the paper compares its windows with."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stimage.modules._gene_tokens import GeneTokens
from stimage.modules._masked_autoencoder import AutoencoderConfig
from stimage.modules._transformer import SiteTransformer


class SpotAutoencoder(nn.Module):
    """Masked autoencoder of single spots without context (the paper, Eq. 2).

    Gene tokens and transformer are those of :class:`MaskedAutoencoder`, of the same sizes, but every spot attends to
    itself alone: ``h_i = f(token of spot i)``.

    Parameters
    ----------
    n_genes
        Size of the vocabulary.
    config
        Sizes.

    Examples
    --------
    >>> import torch
    >>> from stimage.modules import AutoencoderConfig, SpotAutoencoder
    >>> module = SpotAutoencoder(100, AutoencoderConfig(dim=16))
    >>> observed, group = torch.ones(1, 5, dtype=torch.bool), torch.arange(5).unsqueeze(0)
    >>> module(torch.randn(1, 5, 16), observed, group).shape
    torch.Size([1, 5, 16])
    """

    scored = slice(None)
    """Sites of a sample that get a vector and are predicted."""

    def __init__(self, n_genes: int, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.genes = GeneTokens(n_genes, config.dim)
        self.mask_token = nn.Parameter(torch.zeros(config.dim))
        sizes = {"n_heads": config.n_heads, "dropout": config.dropout}
        self.encoder = SiteTransformer(config.dim, config.n_layers, dim_feedforward=config.dim_feedforward, **sizes)
        self.decoder = SiteTransformer(
            config.dim, config.decoder_layers, dim_feedforward=config.decoder_feedforward, **sizes
        )
        self.norm = nn.LayerNorm(config.dim)
        # There are no distances within one spot: a parameter that nothing depends on would stop distributed training.
        for block in [*self.encoder.blocks, *self.decoder.blocks]:
            block.attention.log_sharpness.requires_grad_(False)

    def forward(self, tokens: Tensor, observed: Tensor, group: Tensor) -> Tensor:
        """Vectors of the spots of a sample, from which :class:`GeneTokens` predicts expression.

        Parameters
        ----------
        tokens
            Tokens from :class:`GeneTokens` (batch x sites x dim).
        observed
            Sites that have data (batch x sites).
        group
            What each site belongs to, see :class:`stimage.data.SpotSample` (batch x sites).

        Returns
        -------
        Tensor
            ``h̃`` of the scored sites (batch x scored sites x dim).
        """
        return self.finish(self.encode(tokens))

    def encode(self, tokens: Tensor) -> Tensor:
        """``h`` of spots, each from its own token (... x dim)."""
        return _alone(self.encoder, tokens)

    def finish(self, spots: Tensor) -> Tensor:
        """The vectors that expression is predicted from, of spots in their context (... x dim)."""
        return self.norm(_alone(self.decoder, spots))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Squared error of the hidden values, mean over the genes of a spot, then over spots (the paper, Eq. 2).

        Parameters
        ----------
        batch
            Fields of :class:`stimage.data.SpotSample`, stacked.

        Returns
        -------
        Tensor
            The loss (scalar).
        """
        total, count = self.loss_terms(batch)
        return total / count.clamp(min=1)

    def loss_terms(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The parts of :meth:`loss`, which add up over the parts of a batch as the loss itself does not.

        Parameters
        ----------
        batch
            Fields of :class:`stimage.data.SpotSample`, stacked.

        Returns
        -------
        tuple of Tensor
            Sum over spots of their mean squared error, and the number of spots with a hidden value (scalars).
        """
        expression, genes, hidden = batch["expression"], batch["genes"], batch["hidden"]
        tokens = self.genes.with_hidden(expression, genes, hidden, self.mask_token)
        vectors = self(tokens, batch["observed"], batch["group"])
        expression, hidden = expression[:, self.scored], hidden[:, self.scored]
        error = (self.genes.decode(vectors, genes) - expression).square() * hidden
        n_hidden = hidden.sum(dim=-1)
        return (error.sum(dim=-1) / n_hidden.clamp(min=1)).sum(), (n_hidden > 0).sum()


class NeighborhoodAutoencoder(SpotAutoencoder):
    """Masked autoencoder of a spot and its nearest neighbours (the paper, Eq. 3).

    ``h̃_i`` fuses ``h_i`` with ``Σ_j w_ij h_j``. Fixed weights are equal; learned ones are the softmax over the
    neighbours of ``⟨Q h_i, K h_j⟩ / √d``.

    Parameters
    ----------
    n_genes
        Size of the vocabulary.
    config
        Sizes.
    n_neighbors
        Neighbours of a spot.
    neighbor_weights
        ``"learned"`` or ``"fixed"``.

    Examples
    --------
    >>> import torch
    >>> from stimage.modules import AutoencoderConfig, NeighborhoodAutoencoder
    >>> module = NeighborhoodAutoencoder(100, AutoencoderConfig(dim=16), n_neighbors=4, neighbor_weights="learned")
    >>> observed, group = torch.ones(1, 10, dtype=torch.bool), torch.arange(2).repeat_interleave(5).unsqueeze(0)
    >>> module(torch.randn(1, 10, 16), observed, group).shape
    torch.Size([1, 2, 16])
    """

    def __init__(self, n_genes: int, config: AutoencoderConfig, *, n_neighbors: int, neighbor_weights: str) -> None:
        super().__init__(n_genes, config)
        self.scored = slice(None, None, 1 + n_neighbors)
        self.n_neighbors = n_neighbors
        self.fusion = ContextFusion(config.dim, config.dim_feedforward)
        self.attention = nn.Linear(config.dim, 2 * config.dim, bias=False) if neighbor_weights == "learned" else None

    def forward(self, tokens: Tensor, observed: Tensor, group: Tensor) -> Tensor:
        """Vectors of the centres; see :class:`SpotAutoencoder`. Sites come as centre, neighbours, centre, ..."""
        spots = self.encode(tokens).unflatten(1, (-1, 1 + self.n_neighbors))
        known = observed.unflatten(1, (-1, 1 + self.n_neighbors))
        return self.finish(self.combine(spots[:, :, 0], spots[:, :, 1:], known[:, :, 1:]))

    def combine(self, centres: Tensor, neighbors: Tensor, known: Tensor) -> Tensor:
        """Fuse spots with the weighted mean of their neighbours.

        Parameters
        ----------
        centres
            ``h_i`` (... x dim).
        neighbors
            ``h_j`` of their neighbours (... x neighbours x dim).
        known
            Neighbours that exist (... x neighbours).

        Returns
        -------
        Tensor
            Spots in their context (... x dim).
        """
        if self.attention is None:
            score = torch.zeros_like(neighbors[..., 0])
        else:
            query, key = self.attention.weight.chunk(2)
            # ⟨Q h_i, K h_j⟩ = ⟨Kᵀ Q h_i, h_j⟩: the neighbours, of which there are many, need no projection.
            query = functional.linear(centres, query) @ key
            score = (neighbors * query.unsqueeze(-2)).sum(dim=-1) * centres.shape[-1] ** -0.5
        weight = score.masked_fill(~known, torch.finfo(score.dtype).min).softmax(dim=-1)
        # A spot without any neighbour has no context.
        weight = weight.masked_fill(~known, 0.0)
        return self.fusion(centres, (weight.unsqueeze(-2) @ neighbors).squeeze(-2))


class SliceAutoencoder(SpotAutoencoder):
    """Masked autoencoder of the spots of a slide in macro-domains (the paper, Eq. 4).

    ``h̃_i`` fuses ``h_i`` with the mean of ``h_j`` over the macro-domain of spot i.

    Parameters
    ----------
    n_genes
        Size of the vocabulary.
    config
        Sizes.

    Examples
    --------
    >>> import torch
    >>> from stimage.modules import AutoencoderConfig, SliceAutoencoder
    >>> module = SliceAutoencoder(100, AutoencoderConfig(dim=16))
    >>> observed, group = torch.ones(1, 5, dtype=torch.bool), torch.tensor([[0, 0, 1, 1, 1]])
    >>> module(torch.randn(1, 5, 16), observed, group).shape
    torch.Size([1, 5, 16])
    """

    def __init__(self, n_genes: int, config: AutoencoderConfig) -> None:
        super().__init__(n_genes, config)
        self.fusion = ContextFusion(config.dim, config.dim_feedforward)

    def forward(self, tokens: Tensor, observed: Tensor, group: Tensor) -> Tensor:
        """Vectors of all spots; see :class:`SpotAutoencoder`. A group is a macro-domain."""
        spots = self.encode(tokens)
        return self.finish(self.fusion(spots, self.domain_means(spots, observed, group)))

    def domain_means(self, spots: Tensor, observed: Tensor, group: Tensor) -> Tensor:
        """Mean of the observed spots of each site's macro-domain (batch x sites x dim)."""
        # A product with indicators instead of a scatter: sums do not depend on threads.
        members = functional.one_hot(group).to(spots.dtype)
        counted = members * observed.unsqueeze(-1)
        total = counted.transpose(1, 2) @ spots
        return members @ (total / counted.sum(dim=1).clamp(min=1).unsqueeze(-1))


class ContextFusion(nn.Module):
    """``h̃ = h + MLP([h, context])``; starts as ``h``, so that the spectral start is kept."""

    def __init__(self, dim: int, dim_feedforward: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * dim)
        self.feedforward = nn.Sequential(
            nn.Linear(2 * dim, dim_feedforward), nn.GELU(), nn.Linear(dim_feedforward, dim)
        )
        nn.init.zeros_(self.feedforward[2].weight)
        nn.init.zeros_(self.feedforward[2].bias)

    def forward(self, spots: Tensor, context: Tensor) -> Tensor:
        """Fuse spots with their context (... x dim)."""
        return spots + self.feedforward(self.norm(torch.cat([spots, context], dim=-1)))


def _alone(transformer: SiteTransformer, tokens: Tensor) -> Tensor:
    """Every token as a sequence of its own (... x dim)."""
    sites = tokens.reshape(-1, 1, tokens.shape[-1])
    nowhere = sites.new_zeros(len(sites), 1, 2)
    return transformer(sites, nowhere, torch.ones_like(nowhere[..., 0], dtype=torch.bool)).reshape(tokens.shape)
