from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from stimage import _validate
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
        Decoder blocks. With 0, hidden sites enter the encoder as the Gaussian mean of the visible tokens around them, and
        predictions are made from its output: before training this is a kernel smoother, and training learns corrections.
        Otherwise the encoder sees visible sites only and mask tokens enter the decoder (as in the paper).
    decoder_feedforward
        Width of the decoder's feed-forward networks.
    dropout
        Dropout in all blocks.
    relative_error
        Divide the squared errors of each window by the mean square of its hidden values, so that slides with few genes
        or many counts, whose values vary more, do not outweigh others. Otherwise the loss is Eq. 8 of the paper.

    Raises
    ------
    TypeError, ValueError
        If a size is not positive, or the heads do not divide ``dim``.

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
    relative_error: bool = True

    def __post_init__(self) -> None:
        for name in ("dim", "n_layers", "n_heads", "dim_feedforward", "decoder_feedforward"):
            _validate.check_positive(name, getattr(self, name))
        _validate.check_positive("decoder_layers", self.decoder_layers, smallest=0)
        _validate.check_share("dropout", self.dropout)
        if self.dim % self.n_heads:
            raise ValueError(f"`n_heads`={self.n_heads} does not divide `dim`={self.dim}.")


class MaskedAutoencoder(nn.Module):
    """Masked autoencoder over windows of sites (the paper, Eq. 8).

    Parameters
    ----------
    n_genes
        Size of the vocabulary.
    config
        Sizes.

    Attributes
    ----------
    site_limits
        Most visible and most hidden sites of a window, see :func:`stimage.data.site_limits`. If they are set,
        :meth:`loss` of windows with hidden sites has tensors of the same shape in every step and never waits for an
        accelerator; with ``None``, the default, they are counted in every step. Sites beyond the limits are left out.

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
        self.site_limits: tuple[int, int] | None = None
        self.genes = GeneTokens(n_genes, config.dim)
        self.mask_token = nn.Parameter(torch.zeros(config.dim))
        sizes = {"n_heads": config.n_heads, "dropout": config.dropout}
        self.encoder = SiteTransformer(config.dim, config.n_layers, dim_feedforward=config.dim_feedforward, **sizes)
        self.decoder = SiteTransformer(
            config.dim, config.decoder_layers, dim_feedforward=config.decoder_feedforward, **sizes
        )
        self.norm = nn.LayerNorm(config.dim)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        tissue: Tensor,
        hidden: Tensor,
        *,
        n_visible: int | None = None,
        n_output: int | None = None,
    ) -> Tensor:
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
        n_visible
            Leading sites among which all visible ones are, at least one in each window; the others cost less. By
            default they may be anywhere.
        n_output
            Trailing sites whose vectors are wanted; all by default.

        Returns
        -------
        Tensor
            Site vectors (batch x output sites x dim). At a visible site the vector contains the site itself, at a hidden
            one it depends on the visible sites around it only.
        """
        # Hidden sites are queries and never keys: however many are hidden, and however far they are from the next visible
        # site, attention is the same as in training.
        visible = tissue & ~hidden
        visible = torch.where(visible.any(dim=1, keepdim=True), visible, tissue)
        if not self.config.decoder_layers:
            masked = tokens.masked_fill(hidden.unsqueeze(-1), 0.0)
            start = self.mask_token.to(tokens.dtype) + _gaussian_means(masked, positions, visible, n_visible, n_output)
            masked = torch.where(hidden.unsqueeze(-1), start, masked)
            return self.norm(self.encoder(masked, positions, visible, n_visible=n_visible, n_output=n_output))
        encoded = self.encoder(tokens[:, :n_visible], positions[:, :n_visible], visible[:, :n_visible])
        encoded = functional.pad(encoded, (0, 0, 0, tokens.shape[1] - encoded.shape[1]))
        encoded = torch.where(hidden.unsqueeze(-1), self.mask_token.to(tokens.dtype), encoded)
        return self.norm(self.decoder(encoded, positions, tissue, n_output=n_output))

    def loss(self, batch: dict[str, Tensor]) -> Tensor:
        """Mean squared error over the hidden values of a batch of windows: relative (see the configuration), or Eq. 8 of the paper.

        Parameters
        ----------
        batch
            Fields of :class:`stimage.data.Window`, stacked.

        Returns
        -------
        Tensor
            The loss (scalar).
        """
        total, count = self.loss_terms(batch)
        # A small window may happen to have no value hidden.
        return total / count.clamp(min=1)

    def loss_terms(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The parts of :meth:`loss`, which add up over the parts of a batch as the loss itself does not.

        Parameters
        ----------
        batch
            Fields of :class:`stimage.data.Window`, stacked.

        Returns
        -------
        tuple of Tensor
            Sum of the squared errors and the number of values that it is over (scalars).
        """
        expression, genes, hidden = batch["expression"], batch["genes"], batch["hidden"]
        if hidden.dim() == 3:
            tokens = self.genes.with_hidden(expression, genes, hidden, self.mask_token)
            sites = self(tokens, batch["positions"], batch["observed"], torch.zeros_like(batch["observed"]))
            return self._error(self.genes.decode(sites, genes), expression, hidden), hidden.sum()
        return self._hidden_site_terms(
            expression, genes, batch["gene_valid"], batch["positions"], batch["observed"], hidden
        )

    def _hidden_site_terms(
        self, expression: Tensor, genes: Tensor, gene_valid: Tensor, positions: Tensor, tissue: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor]:
        # Only visible sites are read and attended to, and only hidden ones are predicted: both are brought to the front
        # of their part, as many as the window with most of them has, and empty sites are dropped.
        visible = tissue & ~hidden
        visible = torch.where(visible.any(dim=1, keepdim=True), visible, tissue)
        limits = self.site_limits
        if limits is None:
            counts = torch.stack([visible.sum(dim=1), hidden.sum(dim=1)])
            limits = counts.amax(dim=1).tolist()
        shown, hidden_sites = (_first_sites(part, n) for part, n in zip((visible, hidden), limits, strict=True))
        slots = torch.cat([shown, hidden_sites], dim=1)
        tokens = self.genes(_take_sites(expression, shown), genes)
        sites = self(
            functional.pad(tokens, (0, 0, 0, hidden_sites.shape[1])),
            _take_sites(positions, slots),
            torch.cat([visible.gather(1, shown), hidden.gather(1, hidden_sites)], dim=1),
            hidden.gather(1, slots),
            n_visible=shown.shape[1],
            n_output=hidden_sites.shape[1],
        )
        asked = hidden.gather(1, hidden_sites)
        expected = _take_sites(expression, hidden_sites)
        scored = asked.unsqueeze(-1) & gene_valid.unsqueeze(1)
        count = (asked.sum(dim=1) * gene_valid.sum(dim=1)).sum()
        return self._error(self.genes.decode(sites, genes), expected, scored), count

    def _error(self, predicted: Tensor, expected: Tensor, scored: Tensor) -> Tensor:
        """Sum of squared errors over the scored values of windows (batch x sites x genes), relative ones if so configured."""
        # What is not scored is taken as predicted without error: cheaper than to multiply all errors by zeros and ones.
        predicted = torch.where(scored, predicted, expected)
        if not self.config.relative_error:
            return functional.mse_loss(predicted, expected, reduction="sum")
        error = functional.mse_loss(predicted, expected, reduction="none").sum(dim=(1, 2))
        with torch.no_grad():
            count = scored.sum(dim=(1, 2)).clamp(min=1)
            typical = (expected.square() * scored).sum(dim=(1, 2)) / count
        return (error / typical.clamp(min=LEAST_SQUARE)).sum()


LEAST_SQUARE = 1e-4
"""Mean square of hidden values below which a window has next to nothing to predict."""
WIDTHS = (1.0, 2.2)
"""Of the Gaussians that a masked site starts from, in site distances: those of the closed form."""


def _gaussian_means(
    tokens: Tensor, positions: Tensor, visible: Tensor, n_visible: int | None, n_output: int | None
) -> Tensor:
    """Mean over two widths of the Gaussian means of the visible tokens around each site (batch x sites x dim).

    Zero for the leading sites that are no output: none of these is masked, or nobody looks at it.
    """
    n_before = 0 if n_output is None else positions.shape[1] - n_output
    distances = torch.cdist(positions[:, n_before:], positions[:, :n_visible]).square()
    distances = distances.masked_fill(~visible[:, None, :n_visible], torch.inf)
    weights = sum(torch.softmax(distances / (-2 * width**2), dim=-1) for width in WIDTHS) / len(WIDTHS)
    return functional.pad(weights.to(tokens.dtype) @ tokens[:, :n_visible], (0, 0, n_before, 0))


def _first_sites(mask: Tensor, n: int) -> Tensor:
    """Positions of the first ``n`` sites of each window, those in a mask before all others (batch x n)."""
    return mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :n]


def _take_sites(values: Tensor, sites: Tensor) -> Tensor:
    """Values of some sites of each window (batch x sites x ...)."""
    # Rows of one long table are copied whole, which ``gather`` does value by value.
    first = torch.arange(0, values.shape[0] * values.shape[1], values.shape[1], device=values.device)
    return values.flatten(0, 1).index_select(0, (sites + first.unsqueeze(1)).flatten()).unflatten(0, sites.shape)
