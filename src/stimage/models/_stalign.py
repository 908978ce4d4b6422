from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import torch

from stimage import _keys, _validate
from stimage.data import StoredPairs
from stimage.data.sampling._alignment_data import Negatives
from stimage.models._base import SlideModel
from stimage.models._devices import find_device, on_device
from stimage.models._options import changed_optimizer
from stimage.models._setup import manifest_of
from stimage.models._stimage import STImage
from stimage.models.alignment._closed_fusion import ClosedFusion
from stimage.models.alignment._encoders import check_images, check_parts, gene_encoder_id, image_encoders
from stimage.models.alignment._expression_head import ExpressionHead
from stimage.models.alignment._image_basis import ImageBasis
from stimage.models.alignment._image_features import PatchSpec, encoder_id
from stimage.models.alignment._module import (
    Level,
    Modality,
    asked_levels,
    asked_vectors,
    started_aligner,
    vectors,
)
from stimage.models.alignment._patch_scale import patch_scale_of
from stimage.models.alignment._prediction import (
    PredictionMethod,
    check_prediction,
    fit_head,
    images_of,
    predictor_of,
)
from stimage.models.alignment._presets import ALIGNER_PRESETS, AlignerPreset
from stimage.models.alignment._saving import FLAGS, PARTS, restored, tensors_of
from stimage.models.alignment._setup import ImageReader, PairedCorpus, paired_corpus_of
from stimage.models.alignment._stored import check_stored, stored_corpus, stored_scale
from stimage.models.alignment._training import check_alignment_options, train_aligner
from stimage.models.checkpoints._config import StoredConfig, losses_by_name
from stimage.models.checkpoints._manifest import GENE_ENCODER, GENE_ENCODER_FILES, MODEL_FILES
from stimage.models.checkpoints._model_card import training_facts
from stimage.modules import AlignerConfig, ImageEncoder, ScGPTEncoder
from stimage.train import of_first_process

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.data import PairedSlide
    from stimage.modules import SpotNicheAligner


class STAlign(SlideModel):
    """Image and expression of spots and of their niches in one space (ST-Align).

    Every spot is used with its niche. Image and gene vectors of a spot are aligned by contrast with other spots
    of the slide, and so for niches. Image encoders are frozen, their features are computed once and kept on disk; what is
    trained are adapters of these features and the gene encoders, and with the paper's cross-scale loss the fusion, which
    brings a spot to its niche. By default all start in closed form: gene vectors as principal components of expression,
    image vectors as their ridge regression on the image, so that a few hundred spots are enough to train on.

    Parameters
    ----------
    data
        An AnnData or a list of them, each after :func:`stimage.pp.compact_grid` and :func:`stimage.pp.build_niches`. Layer
        and slide key are those of :meth:`setup_anndata`. Or a corpus on disk with image features, for more slides than fit
        into memory: what :func:`stimage.pp.build_pairs` returns.
    genes
        Vocabulary. By default the ``n_pool_genes`` highly variable genes of :func:`stimage.pp.select_genes`; of a corpus on
        disk all its genes.
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
    preset
        ``"default"`` or ``"paper"``: its weights of the losses, dropout, temperature and learning rate, one patch per level
        and a random start, where nothing else is chosen. Encoders are chosen apart.
    patches
        Which image patches are used; by default those of the preset.
    spot_context
        Whether the image of a spot is its patch beside that of its niche, which makes part of the cross-scale loss trivial
        and retrieval easier; by default its patch alone, as published.
    niches
        Whether niches are seen at all. Without them nothing trains a fusion.
    n_image_components
        Principal components of image features that are kept at each level.
    niche_key
        ``key_added`` of the niches.
    image_dir
        Folder of the image files that ``uns["spatial"]`` names by relative paths.
    cache_dir
        Folder that keeps image features; by default ``stimage/image_features`` in the user's cache.
    config
        Sizes and parts of the module; by default those of the preset. Where the cross-scale loss has no weight, which is the
        default, nothing trains the cross-attention, and fused vectors are those of the closed form: principal components of
        expression beside their regression on the image. Without a start in closed form they are image and gene vector side
        by side.
    spectral_start
        Start in closed form, or at random; by default as the preset says.
    seed
        Seed of everything random.
    accelerator, device
        Where frozen encoders compute features: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"gpu"``, ``"cuda"`` or
        ``"mps"``, and the number of the device. See the guide to GPUs.

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
        data: AnnData | Sequence[AnnData] | StoredPairs,
        *,
        genes: Sequence[str] | None = None,
        n_pool_genes: int = 1000,
        image_encoder: str | ImageEncoder | None = "efficientnet_lite0",
        niche_image_encoder: str | ImageEncoder | None = None,
        train_image_encoder: bool = False,
        gene_encoder: STImage | ScGPTEncoder | None = None,
        preset: AlignerPreset = "default",
        patches: PatchSpec | None = None,
        spot_context: bool = False,
        niches: bool = True,
        n_image_components: int = 128,
        niche_key: str = _keys.NICHE,
        image_dir: str | Path | None = None,
        cache_dir: str | Path | None = None,
        config: AlignerConfig | None = None,
        spectral_start: bool | None = None,
        seed: int = 0,
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> None:
        find_device(accelerator, device)
        _validate.check_positive("n_pool_genes", n_pool_genes)
        _validate.check_positive("n_image_components", n_image_components)
        _validate.check_seed(seed)
        _validate.check_text("niche_key", niche_key)
        _validate.check_choice("preset", preset, ALIGNER_PRESETS)
        check_parts(gene_encoder, patches, config)
        chosen = ALIGNER_PRESETS[preset]
        stored = data if isinstance(data, StoredPairs) else None
        if stored is not None:
            alone = {"gene_encoder": gene_encoder, "train_image_encoder": train_image_encoder}
            patches = check_stored(stored, genes=genes, patches=patches, **alone)
        self.patches = chosen.patches if patches is None else patches
        self.niches, self.niche_key = niches, niche_key
        self.spot_context = spot_context and niches and not train_image_encoder
        self.seed = seed
        self.gene_encoder = gene_encoder
        self.train_image_encoder = train_image_encoder
        adatas = _validate.check_anndatas(data, "data") if stored is None else []
        if image_encoder is not None and stored is None:
            check_images(adatas)
        self.image_encoder, self.niche_image_encoder = image_encoders(
            image_encoder, niche_image_encoder, trained=train_image_encoder, niches=niches, seed=seed
        )
        self.config = chosen.config if config is None else config
        if gene_encoder is not None:
            self.config = replace(self.config, spot_genes="embedding")
        if not niches:
            self.config = replace(self.config, fusion=False)
        reading = {"image_dir": image_dir, "cache_dir": cache_dir, "accelerator": accelerator, "device": device}
        paired = self._read(data, genes, n_pool_genes, **reading)
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
        if stored is None:
            self.patch_scale = patch_scale_of(paired.corpus, adatas, niche_key if sees_niches else None)
        else:
            self.patch_scale = stored_scale(stored, niches=sees_niches)
        self.n_spot_genes = paired.slides[0].batch([0])["spot_genes"].shape[1]
        self.optimizer = chosen.optimizer
        self.history: dict[str, pd.DataFrame] = {}
        self.n_tokens_seen = 0
        self.is_trained = False
        self.head: ExpressionHead | None = None
        self.spectral_start = chosen.spectral_start if spectral_start is None else spectral_start
        self.module, self.fusion = self._started(self.paired.slides)

    def __repr__(self) -> str:
        state = "trained" if self.is_trained else "not trained"
        image = "no image" if self.image_encoder is None else f"image encoder {self.image_encoder.config.name}"
        slides = _validate.listing(self.manifest["slides"]["name"], 3)
        return f"STAlign ({state}): {len(self.genes)} genes, {image}, slides {slides}"

    def train(
        self,
        max_epochs: int = 20,
        *,
        batch_size: int = 128,
        negatives: Negatives = "slide",
        accelerator: str = "auto",
        devices: int | str | list[int] = "auto",
        num_workers: int = 0,
        plan_kwargs: dict[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train with scvi-tools' trainer; at the end, the regression from image to expression is fitted.

        Its penalty is the one that predicts each slide best from the others, and its predictions are shrunk to the gene means as
        donors ask for that it has not seen (slides, where all are of one donor; quarters of a single slide).

        Parameters
        ----------
        max_epochs
            Number of epochs, in each of which every spot with counts is seen once.
        batch_size
            Most spots in a batch.
        negatives
            What a spot is contrasted with: ``"slide"``, other spots of its slide, so that stain and sequencing depth of a
            slide do not identify pairs; ``"batch"``, spots of all slides.
        accelerator, devices
            Where to train, as in Lightning. With ``negatives="slide"`` several devices each take batches of their own and
            average their gradients, so that a step is one of several slides; an epoch leaves out the batches that do not
            go round, fewer than there are devices.
        num_workers
            Processes that prepare batches. Results do not depend on it.
        plan_kwargs
            Fields of :class:`stimage.train.AlignmentOptimizerConfig` that are not those of the preset: ``learning_rate`` is 1e-4
            by default, and 5e-4 in the paper, on 1.3 million spots.
        trainer_kwargs
            Passed on to :class:`scvi.train.Trainer`.

        Returns
        -------
        None
            Fills :attr:`history` with a data frame for each loss: ``train_loss``, ``train_spot_loss``,
            ``train_niche_loss`` and ``train_cross_loss``.

        Raises
        ------
        TypeError
            If a key of ``plan_kwargs`` or an argument of the trainer is not known.
        ValueError
            If the model was loaded without slides.
        """
        batches = {"batch_size": batch_size, "negatives": negatives, "num_workers": num_workers}
        check_alignment_options(max_epochs=max_epochs, **batches, **trainer_kwargs)
        optimizer = changed_optimizer(self.optimizer, plan_kwargs)
        slides, self.optimizer = self._paired_for(None).slides, optimizer
        trainer = {"max_epochs": max_epochs, "accelerator": accelerator, "devices": devices, **trainer_kwargs}
        fitted = train_aligner(self.module, slides, optimizer=optimizer, **batches, trainer=trainer, seed=self.seed)
        self.history = fitted.losses
        self.n_tokens_seen += fitted.n_tokens
        self.is_trained = True
        if self.image_encoder is not None:
            with on_device(fitted.device, self.module):
                self.head = of_first_process(fit_head(self.module, slides, spot_context=self.spot_context))

    def get_latent_representation(
        self,
        data: AnnData | Sequence[AnnData] | StoredPairs | None = None,
        *,
        modality: Modality | None = None,
        level: Level | None = None,
        image_dir: str | Path | None = None,
        cache_dir: str | Path | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> np.ndarray:
        """One vector per observation.

        Parameters
        ----------
        data
            Slides to embed, with grid and niches, or a corpus on disk with image features; those of the model by default.
        modality
            ``"image"``: from the image alone, whatever the counts, ``"gene"``: from expression alone, without an image,
            ``"fused"``: from both, in closed form unless the cross-scale loss trained a fusion. By default ``"fused"``, and
            ``"gene"`` of a model without images.
        level
            ``"spot"``, ``"niche"``, or ``"both"`` side by side. By default ``"both"``, and ``"spot"`` without niches.
        image_dir
            Folder of the image files of ``data``.
        cache_dir
            Folder that keeps image features.
        accelerator, device
            Where the model and its encoders run: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"gpu"``, ``"cuda"`` or
            ``"mps"``, and the number of the device. See the guide to GPUs.

        Returns
        -------
        numpy.ndarray
            Vectors (observations x dimensions), float32, in the order of the AnnData.

        Raises
        ------
        ValueError
            If images or niches are requested of a model without them, or there is no such device.
        """
        place = find_device(accelerator, device, self.module)
        modality, level = asked_vectors(modality, level, niches=self.niches, images=self.image_encoder is not None)
        needed = {"images": modality != "gene", "counts": modality != "image"}
        reading = {"image_dir": image_dir, "cache_dir": cache_dir, "accelerator": accelerator, "device": device}
        paired = self._paired_for(data, **reading, **needed)
        if modality == "fused" and self.fusion is not None:
            return self.fusion(paired.slides, asked_levels(level))[paired.corpus.observation_order]
        with on_device(place, self.module):
            return vectors(self.module, paired.slides, modality, level)[paired.corpus.observation_order]

    def _embedding_facts(
        self, *, modality: Modality | None = None, level: Level | None = None, **_: Any
    ) -> dict[str, Any]:
        asked = asked_vectors(modality, level, niches=self.niches, images=self.image_encoder is not None)
        return dict(zip(("modality", "level"), asked, strict=True))

    def predict_expression(
        self,
        data: AnnData | Sequence[AnnData] | StoredPairs,
        *,
        method: PredictionMethod = "regression",
        n_neighbors: int = 50,
        image_dir: str | Path | None = None,
        cache_dir: str | Path | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> np.ndarray:
        """Expression from the image alone; counts of ``data`` are not used.

        Parameters
        ----------
        data
            Slides with grid, niches and images, or a corpus on disk with image features.
        method
            ``"regression"``: ridge regression on the components of the image features of spot and niche (with
            ``train_image_encoder`` on the aligned vectors of the image), fitted on the training slides at the end of
            :meth:`train`; ``"retrieval"``: mean expression of the training spots whose gene vectors are nearest to the image
            vector.
        n_neighbors
            Training spots averaged in retrieval.
        image_dir
            Folder of the image files of ``data``.
        cache_dir
            Folder that keeps image features.
        accelerator, device
            Where the model and its encoders run, as in :meth:`get_latent_representation`.

        Returns
        -------
        numpy.ndarray
            log1p of counts per 10,000 (observations x genes of the vocabulary), float32.

        Raises
        ------
        ValueError
            If the model has no images or was not trained, retrieval is requested without its training slides, or there is no
            such device.
        """
        place = find_device(accelerator, device, self.module)
        check_prediction(self, method=method, n_neighbors=n_neighbors)
        reading = {"image_dir": image_dir, "cache_dir": cache_dir, "accelerator": accelerator, "device": device}
        paired = self._paired_for(data, **reading, counts=False)
        with on_device(place, self.module):
            predict = predictor_of(self, method, n_neighbors)
            predicted = np.concatenate([predict(images_of(slide)) for slide in paired.slides])
        return predicted[paired.corpus.observation_order].astype(np.float32)

    @classmethod
    def load(
        cls,
        directory: str | Path,
        data: AnnData | Sequence[AnnData] | StoredPairs | None = None,
        *,
        image_encoder: ImageEncoder | None = None,
        niche_image_encoder: ImageEncoder | None = None,
        gene_encoder: ScGPTEncoder | None = None,
        image_dir: str | Path | None = None,
        cache_dir: str | Path | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> Self:
        """Read a model that :meth:`save` wrote.

        Parameters
        ----------
        directory
            The checkpoint.
        data
            Slides, or a corpus on disk with image features, for :meth:`train`, :meth:`get_latent_representation` without
            arguments and retrieval.
        image_encoder, niche_image_encoder
            The encoders that the model was trained with, where they need weights from you; also of an encoder that was
            trained along, as it was before.
        gene_encoder
            The same for scGPT.
        image_dir, cache_dir
            Folders of image files and of image features, for ``data``.
        accelerator, device
            Where encoders compute features of ``data``, as in :class:`STAlign`.

        Returns
        -------
        Self
            The model, as it was saved.

        Raises
        ------
        FileNotFoundError
            If there is no checkpoint.
        ValueError
            If it is of another kind or version, truncated or altered, or an encoder is missing or another one.
        """
        find_device(accelerator, device)
        model = cls._load(
            directory,
            image_encoder=image_encoder,
            niche_image_encoder=niche_image_encoder,
            gene_encoder=gene_encoder,
        )
        reading = {"image_dir": image_dir, "cache_dir": cache_dir, "accelerator": accelerator, "device": device}
        model.paired = None if data is None else model._paired_for(data, **reading)
        return model

    def _tensors(self) -> dict[str, torch.Tensor]:
        return tensors_of(self.module, self.basis, self.head, self.fusion)

    def _config(self) -> dict[str, Any]:
        encoders = [self.image_encoder, self.niche_image_encoder]
        return {
            **{name: asdict(getattr(self, name)) for name in PARTS},
            **{name: getattr(self, name) for name in (*FLAGS, "n_spot_genes", "niche_key", "n_tokens_seen")},
            "image_encoders": [None if encoder is None else encoder.config.name for encoder in encoders],
            "image_encoder_ids": [None if encoder is None else encoder_id(encoder) for encoder in encoders],
            "gene_encoder": None if self.gene_encoder is None else type(self.gene_encoder).__name__,
            "gene_encoder_id": None if self.gene_encoder is None else gene_encoder_id(self.gene_encoder),
            "history": losses_by_name(self.history),
        }

    def _save_parts(self, folder: Path, *, overwrite: bool) -> None:
        if isinstance(self.gene_encoder, STImage):
            self.gene_encoder.save(folder / GENE_ENCODER, overwrite=overwrite)

    def _restore(self, stored: StoredConfig, weights: dict[str, Any], folder: Path, **encoders: Any) -> None:
        vars(self).update(restored(stored, weights, folder, len(self.genes), **encoders))

    def _facts(self) -> dict[str, Any]:
        return {"image_encoder": "" if self.image_encoder is None else self.image_encoder.config.name}

    def _card_facts(self) -> dict[str, str]:
        return {
            "image encoder": "none" if self.image_encoder is None else f"`{self.image_encoder.config.name}`",
            "gene encoder of spots": "trained along"
            if self.gene_encoder is None
            else f"`{type(self.gene_encoder).__name__}`",
            "niches": "seen" if self.niches else "not seen",
            **training_facts(self.module, self.history, self.seed, trained=self.is_trained),
        }

    def _card_arguments(self) -> str:
        image = "" if self.image_encoder is None else ", image_encoder=..."
        return f"{image}, gene_encoder=..." if isinstance(self.gene_encoder, ScGPTEncoder) else image

    def _file_names(self) -> tuple[str, ...]:
        return (*MODEL_FILES, *(GENE_ENCODER_FILES if isinstance(self.gene_encoder, STImage) else ()))

    def _started(self, slides: list[PairedSlide]) -> tuple[SpotNicheAligner, ClosedFusion | None]:
        """A module at its start, which these slides decide, and what fuses where it does not."""
        return started_aligner(
            self.config,
            slides,
            spectral_start=self.spectral_start,
            frozen_genes=self.gene_encoder is not None,
            seed=self.seed,
            niches=self.niches,
            n_genes=len(self.genes),
            n_spot_genes=self.n_spot_genes,
            basis=self.basis,
            trained_encoder=self.image_encoder if self.train_image_encoder else None,
        )

    def _reduced(self, paired: PairedCorpus) -> PairedCorpus:
        """The same slides with what the module sees of their images."""
        slides = paired.slides
        if self.basis is not None and slides[0].spot_image is not None:
            slides = [replace(slide, **self.basis(slide)) for slide in slides]
        return replace(paired, slides=slides)

    def _read(
        self,
        data: Any,
        genes: Any,
        n_pool_genes: int | None = None,
        *,
        images: bool = True,
        counts: bool = True,
        accelerator: str = "auto",
        device: int | str = "auto",
        **folders: Any,
    ) -> PairedCorpus:
        """Slides with what is needed of them; ``folders`` are ``image_dir`` and ``cache_dir``."""
        if isinstance(data, StoredPairs):
            own_encoders = self.image_encoder, self.niche_image_encoder
            return stored_corpus(data, genes, own_encoders, self.patches, niches=self.niches, images=images)
        reader = None
        encoders: list[torch.nn.Module | None] = []
        if images and self.image_encoder is not None:
            check_images(_validate.check_anndatas(data, "data"))
            encoders = [self.image_encoder, self.niche_image_encoder]
            reader = ImageReader.of(*encoders, self.patches, **folders, spot_pixels=self.train_image_encoder)
        niche_key = self.niche_key if self.niches else None
        parts = {"niche_key": niche_key, "reader": reader, "gene_encoder": self.gene_encoder}
        if counts and self.gene_encoder is not None:
            own = self.gene_encoder.module if isinstance(self.gene_encoder, STImage) else self.gene_encoder
            encoders.append(own)
        with on_device(find_device(accelerator, device, *encoders), *encoders):
            return paired_corpus_of(data, genes, n_pool_genes, **parts, counts=counts)

    def _paired_for(self, data: AnnData | Sequence[AnnData] | StoredPairs | None, **reading: Any) -> PairedCorpus:
        """The model's own slides, or others as the module sees them."""
        if data is not None:
            return self._reduced(self._read(data, self.vocabulary, **reading))
        if self.paired is None:
            raise ValueError("This model was loaded without slides: pass `data`, or `data` to `STAlign.load`.")
        return self.paired
