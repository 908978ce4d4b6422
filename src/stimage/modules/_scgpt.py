from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor, nn
from torch.nn import functional

from stimage import _validate
from stimage.modules._scgpt_checkpoint import EXPECTED, SPECIAL_TOKENS, read_checkpoint
from stimage.modules._weights import load_strictly

_SMALLEST_SHARE_KNOWN = 0.1


class ScGPTEncoder(nn.Module):
    """scGPT's encoder in plain torch: counts of a cell in, its unit ``<cls>`` vector out.

    The token of a gene is the normalised embedding of its name plus that of its binned value; a transformer without
    positions, normalised after each step, mixes the tokens. For inference: there is no dropout.

    Parameters
    ----------
    vocabulary
        Index of every gene and of the special tokens ``<pad>``, ``<cls>`` and ``<eoc>``.
    dim
        Width.
    n_heads
        Attention heads.
    dim_feedforward
        Hidden units of the feed-forward blocks.
    n_layers
        Layers.
    pad_value
        Value of the tokens that are no genes.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.modules import ScGPTEncoder
    >>> vocabulary = {"GAPDH": 0, "MOBP": 1, "SNAP25": 2, "<pad>": 3, "<cls>": 4, "<eoc>": 5}
    >>> encoder = ScGPTEncoder(vocabulary, dim=16, n_heads=2, dim_feedforward=16, n_layers=1)
    >>> encoder.encode(np.array([[5, 0, 1], [2, 2, 0]]), ["SNAP25", "MOBP", "unknown"]).shape
    (2, 16)

    References
    ----------
    Cui et al., scGPT, Nature Methods 2024. ST-Align, Eq. 5.
    """

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        *,
        dim: int = 512,
        n_heads: int = 8,
        dim_feedforward: int = 512,
        n_layers: int = 12,
        pad_value: float = -2.0,
    ) -> None:
        super().__init__()
        self.vocabulary = dict(vocabulary)
        self.pad_value = pad_value
        self.dim = dim
        # The names are those of the published state dicts.
        self.encoder = nn.ModuleDict({"embedding": nn.Embedding(len(vocabulary), dim), "enc_norm": nn.LayerNorm(dim)})
        self.value_encoder = nn.ModuleDict(
            {"linear1": nn.Linear(1, dim), "linear2": nn.Linear(dim, dim), "norm": nn.LayerNorm(dim)}
        )
        layers = nn.ModuleList(_Layer(dim, n_heads, dim_feedforward) for _ in range(n_layers))
        self.transformer_encoder = nn.ModuleDict({"layers": layers})

    @classmethod
    def from_directory(cls, directory: str | Path) -> Self:
        """Read a checkpoint in scGPT's published layout.

        Reads ``args.json``, ``vocab.json`` and ``best_model.pt`` or ``model.safetensors``, with the names of PyTorch's
        attention or of flash-attention. Special tokens that the vocabulary lacks are appended, as scGPT does. Left out
        are the tensors of ``decoder``, ``mvc_decoder``, ``cls_decoder``, ``flag_encoder``, ``batch_encoder`` and
        ``grad_reverse_discriminator``, which the vector of a cell does not need; all others must fit.

        Parameters
        ----------
        directory
            The folder.

        Returns
        -------
        ScGPTEncoder
            In evaluation mode, with gradients off.

        Raises
        ------
        FileNotFoundError
            If a file is missing.
        ValueError
            If one is damaged, or describes another kind of model.
        """
        vocabulary, arguments, state, source = read_checkpoint(directory)
        encoder = cls(vocabulary, **arguments)
        load_strictly(encoder, state, source=source, expected=EXPECTED, parameter="directory")
        return encoder.eval().requires_grad_(False)

    def forward(self, genes: Tensor, values: Tensor, padding: Tensor) -> Tensor:
        """Vectors of cells from their tokens, of which the first is ``<cls>``.

        Parameters
        ----------
        genes
            Indices in the vocabulary (cells x tokens).
        values
            Binned expression, ``pad_value`` for ``<cls>`` (cells x tokens).
        padding
            Tokens that are not there (cells x tokens).

        Returns
        -------
        Tensor
            Unit vectors (cells x dim).
        """
        tokens = self.encoder["enc_norm"](self.encoder["embedding"](genes))
        values = functional.relu(self.value_encoder["linear1"](values.unsqueeze(-1).clamp(max=512)))
        tokens = tokens + self.value_encoder["norm"](self.value_encoder["linear2"](values))
        seen = ~padding[:, None, None] if padding.any() else None
        for layer in self.transformer_encoder["layers"]:
            tokens = layer(tokens, seen)
        return functional.normalize(tokens[:, 0], dim=-1)

    @torch.inference_mode()
    def encode(
        self,
        counts: NDArray[Any] | sparse.csr_matrix,
        genes: Sequence[str],
        *,
        max_length: int = 1200,
        n_bins: int = 51,
        seed: int = 0,
        batch_size: int = 16,
    ) -> NDArray[np.float32]:
        """Vectors of cells from their counts, on the device of the module.

        The values of the genes that a cell expresses and scGPT knows are replaced by their quantile bins, and when they
        are more than fit, some are drawn at random. As published, a value on which several quantiles fall gets one of
        their bins at random. The draws of a cell depend on ``seed`` and on the cell's own counts alone: not on the order of cells or
        genes, on the other cells or on ``batch_size`` (which can change the last digits).

        Parameters
        ----------
        counts
            Counts, not negative (cells x genes).
        genes
            Names of the genes as scGPT spells them: symbols.
        max_length
            Most tokens of a cell, ``<cls>`` included.
        n_bins
            Bins, of which the first is that of zero.
        seed
            Seed of ties and draws.
        batch_size
            Cells at a time.

        Returns
        -------
        numpy.ndarray
            Unit vectors (cells x dim).

        Raises
        ------
        TypeError, ValueError
            If the input is malformed, too few genes are known, or a cell expresses none of them.
        """
        _validate.check_positive("max_length", max_length, smallest=2)
        _validate.check_positive("n_bins", n_bins, smallest=3)
        _validate.check_positive("batch_size", batch_size)
        _validate.check_seed(seed)
        counts, ids = self._known(_checked_counts(counts, len(genes)), genes)
        cells = [
            _tokens(
                ids[counts.indices[start:end]],
                counts.data[start:end],
                max_length=max_length,
                n_bins=n_bins,
                seed=seed,
            )
            for start, end in zip(counts.indptr[:-1], counts.indptr[1:], strict=True)
        ]
        vectors = np.empty((len(cells), self.dim), dtype=np.float32)
        # Cells of similar length together need little padding.
        order = np.argsort([-len(cell[0]) for cell in cells], kind="stable")
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            vectors[rows] = self(*self._batch([cells[row] for row in rows])).float().cpu().numpy()
        return vectors

    def _known(self, counts: sparse.csr_matrix, genes: Sequence[str]) -> tuple[sparse.csr_matrix, NDArray[np.int64]]:
        """Columns of the genes that the vocabulary has, in its order, and their indices in it."""
        names = [str(gene) for gene in genes]
        if len(set(names)) < len(names):
            repeated = [name for name, n_times in Counter(names).items() if n_times > 1]
            raise ValueError(f"`genes` has repeated names ({_validate.listing(repeated, 3)}): give each gene once.")
        columns = [
            column for column, name in enumerate(names) if name in self.vocabulary and name not in SPECIAL_TOKENS
        ]
        if len(columns) < max(1, _SMALLEST_SHARE_KNOWN * len(names)):
            known = [name for name in self.vocabulary if name not in SPECIAL_TOKENS]
            raise ValueError(
                f"`genes`: {len(columns)} of {len(names)} (e.g. {_validate.listing(names, 3)}) are among the {len(known)} "
                f"that scGPT knows (e.g. {_validate.listing(known, 3)}): at least {_SMALLEST_SHARE_KNOWN:.0%} are needed. "
                "Pass gene symbols, for a human model human ones."
            )
        columns.sort(key=lambda column: self.vocabulary[names[column]])
        counts = counts[:, columns]
        counts.sum_duplicates()
        counts.eliminate_zeros()
        empty = np.flatnonzero(np.diff(counts.indptr) == 0)
        if len(empty):
            raise ValueError(
                f"`counts`: {len(empty)} cells express no gene that scGPT knows (e.g. rows {_validate.listing(empty, 3)}): "
                "remove them first."
            )
        return counts, np.array([self.vocabulary[names[column]] for column in columns], dtype=np.int64)

    def _batch(self, cells: list[tuple[NDArray[np.int64], NDArray[np.int64]]]) -> tuple[Tensor, Tensor, Tensor]:
        """Genes, values and padding of cells (cells x tokens), with ``<cls>`` in front."""
        device = self.encoder["embedding"].weight.device
        shape = (len(cells), 1 + max(len(genes) for genes, _ in cells))
        genes = torch.full(shape, self.vocabulary["<pad>"])
        values = torch.full(shape, float(self.pad_value))
        genes[:, 0] = self.vocabulary["<cls>"]
        for row, (indices, bins) in enumerate(cells):
            genes[row, 1 : 1 + len(indices)] = torch.from_numpy(indices)
            values[row, 1 : 1 + len(indices)] = torch.from_numpy(bins).float()
        padding = genes == self.vocabulary["<pad>"]
        return genes.to(device), values.to(device, self.encoder["embedding"].weight.dtype), padding.to(device)


class _Layer(nn.Module):
    """Transformer layer that normalises after each step.

    ``nn.TransformerEncoderLayer`` would do, but its path for inference keeps all attention weights, in twice the memory.
    """

    def __init__(self, dim: int, n_heads: int, dim_feedforward: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, n_heads)
        self.linear1 = nn.Linear(dim, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, seen: Tensor | None) -> Tensor:
        attention = self.self_attn
        projected = functional.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
        query, key, value = projected.unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        tokens = self.norm1(tokens + attention.out_proj(mixed.transpose(1, 2).flatten(-2)))
        return self.norm2(tokens + self.linear2(functional.relu(self.linear1(tokens))))


def _tokens(
    genes: NDArray[np.int64], values: NDArray[Any], *, max_length: int, n_bins: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Genes of one cell and their bins; of more than fit, a random choice."""
    values = values.astype(np.float64)
    generator = np.random.default_rng([seed, zlib.crc32(values.tobytes(), zlib.crc32(genes.tobytes()))])
    bins = bin_values(values, n_bins, generator)
    if len(genes) > max_length - 1:
        chosen = np.sort(generator.choice(len(genes), max_length - 1, replace=False))
        genes, bins = genes[chosen], bins[chosen]
    return genes, bins


def bin_values(values: NDArray[np.float64], n_bins: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Quantile bins, from 1 to ``n_bins - 1``, of the positive values of one cell.

    The edges are ``n_bins - 1`` quantiles from the minimum to the maximum, and a bin is the number of edges up to the
    value. A value on which several edges fall gets one of their bins at random.
    """
    edges = np.quantile(values, np.linspace(0, 1, n_bins - 1))
    lowest, highest = np.searchsorted(edges, values, side="left"), np.searchsorted(edges, values, side="right")
    drawn = np.ceil(highest - generator.random(len(values)) * (highest - lowest))
    return drawn.astype(np.int64)


def _checked_counts(counts: object, n_genes: int) -> sparse.csr_matrix:
    if not isinstance(counts, np.ndarray) and not sparse.issparse(counts):
        raise TypeError(f"`counts` must be a numpy array or a sparse matrix, found {type(counts).__name__}.")
    if counts.ndim != 2 or counts.shape[1] != n_genes or not counts.shape[0]:
        raise ValueError(
            f"`counts` must have one row per cell and one column for each of the {n_genes} `genes`, found {counts.shape}."
        )
    if counts.dtype.kind not in "iufb":
        raise TypeError(f"`counts` must hold numbers, found dtype {counts.dtype}.")
    matrix = sparse.csr_matrix(counts)
    if not np.isfinite(matrix.data).all() or (matrix.data < 0).any():
        raise ValueError("`counts` has negative, NaN or infinite values: pass counts.")
    return matrix
