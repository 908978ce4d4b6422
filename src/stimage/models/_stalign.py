from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
import torch

from stimage import _keys, _validate
from stimage._paths import path_of
from stimage.data import PairedSlide, principal_genes
from stimage.data._alignment_data import in_order
from stimage.models._alignment_saving import AlignmentSaveMixin
from stimage.models._alignment_setup import ImageReader, PairedCorpus, has_image, paired_corpus_of
from stimage.models._alignment_training import AlignmentTrainMixin
from stimage.models._expression_head import ExpressionHead
from stimage.models._image_basis import ImageBasis
from stimage.models._image_features import PatchSpec, default_cache, named_encoder
from stimage.models._patch_scale import patch_scale_of
from stimage.models._setup import manifest_of
from stimage.models._stimage import STImage
from stimage.modules import (
    AlignerConfig,
    AlignmentBatch,
    ImageEncoder,
    ScGPTEncoder,
    SpotNicheAligner,
)
from stimage.train import AlignmentOptimizerConfig

if TYPE_CHECKING:
    from anndata import AnnData

Modality = Literal["image", "gene", "fused"]
Level = Literal["spot", "niche", "both"]
PredictionMethod = Literal["regression", "retrieval"]
_BATCH_SIZE = 512
_START_COMPONENTS = 32
_SMALLEST_SPREAD = 1e-3


class STAlign(AlignmentTrainMixin, AlignmentSaveMixin):
    """Image and expression of spots and of their niches in one space (ST-Align).

    Every spot is seen with its niche. What image and genes say of a spot is brought together by contrast with other spots
    of the slide, and so for niches; a spot's fused vector is brought to that of its niche. Image encoders are frozen, their
    features are computed once and kept on disk; what is trained are adapters of these features, the gene encoders and the
    fusion. By default all start in closed form: gene vectors as principal components of expression, image vectors as
    their ridge regression on the image, so that a few hundred spots are enough to train on.

    Parameters
    ----------
    data
        An AnnData or a list of them, each after :func:`stimage.pp.compact_grid` and :func:`stimage.pp.build_niches`. Layer
        and slide key are those of :meth:`setup_anndata`.
    genes
        Vocabulary. By default the ``n_pool_genes`` highly variable genes of :func:`stimage.pp.select_genes`.
    n_pool_genes
        Size of the vocabulary when ``genes`` is not given.
    image_encoder
        Name of an encoder that needs no weights from you, or one from :func:`stimage.modules.load_image_encoder`. ``None``
        aligns without images: spots with their niches, by genes alone.
    niche_image_encoder
        Encoder of niche patches, always frozen; by default that of spots, as it is before training.
    train_image_encoder
        Train a copy of the spot encoder along, on pixels (AE-Img of the paper, with ``image_encoder="resnet50"``); for
        GPUs.
    gene_encoder
        Frozen encoder of the expression of spots: a trained :class:`STImage` or a :class:`stimage.modules.ScGPTEncoder`.
        By default a perceptron that is trained along.
    patches
        Which image patches are looked at.
    spot_context
        Whether the image of a spot is its patch beside that of its niche, which makes part of the cross-scale loss trivial
        and retrieval easier; by default its patch alone, as published.
    niches
        Whether niches are seen at all. Without them, nothing trains the cross-attention: the fused vector is the
        concatenation of image and gene vector.
    n_image_components
        Principal components of image features that are kept at each level.
    niche_key
        ``key_added`` of the niches.
    image_dir
        Folder of the image files that ``uns["spatial"]`` names by relative paths.
    cache_dir
        Folder that keeps image features; by default ``stimage/image_features`` in the user's cache.
    config
        Sizes and parts of the module.
    spectral_start
        Start in closed form, or at random.
    seed
        Seed of everything random.

    Raises
    ------
    KeyError
        If an AnnData has no grid, no niches or no image.
    TypeError
        If an encoder, ``patches`` or ``config`` is something else.
    ValueError
        If counts are not raw, or nothing is left to align.

    Examples
    --------
    >>> import stimage as sti
    >>> from stimage.modules import AlignerConfig
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> sti.pp.build_niches(adata)
    >>> config = AlignerConfig(dim=32, n_layers=1)
    >>> model = sti.models.STAlign(adata, n_pool_genes=200, image_encoder=None, config=config)
    >>> model.train(max_epochs=1, enable_progress_bar=False)
    >>> model.get_latent_representation(modality="gene", level="niche").shape == (adata.n_obs, 32)
    True

    References
    ----------
    ST-Align: A Multimodal Foundation Model for Image-Gene Alignment in Spatial Transcriptomics, arXiv 2411.16793.
    """

    def __init__(
        self,
        data: AnnData | Sequence[AnnData],
        *,
        genes: Sequence[str] | None = None,
        n_pool_genes: int = 1000,
        image_encoder: str | ImageEncoder | None = "efficientnet_lite0",
        niche_image_encoder: str | ImageEncoder | None = None,
        train_image_encoder: bool = False,
        gene_encoder: STImage | ScGPTEncoder | None = None,
        patches: PatchSpec | None = None,
        spot_context: bool = False,
        niches: bool = True,
        n_image_components: int = 128,
        niche_key: str = _keys.NICHE,
        image_dir: str | Path | None = None,
        cache_dir: str | Path | None = None,
        config: AlignerConfig | None = None,
        spectral_start: bool = True,
        seed: int = 0,
    ) -> None:
        _validate.check_positive("n_pool_genes", n_pool_genes)
        _validate.check_positive("n_image_components", n_image_components)
        _validate.check_seed(seed)
        _validate.check_text("niche_key", niche_key)
        _check_parts(gene_encoder, patches, config)
        self.patches = PatchSpec() if patches is None else patches
        self.niches, self.niche_key = niches, niche_key
        self.spot_context = spot_context and niches and not train_image_encoder
        self.seed = seed
        self.gene_encoder = gene_encoder
        self.train_image_encoder = train_image_encoder
        adatas = _validate.check_anndatas(data, "data")
        if image_encoder is not None:
            _check_images(adatas)
        self.image_encoder, self.niche_image_encoder = _encoders(
            image_encoder, niche_image_encoder, trained=train_image_encoder, niches=niches, seed=seed
        )
        self.config = AlignerConfig() if config is None else config
        if gene_encoder is not None:
            self.config = replace(self.config, spot_genes="embedding")
        if not niches:
            self.config = replace(self.config, fusion=False)
        paired = self._read(data, genes, n_pool_genes, image_dir=image_dir, cache_dir=cache_dir)
        self.vocabulary = paired.corpus.vocabulary
        self.manifest = manifest_of(paired.corpus)
        self.basis: ImageBasis | None = None
        if self.image_encoder is not None and (niches or not train_image_encoder):
            self.basis = ImageBasis.fit(
                paired.slides,
                n_colours=self.patches.n_colours,
                n_components=n_image_components,
                spot_context=self.spot_context,
                seed=seed,
            )
        self.paired = self._reduced(paired)
        sees_niches = niches and self.image_encoder is not None
        self.patch_scale = patch_scale_of(paired.corpus, adatas, self.niche_key if sees_niches else None)
        self.n_spot_genes = paired.slides[0].batch([0])["spot_genes"].shape[1]
        # The paper's rate, for 1.3 million spots, takes the vectors of a few hundred further from their start than
        # domains can bear.
        self.optimizer = AlignmentOptimizerConfig(learning_rate=1e-4)
        self.history: dict[str, pd.DataFrame] = {}
        self.n_tokens_seen = 0
        self.is_trained = False
        self.head: ExpressionHead | None = None
        self.spectral_start = spectral_start
        self.start_module()

    def __repr__(self) -> str:
        state = "trained" if self.is_trained else "not trained"
        image = "no image" if self.image_encoder is None else f"image encoder {self.image_encoder.config.name}"
        slides = _validate.listing(self.manifest["slides"]["name"], 3)
        return f"STAlign ({state}): {len(self.genes)} genes, {image}, slides {slides}"

    @property
    def genes(self) -> np.ndarray:
        """Names of the genes of the vocabulary."""
        return self.vocabulary.genes

    setup_anndata = staticmethod(STImage.setup_anndata)

    def get_latent_representation(
        self,
        data: AnnData | Sequence[AnnData] | None = None,
        *,
        modality: Modality | None = None,
        level: Level | None = None,
        image_dir: str | Path | None = None,
        cache_dir: str | Path | None = None,
    ) -> np.ndarray:
        """One vector per observation.

        Parameters
        ----------
        data
            Slides to embed, with grid and niches; those of the model by default.
        modality
            ``"image"``: from the image alone, whatever the counts, ``"gene"``: from expression alone, without an image,
            ``"fused"``: from both. By default ``"fused"``, and ``"gene"`` of a model without images.
        level
            ``"spot"``, ``"niche"``, or ``"both"`` side by side. By default ``"both"``, and ``"spot"`` without niches.
        image_dir
            Folder of the image files of ``data``.
        cache_dir
            Folder that keeps image features.

        Returns
        -------
        numpy.ndarray
            Vectors (observations x dimensions), float32, in the order of the AnnData.

        Raises
        ------
        ValueError
            If the model has no images or no niches and they are asked for.
        """
        modality, level = self.check_embedding_options(modality=modality, level=level)
        needed = {"images": modality != "gene", "counts": modality != "image"}
        paired = self._paired_for(data, image_dir=image_dir, cache_dir=cache_dir, **needed)
        return self.vectors(paired, modality, level)[paired.corpus.observation_order]

    def check_embedding_options(self, *, modality: Any, level: Any) -> tuple[Modality, Level]:
        """Modality and level that were asked for, or the defaults; raise ``ValueError`` unless the model has them.

        Parameters
        ----------
        modality, level
            As in :meth:`get_latent_representation`.
        """
        if level is None:
            level = "both" if self.niches else "spot"
        _validate.check_choice("level", level, get_args(Level))
        if level != "spot" and not self.niches:
            raise ValueError(f"`level`={level!r}: this model was built without niches; pass `level='spot'`.")
        if modality is None:
            modality = "gene" if self.image_encoder is None else "fused"
        _validate.check_choice("modality", modality, get_args(Modality))
        if modality != "gene" and self.image_encoder is None:
            raise ValueError(
                f"`modality`={modality!r} needs images, and this model was built without (`image_encoder=None`): only "
                "`modality='gene'` can be had."
            )
        return modality, level

    @torch.no_grad()
    def vectors(self, paired: PairedCorpus, modality: Modality, level: Level = "spot") -> np.ndarray:
        """Vectors of slides that were read for this model, slide after slide.

        Parameters
        ----------
        paired
            The slides.
        modality, level
            As in :meth:`get_latent_representation`.

        Returns
        -------
        numpy.ndarray
            Vectors (spots x dimensions), float32.
        """
        self.module.eval()
        levels = ("spot", "niche") if level == "both" else (level,)
        device = next(self.module.parameters()).device
        rows = []
        for _, batch in in_order(paired.slides, _BATCH_SIZE):
            batch = AlignmentBatch(**{name: values.to(device) for name, values in batch.items()})
            parts = [self.module.embed(batch, each, modality) for each in levels]
            rows.append(torch.cat(parts, dim=1).float().cpu().numpy())
        return np.concatenate(rows)

    def predict_expression(
        self,
        data: AnnData | Sequence[AnnData],
        *,
        method: PredictionMethod = "regression",
        n_neighbors: int = 50,
        image_dir: str | Path | None = None,
        cache_dir: str | Path | None = None,
    ) -> np.ndarray:
        """Expression from the image alone; counts of ``data`` are not looked at.

        Parameters
        ----------
        data
            Slides with grid, niches and images.
        method
            ``"regression"``: ridge regression on the aligned vectors of the image, fitted on the training slides at the end
            of :meth:`train`; ``"retrieval"``: mean expression of the training spots whose gene
            vectors are nearest to the image vector.
        n_neighbors
            Training spots averaged in retrieval.
        image_dir
            Folder of the image files of ``data``.
        cache_dir
            Folder that keeps image features.

        Returns
        -------
        numpy.ndarray
            log1p of counts per 10,000 (observations x genes of the vocabulary), float32.

        Raises
        ------
        ValueError
            If the model has no images or was not trained, or retrieval is asked for without its training slides.
        """
        self.check_prediction_options(method=method, n_neighbors=n_neighbors)
        paired = self._paired_for(data, image_dir=image_dir, cache_dir=cache_dir, counts=False)
        vectors = {level: self.vectors(paired, "image", level) for level in self.levels}
        predicted = self.expression_of(method, n_neighbors)(vectors)
        return predicted[paired.corpus.observation_order].astype(np.float32)

    def check_prediction_options(self, *, method: Any, n_neighbors: Any) -> None:
        """Raise for options of :meth:`predict_expression` that it would refuse.

        Parameters
        ----------
        method, n_neighbors
            As in :meth:`predict_expression`.
        """
        _validate.check_choice("method", method, get_args(PredictionMethod))
        _validate.check_positive("n_neighbors", n_neighbors)
        if self.image_encoder is None:
            raise ValueError("This model was built without images (`image_encoder=None`): it cannot predict from them.")
        if self.head is None:
            raise ValueError("This model was not trained: call `train` first.")
        if method == "retrieval" and self.paired is None:
            raise ValueError(
                "`method='retrieval'` averages training spots, and this model was loaded without any: pass `data` to "
                "`STAlign.load`, or `method='regression'`."
            )

    def expression_of(
        self, method: PredictionMethod, n_neighbors: int
    ) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
        """What predicts expression (spots x genes) from image vectors by level (spots x dimensions).

        Parameters
        ----------
        method, n_neighbors
            As in :meth:`predict_expression`.
        """
        if method == "regression":
            return lambda vectors: np.maximum(self.head(np.concatenate(list(vectors.values()), axis=1)), 0)
        from sklearn.neighbors import NearestNeighbors

        measured = np.concatenate([slide.measured for slide in self.paired.slides])
        keys = self.vectors(self.paired, "gene")[measured]
        expression = np.concatenate([_expression(slide) for slide in self.paired.slides])[measured]
        number = min(n_neighbors, len(keys))
        finder = NearestNeighbors(n_neighbors=number, metric="cosine", algorithm="brute").fit(keys)
        return lambda vectors: np.maximum(finder.kneighbors_graph(vectors["spot"]) @ expression / number, 0)

    @property
    def levels(self) -> tuple[Literal["spot", "niche"], ...]:
        """Levels that the model sees."""
        return ("spot", "niche") if self.niches else ("spot",)

    @property
    def n_head_inputs(self) -> int:
        """What the regression of expression sees of a spot: image vectors of the spot, and of its niche."""
        return self.config.dim * (2 if self.niches else 1)

    def _head_inputs(self, paired: PairedCorpus) -> list[np.ndarray]:
        """What the image says of the spots of each slide: aligned vectors of spot and niche."""
        level = "both" if self.niches else "spot"
        return [self.vectors(PairedCorpus(paired.corpus, [slide]), "image", level) for slide in paired.slides]

    def head_pairs(self, paired: PairedCorpus) -> list[tuple[np.ndarray, np.ndarray]]:
        """What the regression of expression is fitted on: its inputs and expression of the measured spots of each slide."""
        inputs = self._head_inputs(paired)
        return [
            (part[slide.measured], _expression(slide)[slide.measured])
            for part, slide in zip(inputs, paired.slides, strict=True)
        ]

    def _fit_head(self, penalty: float | None) -> None:
        inputs, expression = zip(*self.head_pairs(self.paired), strict=True)
        self.head = ExpressionHead.fit(list(inputs), list(expression), donors=self.donors, penalty=penalty)

    @property
    def donors(self) -> list[str]:
        """Who each training slide is from; a slide of nobody known is from somebody of its own."""
        slides = [slide.slide for slide in self.paired.slides]
        return [f"donor {slide.donor}" if slide.donor else f"slide {slide.name}" for slide in slides]

    def start_module(self) -> None:
        """Build the module and give it its start, which the model's slides decide."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.module = self._build_module()
        if self.spectral_start:
            self._start_from_spectrum()
        self.module.eval()

    def _build_module(self) -> SpotNicheAligner:
        sizes: dict[str, Any] = {"n_spot_genes": self.n_spot_genes}
        if self.niches:
            sizes["n_niche_genes"] = len(self.genes)
        if self.train_image_encoder:
            sizes["n_spot_image"] = self.image_encoder.config.width
            sizes["spot_image_encoder"] = self.image_encoder.requires_grad_(True)
        elif self.basis is not None:
            sizes["n_spot_image"] = self.basis.n_spot_image
        if self.niches and self.basis is not None:
            sizes["n_niche_image"] = self.basis.n_niche_image
        return SpotNicheAligner(self.config, **sizes)

    def _start_from_spectrum(self) -> None:
        """Gene tokens start as principal components of expression, image tokens as what the image says of these."""
        slides = self.paired.slides
        number = min(_START_COMPONENTS, self.config.dim)
        axes, deviation = principal_genes([slide.slide for slide in slides], number)
        # With few spots the last directions have no spread but that of rounding.
        varies = deviation > _SMALLEST_SPREAD * deviation[0]
        axes, deviation = axes[:, varies], deviation[varies]
        typical = float(np.sqrt((deviation**2).mean()))
        axes = axes / typical
        # What is compared starts halfway to components of equal spread: the first ones lead, the others are heard.
        scale = torch.from_numpy(np.sqrt(typical / deviation))
        batches = [slide.batch(np.flatnonzero(slide.measured)) for slide in slides]
        for level in ("spot", "niche") if self.niches else ("spot",):
            if level == "spot" and self.gene_encoder is not None:
                continue  # what a frozen encoder says has no such components
            self.module.start_from(level, "gene", torch.from_numpy(axes), scale)
            scores = [batch[f"{level}_genes"] @ axes for batch in batches]
            images = [batch.get(f"{level}_image") for batch in batches]
            if images[0] is not None and images[0].dtype != np.uint8:
                head = ExpressionHead.fit(images, scores, donors=self.donors)
                self.module.start_from(level, "image", torch.from_numpy(head.weights.astype(np.float32)), scale)

    def _reduced(self, paired: PairedCorpus) -> PairedCorpus:
        """The same slides with what the module sees of their images."""
        slides = paired.slides
        if self.basis is not None and slides[0].spot_image is not None:
            slides = [replace(slide, **self.basis(slide)) for slide in slides]
        return replace(paired, slides=slides)

    def _read(
        self,
        data: AnnData | Sequence[AnnData],
        genes: Any,
        n_pool_genes: int | None = None,
        *,
        image_dir: str | Path | None,
        cache_dir: str | Path | None,
        images: bool = True,
        counts: bool = True,
    ) -> PairedCorpus:
        if cache_dir is not None:
            _validate.check_path("cache_dir", cache_dir)
        reader = None
        if images and self.image_encoder is not None:
            reader = ImageReader(
                self.image_encoder,
                self.niche_image_encoder,
                self.patches,
                image_dir,
                default_cache() if cache_dir is None else path_of(cache_dir),
                spot_pixels=self.train_image_encoder,
            )
        return paired_corpus_of(
            data,
            genes,
            n_pool_genes,
            niche_key=self.niche_key if self.niches else None,
            reader=reader,
            gene_encoder=self.gene_encoder,
            counts=counts,
        )

    def _paired_for(
        self,
        data: AnnData | Sequence[AnnData] | None,
        *,
        image_dir: str | Path | None,
        cache_dir: str | Path | None,
        images: bool = True,
        counts: bool = True,
    ) -> PairedCorpus:
        """The model's own slides, or others with what is needed of them."""
        if data is None:
            if self.paired is None:
                raise ValueError("This model was loaded without slides: pass `data`, or `data` to `STAlign.load`.")
            return self.paired
        if images and self.image_encoder is not None:
            _check_images(_validate.check_anndatas(data, "data"))
        paired = self._read(
            data, self.vocabulary, image_dir=image_dir, cache_dir=cache_dir, images=images, counts=counts
        )
        return self._reduced(paired)


def _check_images(adatas: list[AnnData]) -> None:
    without = [number for number, adata in enumerate(adatas) if not has_image(adata)]
    if without:
        which = "the AnnData has" if len(adatas) == 1 else f"AnnData number {without[0]} (from 0) has"
        raise KeyError(
            f"No image: {which} no `uns['spatial']`. Add the image in the way of squidpy; or go without: a model built with "
            "`image_encoder=None` aligns spots with their niches by genes alone, and any model has `modality='gene'`."
        )


def _check_parts(gene_encoder: Any, patches: Any, config: Any) -> None:
    """Raise ``TypeError`` for parts of another kind."""
    for parameter, value, kinds in (
        ("gene_encoder", gene_encoder, (STImage, ScGPTEncoder)),
        ("patches", patches, (PatchSpec,)),
        ("config", config, (AlignerConfig,)),
    ):
        if value is not None and not isinstance(value, kinds):
            names = " or ".join(f"{kind.__module__.rpartition('.')[0]}.{kind.__name__}" for kind in kinds)
            raise TypeError(f"`{parameter}` must be a {names}, found {type(value).__name__}.")


def _encoders(
    spot: str | ImageEncoder | None,
    niche: str | ImageEncoder | None,
    *,
    trained: bool,
    niches: bool,
    seed: int,
) -> tuple[ImageEncoder | None, ImageEncoder | None]:
    """Encoders of spot and niche patches, built where only a name was given; one that is trained is a copy."""
    for parameter, value in (("image_encoder", spot), ("niche_image_encoder", niche)):
        if value is not None and not isinstance(value, str | ImageEncoder):
            raise TypeError(
                f"`{parameter}` must be a name, an encoder of `stimage.modules.load_image_encoder` or None, found "
                f"{type(value).__name__}."
            )
    if spot is None:
        if niche is not None:
            raise ValueError("`niche_image_encoder` was given without `image_encoder`: pass both, or neither.")
        if trained:
            raise ValueError("`train_image_encoder` was set without `image_encoder`: pass one, or leave it out.")
        return None, None
    spot = named_encoder(spot, seed) if isinstance(spot, str) else spot
    niche = spot if niche is None else named_encoder(niche, seed) if isinstance(niche, str) else niche
    spot = copy.deepcopy(spot) if trained else spot
    return spot.eval().requires_grad_(False), niche.eval().requires_grad_(False) if niches else None


def _expression(slide: PairedSlide) -> np.ndarray:
    """Expression of each spot (spots x genes)."""
    return slide.slide.expression[slide.slide.site_of_observation].toarray()
