from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class SymmetricCrossAttention(nn.Module):
    """Fuses image tokens and gene tokens of a spot or a niche by attention in both directions.

    ``z^I = softmax((f^I W_q)(f^G W_k)ᵀ/√d)(f^G W_v)``, ``z^G`` is the same with the roles swapped (and the same W_q, W_k,
    W_v), and ``h = [z^I W_I ; z^G W_G]``. The equations have one vector f per modality: a softmax over one key is 1, so
    that there ``z^I = f^G W_v`` whatever the image. Each modality is therefore several tokens; W_I and W_G apply to
    all tokens side by side, which for one token is the published h.

    Parameters
    ----------
    dim
        Length of tokens.
    dim_out
        Length of the fused vector; even, half of it from each direction.
    n_tokens
        Tokens of each modality.
    n_heads
        Attention heads, each over ``dim / n_heads`` dimensions (d in the softmax); 1 is the number in the equations.

    Raises
    ------
    ValueError
        If the heads do not divide ``dim``, or ``dim_out`` is odd.

    Examples
    --------
    >>> import torch
    >>> from stimage.modules import SymmetricCrossAttention
    >>> fusion = SymmetricCrossAttention(dim=16, dim_out=10, n_tokens=4)
    >>> fusion(torch.randn(3, 4, 16), torch.randn(3, 4, 16)).shape
    torch.Size([3, 10])

    References
    ----------
    ST-Align, Eqs. 7-9.
    """

    def __init__(self, dim: int, dim_out: int, n_tokens: int, n_heads: int = 1) -> None:
        super().__init__()
        if dim % n_heads:
            raise ValueError(f"`n_heads`={n_heads} does not divide `dim`={dim}.")
        if dim_out % 2:
            raise ValueError(f"`dim_out` must be even, found {dim_out}: half of it comes from each modality.")
        self.n_heads = n_heads
        self.projection = nn.Linear(dim, 3 * dim, bias=False)
        self.image_output = nn.Linear(n_tokens * dim, dim_out // 2, bias=False)
        self.gene_output = nn.Linear(n_tokens * dim, dim_out // 2, bias=False)

    @torch.no_grad()
    def start_from_concatenation(self) -> None:
        """Start from the mean image token beside the mean gene token, as far as ``dim_out`` has room for them.

        Attention starts even and values start as the tokens. z^I, which gathers from genes, gives the half of genes.
        """
        dim = self.projection.in_features
        query, key, value = self.projection.weight.chunk(3)
        query.zero_()
        key.mul_(0.1)
        value.copy_(torch.eye(dim))
        for output in (self.image_output, self.gene_output):
            n_tokens = output.in_features // dim
            output.weight.copy_(torch.eye(output.out_features, dim).repeat(1, n_tokens) / n_tokens)

    def forward(self, image: Tensor, gene: Tensor) -> Tensor:
        """Fuse.

        Parameters
        ----------
        image, gene
            Tokens (n x tokens x dim).

        Returns
        -------
        Tensor
            ``h`` (n x dim_out).
        """
        from_image, from_gene = self.attend(image, gene)
        return torch.cat([self.image_output(from_image.flatten(1)), self.gene_output(from_gene.flatten(1))], dim=1)

    def attend(self, image: Tensor, gene: Tensor) -> tuple[Tensor, Tensor]:
        """What the tokens of each modality gather from the other one.

        Parameters
        ----------
        image, gene
            Tokens (n x tokens x dim).

        Returns
        -------
        tuple
            ``z^I`` and ``z^G`` (n x tokens x dim each).
        """
        tokens = torch.stack([image, gene])
        # Modality, sample, head, token, dimension.
        query, key, value = self.projection(tokens).unflatten(-1, (3, self.n_heads, -1)).permute(3, 0, 1, 4, 2, 5)
        attended = functional.scaled_dot_product_attention(query, key.flip(0), value.flip(0))
        from_image, from_gene = attended.transpose(2, 3).flatten(3)
        return from_image, from_gene
