from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stimage import _validate
from stimage.modules._alignment_encoders import FeatureTokens, GeneMLPEncoder, GeneTransformerEncoder
from stimage.modules._contrastive import Temperature, info_nce
from stimage.modules._fusion import SymmetricCrossAttention
from stimage.modules._stain import jitter_stain

_LEVELS = ("spot", "niche")
_MODALITIES = ("image", "gene")


@dataclass(frozen=True)
class AlignerConfig:
    """Sizes and parts of a :class:`SpotNicheAligner`.

    Parameters
    ----------
    dim
        Length of tokens, image vectors and gene vectors.
    n_tokens
        Tokens of an image or an expression vector.
    n_fused
        Length of fused vectors; even.
    n_layers
        Transformer blocks of the niche gene encoder.
    n_heads
        Attention heads of the niche gene encoder.
    dropout
        Dropout in all encoders. The paper has 0.1, for a corpus of 1.3 million spots.
    fusion
        Fuse by cross-attention, if the cross-scale loss has a weight and can train it; otherwise the fused vector is the
        concatenation of image and gene vector.
    adaptive
        Encoders that adapt to the tissue; otherwise a linear map of what comes in.
    temperature
        Temperature of all losses; its start, when it is learned. The paper gives none, its code has 0.1.
    learn_temperature
        Whether it is learned.
    weights
        Relative weights of spot, niche and cross-scale loss. The paper has 0.4, 0.3 and 0.3. A loss that is the only one
        there is, as the cross-scale loss without images, is trained on whatever its weight.
    spot_genes
        What the genes of a spot come as: ``"expression"`` or ``"embedding"``, a vector of a frozen encoder such as
        scGPT (as in the paper).
    stain_jitter
        How much more or less stained the pixels of spots are made in training, see :func:`jitter_stain`; 0 for not at all.
        Only where an encoder of pixels is trained: frozen features are computed once.

    Raises
    ------
    TypeError, ValueError
        If a size is not positive, or sizes do not fit together.

    Examples
    --------
    >>> from dataclasses import asdict
    >>> from stimage.modules import AlignerConfig
    >>> asdict(AlignerConfig(dim=64))["weights"]
    (0.4, 0.3, 0.0)
    """

    dim: int = 128
    n_tokens: int = 8
    n_fused: int = 256
    n_layers: int = 6
    n_heads: int = 8
    dropout: float = 0.3
    fusion: bool = True
    adaptive: bool = True
    temperature: float = 0.3
    learn_temperature: bool = False
    weights: tuple[float, float, float] = (0.4, 0.3, 0.0)
    spot_genes: str = "expression"
    stain_jitter: float = 0.0

    def __post_init__(self) -> None:
        for name in ("dim", "n_tokens", "n_fused", "n_layers", "n_heads"):
            _validate.check_positive(name, getattr(self, name))
        _validate.check_share("dropout", self.dropout)
        low, high = Temperature.bounds
        if not low <= self.temperature <= high:
            raise ValueError(f"`temperature` must be between {low} and {high}, found {self.temperature}.")
        if not 0 <= self.stain_jitter < math.inf:
            raise ValueError(f"`stain_jitter` must be a number >= 0, found {self.stain_jitter}.")
        if self.adaptive and self.dim % self.n_heads:
            raise ValueError(f"`n_heads`={self.n_heads} does not divide `dim`={self.dim}.")
        if self.fusion and self.n_fused % 2:
            raise ValueError(f"`n_fused` must be even, found {self.n_fused}: half of it comes from each modality.")
        if len(self.weights) != 3 or min(self.weights) < 0 or not sum(self.weights):
            raise ValueError(f"`weights` must be three numbers >= 0, not all 0, found {self.weights}.")
        _validate.check_choice("spot_genes", self.spot_genes, ("expression", "embedding"))


class AlignmentBatch(NamedTuple):
    """What was measured at some spots and in their niches; a part that was not is ``None``."""

    spot_image: Tensor | None = None
    """Frozen features of the spot's image (n x features), or its pixels (n x height x width x 3, uint8)."""
    niche_image: Tensor | None = None
    """Frozen features of the niche's image (n x features)."""
    spot_genes: Tensor | None = None
    """Centred log expression of the spot (n x genes), or a frozen embedding of it (n x features)."""
    niche_genes: Tensor | None = None
    """Centred log expression of the niche (n x genes)."""
    slide: Tensor | None = None
    """Slide of each spot (n, integers): pairs are then compared within slides only."""

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        return next((len(part) for part in self if part is not None), 0)


class LevelVectors(NamedTuple):
    """Vectors of some spots, or of their niches; ``None`` where there is nothing to make them from."""

    image: Tensor | None
    """``f^I`` (n x dim)."""
    gene: Tensor | None
    """``f^G`` (n x dim)."""
    fused: Tensor | None
    """``h`` (n x fused); ``None`` unless there are image and genes."""


@dataclass(frozen=True)
class Alignment:
    """Vectors of spots and niches, from a :class:`SpotNicheAligner`."""

    spot: LevelVectors
    niche: LevelVectors


class SpotNicheAligner(nn.Module):
    """Aligns images and expression of spots and of their niches (ST-Align).

    Each image and each expression vector is encoded into tokens. Their mean, through a projection of its own, is the
    image vector f^I or gene vector f^G; all tokens of a spot (or niche) fuse into h. The losses are InfoNCE losses with
    negatives from the same slide:

    - spot loss, niche loss (Eq. 10): between f^I and f^G, before fusion, so that either modality can be compared
      with the other when it comes alone. That is how r and u in Eq. 10, outputs of encoders, are read.
    - cross-scale loss (Eq. 11): from the fused spot h^S to the fused niche h^N, in this direction only, as printed.

    Whatever is missing drops out, and the weights of the remaining losses are scaled to a sum of 1; a single one that
    remains is trained on whatever its weight. By default the cross-scale loss has none beside the others. Where image or
    genes are missing at a level, the cross-scale loss is between the vectors of a modality that both levels have (genes
    when nothing else is measured). The cross-attention learns from the cross-scale loss between fused vectors alone: a
    module without niches, or with one modality in them, leaves it at its random start; use ``fusion=False`` there. Where
    that loss has no weight there is no cross-attention.

    The losses see directions only; vectors keep their lengths, in which a clustering finds what stands out.

    Parameters
    ----------
    config
        Sizes and parts.
    n_spot_image, n_niche_image
        Length of frozen image features, or of what ``spot_image_encoder`` gives; ``None``: there are none.
    n_spot_genes, n_niche_genes
        Number of genes (or length of frozen embeddings); ``None``: there are none.
    spot_image_encoder
        Encoder of the pixels of spots (n x height x width x 3, uint8) to features, trained along. Without it, images of
        spots come as frozen features.

    Raises
    ------
    ValueError
        If there is nothing to align, or the configuration cannot be built.

    Examples
    --------
    >>> import torch
    >>> from stimage.modules import AlignerConfig, AlignmentBatch, SpotNicheAligner
    >>> config = AlignerConfig(dim=16, n_tokens=2, n_fused=24, n_layers=1, n_heads=2, weights=(0.4, 0.3, 0.3))
    >>> module = SpotNicheAligner(config, n_spot_image=10, n_niche_image=10, n_spot_genes=50, n_niche_genes=50)
    >>> parts = (torch.randn(6, 10), torch.randn(6, 10), torch.randn(6, 50), torch.randn(6, 50))
    >>> batch = AlignmentBatch(*parts, slide=torch.zeros(6, dtype=torch.long))
    >>> sorted(module.loss(batch))
    ['cross_loss', 'loss', 'niche_loss', 'spot_loss']
    >>> module(batch).niche.fused.shape
    torch.Size([6, 24])

    References
    ----------
    ST-Align, Eqs. 3-11.
    """

    def __init__(
        self,
        config: AlignerConfig,
        *,
        n_spot_image: int | None = None,
        n_niche_image: int | None = None,
        n_spot_genes: int | None = None,
        n_niche_genes: int | None = None,
        spot_image_encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if spot_image_encoder is not None and n_spot_image is None:
            raise ValueError("`spot_image_encoder` needs `n_spot_image`, the length of its features.")
        self.config = config
        self.spot_image_encoder = spot_image_encoder
        self.temperature = Temperature(config.temperature, learned=config.learn_temperature)
        sizes = (config.dim, config.n_tokens)
        linear = {"dropout": config.dropout, "linear": not config.adaptive}
        spot, niche = {}, {}
        if n_spot_image is not None:
            spot["image"] = FeatureTokens(n_spot_image, *sizes, **linear)
        if n_spot_genes is not None:
            kind = GeneMLPEncoder if config.spot_genes == "expression" else FeatureTokens
            spot["gene"] = kind(n_spot_genes, *sizes, **linear)
        if n_niche_image is not None:
            niche["image"] = FeatureTokens(n_niche_image, *sizes, **linear)
        if n_niche_genes is not None and config.adaptive:
            niche["gene"] = GeneTransformerEncoder(
                n_niche_genes, *sizes, config.n_layers, config.n_heads, dropout=config.dropout
            )
        elif n_niche_genes is not None:
            niche["gene"] = GeneMLPEncoder(n_niche_genes, *sizes, linear=True)
        if len(spot) < 2 and len(niche) < 2 and not spot.keys() & niche.keys():
            raise ValueError(
                f"Nothing to align: spots have {sorted(spot) or 'nothing'}, niches have {sorted(niche) or 'nothing'}. "
                "Give the sizes of two modalities of a level, or of the same modality at both levels."
            )
        self.spot, self.niche = _Level(config, spot), _Level(config, niche)
        if len(spot) < 2 or len(niche) < 2:
            # A parameter that no loss depends on would stop distributed training.
            for level in (self.spot, self.niche):
                if level.fusion is not None:
                    level.fusion.requires_grad_(False)

    @torch.no_grad()
    def start_from(self, level: str, modality: str, weights: Tensor, scale: Tensor) -> None:
        """Start an encoder from a linear map to components that image and genes share.

        Parameters
        ----------
        level
            ``"spot"`` or ``"niche"``.
        modality
            ``"image"`` or ``"gene"``.
        weights
            The map (inputs of the encoder x components): how tokens start, which are fused.
        scale
            Weight of each component in the vector that is compared (components).
        """
        part = getattr(self, level)
        part.encoders[modality].start_from(weights)
        scale = scale[: self.config.dim]
        part.heads[modality].weight.diagonal()[: len(scale)] = scale
        if part.fusion is not None:
            part.fusion.start_from_concatenation()

    def forward(self, batch: AlignmentBatch) -> Alignment:
        """All vectors that can be made from what a batch has.

        Parameters
        ----------
        batch
            Spots and niches.

        Returns
        -------
        Alignment
            Their vectors.
        """
        return Alignment(*(getattr(self, level)(self._inputs(batch, level, _MODALITIES)) for level in _LEVELS))

    def embed(self, batch: AlignmentBatch, level: str, modality: str) -> Tensor:
        """One kind of vector; only what it is made from needs to be in the batch, and only that is computed.

        Parameters
        ----------
        batch
            Spots and niches.
        level
            ``"spot"`` or ``"niche"``.
        modality
            ``"image"``, ``"gene"`` or ``"fused"``, which needs both.

        Returns
        -------
        Tensor
            Vectors (n x dim, or n x fused).

        Raises
        ------
        ValueError
            If what is needed is missing from the batch or the module.
        """
        if level not in _LEVELS or modality not in (*_MODALITIES, "fused"):
            raise ValueError(
                '`level` must be "spot" or "niche" and `modality` "image", "gene" or "fused", '
                f"found {level!r} and {modality!r}."
            )
        needed = _MODALITIES if modality == "fused" else (modality,)
        inputs = self._inputs(batch, level, needed)
        missing = [name for name in needed if name not in inputs]
        if missing:
            raise ValueError(f"The batch has no {level} {' and no '.join(missing)}: `modality`={modality!r} needs it.")
        return getattr(getattr(self, level)(inputs), modality)

    def loss(self, batch: AlignmentBatch) -> dict[str, Tensor]:
        """The three losses, as far as the batch has what they need, and their weighted mean.

        Parameters
        ----------
        batch
            Spots and niches.

        Returns
        -------
        dict
            ``"loss"``, and of ``"spot_loss"``, ``"niche_loss"`` and ``"cross_loss"`` those that there are (scalars).

        Raises
        ------
        ValueError
            If nothing in the batch can be compared, or several losses that all have weight 0.
        """
        alignment = self(batch)
        options = {"temperature": self.temperature(), "groups": batch.slide}
        losses = {}
        for level in _LEVELS:
            vectors: LevelVectors = getattr(alignment, level)
            if vectors.image is not None and vectors.gene is not None:
                losses[f"{level}_loss"] = info_nce(vectors.image, vectors.gene, **options)
        for kind in ("fused", "gene", "image"):
            spot, niche = getattr(alignment.spot, kind), getattr(alignment.niche, kind)
            if spot is not None and niche is not None:
                losses["cross_loss"] = info_nce(spot, niche, symmetric=False, **options)
                break
        weights = dict(zip(("spot_loss", "niche_loss", "cross_loss"), self.config.weights, strict=True))
        if len(losses) == 1:
            weights = dict.fromkeys(losses, 1.0)
        total = sum(weights[name] for name in losses)
        if not total:
            raise ValueError(
                f"The batch has nothing to compare: its losses are {sorted(losses) or 'none'}, with `weights`="
                f"{self.config.weights} (spot, niche, cross-scale)."
            )
        return {"loss": sum(weights[name] / total * value for name, value in losses.items()), **losses}

    def _inputs(self, batch: AlignmentBatch, level: str, modalities: tuple[str, ...]) -> dict[str, Tensor]:
        """What goes into the encoders of a level."""
        inputs = {}
        for modality in modalities:
            name = f"{level}_{'genes' if modality == 'gene' else modality}"
            values = getattr(batch, name)
            if values is None:
                continue
            if modality not in getattr(self, level).encoders:
                raise ValueError(f"The batch has `{name}`, but the module was built without: pass `n_{name}`.")
            if name == "spot_image" and self.spot_image_encoder is not None:
                if self.training and self.config.stain_jitter:
                    values = jitter_stain(values, self.config.stain_jitter)
                values = self.spot_image_encoder(values)
            if not values.is_floating_point():
                raise TypeError(
                    f"`{name}` must be floating point, found {values.dtype}: encode pixels first"
                    + (", or pass a `spot_image_encoder`." if name == "spot_image" else ".")
                )
            inputs[modality] = values
        return inputs


class _Level(nn.Module):
    """Encoders, projections and fusion of spots or of niches."""

    def __init__(self, config: AlignerConfig, encoders: dict[str, nn.Module]) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.heads = nn.ModuleDict({name: _head(config.dim) for name in encoders})
        self.fusion = None
        if config.fusion and config.weights[2] and len(encoders) == 2:
            self.fusion = SymmetricCrossAttention(config.dim, config.n_fused, config.n_tokens)

    def forward(self, inputs: dict[str, Tensor]) -> LevelVectors:
        """Vectors from what there is (modality -> n x size)."""
        tokens = {name: self.encoders[name](values) for name, values in inputs.items()}
        vectors = {name: self.heads[name](value.mean(dim=1)) for name, value in tokens.items()}
        fused = None
        if len(tokens) == 2 and self.fusion is not None:
            fused = self.fusion(tokens["image"], tokens["gene"])
        elif len(tokens) == 2:
            fused = torch.cat([vectors["image"], vectors["gene"]], dim=1)
        return LevelVectors(vectors.get("image"), vectors.get("gene"), fused)


def _head(dim: int) -> nn.Linear:
    """Projection to the vector that is compared; starts as the identity, so that a given start is kept."""
    projection = nn.Linear(dim, dim)
    nn.init.eye_(projection.weight)
    nn.init.zeros_(projection.bias)
    return projection
