from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stimage.modules._gene_tokens import GeneTokens
from stimage.modules._transformer import SiteTransformer


@dataclass(frozen=True)
class AutoencoderConfig:
    """Size of a :class:`MaskedAutoencoder`.

    Parameters
    ----------
    dim
        Length of tokens and embeddings.
    n_layers
        Encoder blocks.
    n_heads
        Attention heads.
    dim_feedforward
        Width of the encoder's feed-forward networks.
    decoder_layers
        Decoder blocks. With 0, hidden sites enter the encoder as mask tokens and predictions are read off its output;
        otherwise the encoder sees visible sites only and mask tokens enter the decoder (as in the paper).
    decoder_feedforward
        Width of the decoder's feed-forward networks.
    dropout
        Dropout in all blocks.

    Examples
    --------
    >>> from stimage.modules import AutoencoderConfig
    >>> AutoencoderConfig(dim=64).n_heads
    8
    """

    dim: int = 128
    n_layers: int = 4
    n_heads: int = 8
    dim_feedforward: int = 256
    decoder_layers: int = 0
    decoder_feedforward: int = 512
    dropout: float = 0.0


class MaskedAutoencoder(nn.Module):
    """Masked autoencoder over windows of sites (the paper, Eq. 8).

    Parameters
    ----------
    n_genes
        Size of the vocabulary.
    config
        Sizes.

    Examples
    --------
    >>> import torch
    >>> from stimage.modules import AutoencoderConfig, MaskedAutoencoder
    >>> module = MaskedAutoencoder(100, AutoencoderConfig(dim=16))
    >>> tissue = torch.ones(1, 5, dtype=torch.bool)
    >>> hidden = torch.tensor([[True, False, False, False, False]])
    >>> module(torch.randn(1, 5, 16), torch.randn(1, 5, 2), tissue, hidden).shape
    torch.Size([1, 5, 16])
    """

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

    def forward(self, tokens: Tensor, positions: Tensor, tissue: Tensor, hidden: Tensor) -> Tensor:
        """Site vectors, from which :class:`GeneTokens` predicts expression.

        Parameters
        ----------
        tokens
            Tokens from :class:`GeneTokens` (batch x sites x dim); those of hidden sites are ignored.
        positions
            Physical positions of the sites, in site distances (batch x sites x 2).
        tissue
            Sites that are tissue (batch x sites); at least one in each window.
        hidden
            Sites whose tokens are hidden (batch x sites).

        Returns
        -------
        Tensor
            Site vectors (batch x sites x dim). At a visible site the vector contains the site itself, at a hidden one
            only what its surroundings say of it.
        """
        masked = torch.where(hidden.unsqueeze(-1), self.mask_token.to(tokens.dtype), tokens)
        # Hidden sites look at visible ones and are looked at by none: however many are hidden, and however far they are
        # from the next visible site, attention stays what it was in training.
        visible = tissue & ~hidden
        visible = torch.where(visible.any(dim=1, keepdim=True), visible, tissue)
        if not self.config.decoder_layers:
            return self.norm(self.encoder(masked, positions, visible))
        encoded = self.encoder(tokens, positions, visible)
        encoded = torch.where(hidden.unsqueeze(-1), self.mask_token.to(tokens.dtype), encoded)
        return self.norm(self.decoder(encoded, positions, tissue))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean squared error over the hidden values of a batch of windows (the paper, Eq. 8).

        Parameters
        ----------
        batch
            Fields of :class:`stimage.data.Window`, stacked.

        Returns
        -------
        Tensor
            The loss (scalar).
        """
        expression, genes, hidden = batch["expression"], batch["genes"], batch["hidden"]
        if hidden.dim() == 3:
            # Tokens are normalised, so that the values that are left need no rescaling.
            tokens = self.genes(expression.masked_fill(hidden, 0.0), genes)
            sites = self(tokens, batch["positions"], batch["observed"], torch.zeros_like(batch["observed"]))
            error = (self.genes.decode(sites, genes) - expression).square()
            # A small window may happen to have no value hidden.
            return (error * hidden).sum() / hidden.sum().clamp(min=1)
        sites = self(self.genes(expression, genes), batch["positions"], batch["observed"], hidden)
        # Only hidden sites are decoded: bring them to the front, as many as the window with most of them has.
        first = hidden.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, : int(hidden.sum(dim=1).max())]
        scored = hidden.gather(1, first).unsqueeze(-1) & batch["gene_valid"].unsqueeze(1)
        target = expression.gather(1, first.unsqueeze(-1).expand(-1, -1, expression.shape[-1]))
        sites = sites.gather(1, first.unsqueeze(-1).expand(-1, -1, sites.shape[-1]))
        error = (self.genes.decode(sites, genes) - target).square()
        return (error * scored).sum() / scored.sum()
