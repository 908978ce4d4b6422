from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class GeneTokens(nn.Module):
    """Turns the expression of any subset of genes into a site token, and a site vector back into expression.

    A token is ``Σ_k x_k E[g_k]``, a prediction ``⟨W h, E'[g_k]⟩ + b[g_k]``: channels may change from window to window,
    since every gene has its own embeddings E and E'.

    Parameters
    ----------
    n_genes
        Size of the vocabulary.
    dim
        Length of gene embeddings and tokens.

    Examples
    --------
    >>> import torch
    >>> from stimage.modules import GeneTokens
    >>> tokens = GeneTokens(n_genes=100, dim=16)
    >>> genes = torch.tensor([[3, 7, 42]])
    >>> sites = tokens(torch.randn(1, 5, 3), genes)
    >>> sites.shape, tokens.decode(sites, genes).shape
    (torch.Size([1, 5, 16]), torch.Size([1, 5, 3]))
    """

    # Rows are looked up with ``functional.embedding``: indexing adds up gradients in an order that varies between threads.
    def __init__(self, n_genes: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(n_genes, dim) * n_genes**-0.5)
        self.output_embedding = nn.Parameter(torch.randn(n_genes, dim) * n_genes**-0.5)
        self.output_bias = nn.Parameter(torch.zeros(n_genes))
        self.norm = nn.LayerNorm(dim)
        self.output_projection = nn.Linear(dim, dim)

    @torch.no_grad()
    def start_from_spectrum(self, axes: Tensor, deviation: Tensor) -> None:
        """Start from the principal axes of a corpus, so that the untrained model is a principal component analysis.

        Parameters
        ----------
        axes
            Orthonormal axes (genes x components), largest variance first. Embedding dimensions beyond them start small.
        deviation
            Standard deviation along each axis (components).
        """
        n_components = min(axes.shape[1], self.embedding.shape[1])
        for embedding in (self.embedding, self.output_embedding):
            embedding.mul_(0.1)
            embedding[:, :n_components] = axes[:, :n_components]
        # Tokens are normalised to unit spread, predictions are in units of expression: the projection makes up for it.
        self.output_projection.bias.zero_()
        self.output_projection.weight.zero_()
        typical = deviation.square().sum().div(self.embedding.shape[1]).sqrt()
        self.output_projection.weight.fill_diagonal_(float(typical))

    def forward(self, expression: Tensor, genes: Tensor) -> Tensor:
        """Tokens of sites from some genes.

        Parameters
        ----------
        expression
            Centred expression, zero where unknown (batch x sites x genes).
        genes
            Vocabulary indices of these genes (batch x genes).

        Returns
        -------
        Tensor
            Tokens (batch x sites x dim).
        """
        return self.normalise(expression @ functional.embedding(genes, self.embedding))

    def with_hidden(self, expression: Tensor, genes: Tensor, hidden: Tensor, mask_token: Tensor) -> Tensor:
        """Tokens of sites of which some values are hidden: ``Σ_visible x_k E[g_k] + Σ_hidden m ⊙ E[g_k]``, normalised.

        Left out of the sum, a hidden value would be one at the gene's mean, and nothing would say which genes are not known.

        Parameters
        ----------
        expression
            Centred expression (batch x sites x genes); hidden values are not read.
        genes
            Vocabulary indices of these genes (batch x genes).
        hidden
            Hidden values (batch x sites x genes).
        mask_token
            ``m``, which stands for a hidden value (dim).

        Returns
        -------
        Tensor
            Tokens (batch x sites x dim).

        Examples
        --------
        >>> import torch
        >>> from stimage.modules import GeneTokens
        >>> tokens, genes = GeneTokens(n_genes=100, dim=16), torch.tensor([[3, 7, 42]])
        >>> hidden = torch.tensor([[[True, False, False]]])
        >>> tokens.with_hidden(torch.randn(1, 1, 3), genes, hidden, torch.ones(16)).shape
        torch.Size([1, 1, 16])
        """
        embedding = functional.embedding(genes, self.embedding)
        unknown = (hidden.to(embedding.dtype) @ embedding) * mask_token
        return self.normalise(expression.masked_fill(hidden, 0.0) @ embedding + unknown)

    def normalise(self, projected: Tensor) -> Tensor:
        """Tokens from expression that was already projected on the embeddings of all measured genes.

        Parameters
        ----------
        projected
            ``Σ_g x_g E[g]`` (... x dim).

        Returns
        -------
        Tensor
            Tokens (... x dim).
        """
        # Site vectors add up over the blocks: under autocast they stay numbers of 32 bits.
        return self.norm(projected.to(self.norm.weight.dtype))

    def decode(self, sites: Tensor, genes: Tensor) -> Tensor:
        """Centred expression of some genes, predicted from site vectors.

        Parameters
        ----------
        sites
            Site vectors (batch x sites x dim).
        genes
            Vocabulary indices (batch x genes).

        Returns
        -------
        Tensor
            Predictions (batch x sites x genes).
        """
        latent = self.output_projection(sites)
        embedding = functional.embedding(genes, self.output_embedding)
        bias = functional.embedding(genes, self.output_bias.unsqueeze(1))
        return latent @ embedding.transpose(1, 2) + bias.transpose(1, 2)

    def decode_all(self, sites: Tensor) -> Tensor:
        """Centred expression of every gene of the vocabulary.

        Parameters
        ----------
        sites
            Site vectors (... x dim).

        Returns
        -------
        Tensor
            Predictions (... x genes).
        """
        return self.output_projection(sites) @ self.output_embedding.T + self.output_bias
