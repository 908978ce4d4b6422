from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import torch

from stimage import _validate
from stimage._paths import path_of
from stimage.data import Corpus, Slide, principal_genes
from stimage.data.sampling._gene_selection import GeneSelection
from stimage.data.sampling.masking._registry import Masking
from stimage.data.sampling.units._kind import NeighborWeights, Unit
from stimage.models._adapting import turn_genes_to
from stimage.models._base import SlideModel
from stimage.models._devices import find_device, on_device
from stimage.models._options import (
    TrainingOptions,
    changed_optimizer,
    check_window,
    training_sample,
)
from stimage.models._presets import PRESETS, Preset
from stimage.models._setup import corpus_of, corpus_over, manifest_of
from stimage.models._training import train_module, training_start
from stimage.models.checkpoints._config import StoredConfig, losses_by_name
from stimage.models.checkpoints._model_card import training_facts
from stimage.models.checkpoints._window_model import PARTS, restored, tensors_of
from stimage.models.embedding._embed import (
    EmbeddingOptions,
    embedding_in_memory,
    embedding_on_disk,
    embeddings_on_disk,
    slide_embedder,
)
from stimage.models.embedding._output import check_absent
from stimage.models.embedding._predicted import fitted_readout
from stimage.models.embedding._readout import Readout
from stimage.models.embedding._site_vectors import EmbeddingMode
from stimage.models.embedding._units import build_module
from stimage.models.regions._calibration import calibrated_reconstruction
from stimage.models.regions._reconstruction import check_filling, region_predictor
from stimage.models.regions._region import Fill, RegionResult, reconstruct_region
from stimage.train import of_first_process

if TYPE_CHECKING:
    import zarr
    from anndata import AnnData


class STImage(SlideModel):
    """Masked autoencoder over windows of spatial transcriptomics slides.

    A slide is an image whose channels are genes. Random windows with a subset of genes are hidden in part and filled in
    again. The output of the trained encoder at a site is its embedding, and decoded at a hidden site its reconstruction.

    Parameters
    ----------
    data
        An AnnData or a list of them, each after :func:`stimage.pp.compact_grid`, or a :class:`stimage.data.Corpus`.
        Layer and slide key are those of :meth:`setup_anndata`.
    genes
        Vocabulary. By default the ``n_pool_genes`` highly variable genes of :func:`stimage.pp.select_genes`; of a
        corpus, all its genes.
    n_pool_genes
        Size of the vocabulary when ``genes`` is not given.
    window
        Rows and columns of a window.
    n_genes
        Genes (channels) of a training window; all genes are used at inference.
    gene_selection
        How they are drawn in each window: ``"weighted"`` by variance (the paper, Eq. 7), ``"hvg"`` or ``"random"``.
    masking
        ``"site"`` hides single sites, ``"site_gene"`` single values, ``"region"`` a contiguous region, ``"mixed"`` sites
        in two of three windows and a region of half the share in the third. By default that of the preset.
    mask_ratio
        Share hidden. By default that of the preset.
    preset
        ``"default"`` is small enough for a laptop; ``"paper"`` has the published sizes (6 + 2 layers, 8 heads, 256, 1024),
        30 % of the sites hidden and a random start.
    unit
        What one training sample is: ``"patch"``, a window (Eq. 8); ``"spot"``, a spot alone (Eq. 2); ``"neighborhood"``, a
        spot and its nearest neighbours (Eq. 3); ``"slice"``, a slide in macro-domains (Eq. 4). The latter three hide
        single values (``masking="site_gene"``); a step sees as many tokens with each, about ``window ** 2`` per window.
    n_neighbors, neighbor_weights, n_macro_domains
        Neighbours of a spot and their weights, ``"learned"`` or ``"fixed"`` (equal), for ``"neighborhood"``; number of
        macro-domains for ``"slice"``.
    spectral_start
        Start gene embeddings from the principal axes of the data. By default that of the preset.
    seed
        Seed of start, windows, genes and masks.

    Raises
    ------
    KeyError
        If an AnnData has no grid.
    ValueError
        If counts are not raw, no window fits any slide, or a choice is not known.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> sti.models.STImage.setup_anndata(adata)
    >>> model = sti.models.STImage(adata, window=8, n_pool_genes=200, n_genes=64)
    >>> model.train(max_epochs=1, enable_progress_bar=False)
    >>> model.get_latent_representation(mode="visible").shape == (adata.n_obs, 128)
    True

    References
    ----------
    Spatial Transcriptomics as Images for Large-Scale Pretraining, arXiv 2603.13432.
    """

    def __init__(
        self,
        data: AnnData | Sequence[AnnData] | Corpus,
        *,
        genes: Sequence[str] | None = None,
        n_pool_genes: int = 2000,
        window: int = 16,
        n_genes: int = 512,
        gene_selection: GeneSelection = "weighted",
        masking: Masking | None = None,
        mask_ratio: float | None = None,
        preset: Preset = "default",
        unit: Unit = "patch",
        n_neighbors: int = 16,
        neighbor_weights: NeighborWeights = "learned",
        n_macro_domains: int = 8,
        spectral_start: bool | None = None,
        seed: int = 0,
    ) -> None:
        _validate.check_positive("n_pool_genes", n_pool_genes)
        _validate.check_seed(seed)
        sample = {"unit": unit, "n_neighbors": n_neighbors, "neighbor_weights": neighbor_weights}
        sample |= {"n_macro_domains": n_macro_domains, "window": window, "n_genes": n_genes}
        sample |= {"gene_selection": gene_selection, "masking": masking, "mask_ratio": mask_ratio}
        spec, self.unit = training_sample(preset=preset, **sample)
        if isinstance(data, Corpus) and genes is not None:
            raise ValueError("`genes` cannot be chosen for a corpus, which has its own: pass AnnData, or no `genes`.")
        corpus = data if isinstance(data, Corpus) else corpus_of(data, genes, n_pool_genes, backed=True)
        check_window(window, corpus)
        chosen = PRESETS[preset]
        self.target_sum = chosen.target_sum
        self.corpus: Corpus | None = corpus.to_target_sum(self.target_sum)
        self.vocabulary = corpus.vocabulary
        self.spec = replace(spec, n_genes=min(n_genes, len(self.genes)))
        self.autoencoder = chosen.autoencoder
        self.optimizer = chosen.optimizer
        self.seed = seed
        self.history: dict[str, pd.DataFrame] = {}
        self.n_tokens_seen = 0
        self.is_trained = False
        self.readout: Readout | None = None
        self.manifest = manifest_of(self.corpus)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.module = build_module(len(self.genes), self.autoencoder, self.unit)
        if chosen.spectral_start if spectral_start is None else spectral_start:
            axes, deviation = principal_genes(self.corpus.slides, self.autoencoder.dim)
            self.module.genes.start_from_spectrum(torch.from_numpy(axes), torch.from_numpy(deviation))
        self.module.eval()

    def __repr__(self) -> str:
        sample = f"window {self.spec.window}" if self.unit.kind.has_windows else f"unit {self.unit.name}"
        state = "trained" if self.is_trained else "not trained"
        slides = _validate.listing(self.manifest["slides"]["name"], 3)
        return f"STImage ({state}): {len(self.genes)} genes, {sample}, slides {slides}"

    def train(self, max_epochs: int = 40, *, plan_kwargs: dict[str, Any] | None = None, **options: Any) -> None:
        """Train on random windows with scvi-tools' trainer.

        Parameters
        ----------
        max_epochs
            Number of epochs.
        plan_kwargs
            Fields of :class:`stimage.train.OptimizerConfig`, such as ``learning_rate``, that are not those of the preset.
        options
            Fields of :class:`stimage.models.TrainingOptions`, such as ``batch_size``, ``validation_size``, ``accelerator``
            and ``checkpoint_dir``, or arguments of :class:`scvi.train.Trainer`, such as ``strategy="ddp"``.

        Returns
        -------
        None
            Fills :attr:`history` with a data frame per logged quantity (``train_loss``, ``validation_loss``), and adds to
            :attr:`n_tokens_seen` the number of spots with data that went through the model, repeated ones included.

        Raises
        ------
        TypeError, ValueError
            If an option is not known, options do not go together, the slides are too small to hold out a block, a batch has
            fewer windows than there are devices, or ``checkpoint_dir`` holds another training.
        FloatingPointError
            If the loss is no longer finite. The error names the step, its windows and the file that they were written to.
        OSError
            If a checkpoint cannot be written; those before it are whole.

        Warns
        -----
        UserWarning
            Once, before anything is trained, if slides have fewer than 16 places for a window, none with enough data or
            none at all, or if ``masking`` often cannot hide a region; with numbers, and what to do.
        """
        chosen = TrainingOptions.of(self.unit, max_epochs, **options)
        optimizer = changed_optimizer(self.optimizer, plan_kwargs)
        corpus, self.optimizer = self._corpus_for(None), optimizer
        start = training_start(self.manifest, **self._config(), seed=self.seed)
        how = {"optimizer": optimizer, "options": chosen, "start": start, "seed": self.seed}
        fitted = train_module(self.module, corpus, self.spec, self.unit, **how)
        self.history = fitted.losses
        self.n_tokens_seen += fitted.n_tokens
        self.is_trained = True
        self.readout = None
        if self.unit.kind.has_windows and self.spec.masking != "site_gene":
            with on_device(fitted.device, self.module):
                self.readout = of_first_process(self._fitted_readout(shared=True))

    def fit_readout(self, *, accelerator: str = "auto", device: int | str = "auto") -> None:
        """Fit axes, scales and codes of the embedding on some sites of the training slides; :meth:`train` does so at its end.

        Parameters
        ----------
        accelerator, device
            Where the model runs, as in :meth:`get_latent_representation`.
        """
        with on_device(find_device(accelerator, device, self.module), self.module):
            self._fit_readout()

    def _fit_readout(self) -> None:
        if self.corpus is None:
            raise ValueError(
                "Axes and codes of the embedding are fitted on the slides that a model was built with, and this one "
                "was loaded without any: pass `data` to `STImage.load`, or `mode='visible'`."
            )
        self.readout = self._fitted_readout()

    def _fitted_readout(self, *, shared: bool = False) -> Readout:
        options = {"tile_size": 2 * self.spec.window, "batch_size": 32, "seed": self.seed, "shared": shared}
        return fitted_readout(self.module, list(self.corpus), **options)

    def adapt(
        self,
        data: AnnData | Sequence[AnnData] | Corpus,
        max_epochs: int = 10,
        *,
        seed: int | None = None,
        **training: Any,
    ) -> Self:
        """Train a copy of this model further on some slides, without labels; this model stays as it is.

        Gene embeddings start anew from the principal axes of these slides, turned so that tokens stay as near as can be to
        what they were: genes that did not vary in the tissues of the training count from the start. Genes that a slide
        does not measure are left out of its windows, and their embeddings stay as they were.

        Parameters
        ----------
        data
            Slides, over any genes that overlap the vocabulary. A slide may be smaller than the window.
        max_epochs
            Number of epochs.
        seed
            Seed of windows, genes and masks; that of the training by default.
        training
            Passed on to :meth:`train`.

        Returns
        -------
        Self
            The adapted copy. Its manifest names the slides of both trainings, ``adapted_from`` (model id) and
            ``adapted_epochs``.

        Examples
        --------
        >>> import stimage as sti
        >>> first, second = (sti.datasets.simulate_tissue(n_rows=20, n_cols=20, seed=seed) for seed in (0, 1))
        >>> for adata in (first, second):
        ...     sti.pp.compact_grid(adata)
        >>> model = sti.models.STImage(first, window=8, n_pool_genes=200, n_genes=64)
        >>> model.adapt(second, 1, enable_progress_bar=False).manifest["adapted_epochs"]
        1
        """
        _validate.check_positive("max_epochs", max_epochs)
        if seed is not None:
            _validate.check_seed(seed)
        adapted = copy.copy(self)
        adapted.module = copy.deepcopy(self.module)
        adapted.corpus = self._corpus_for(data)
        adapted.seed = self.seed if seed is None else seed
        added = manifest_of(adapted.corpus)
        adapted.manifest = {
            **self.manifest,
            "slides": pd.concat([self.manifest["slides"], added["slides"]], ignore_index=True),
            "adapted_from": self.model_id,
            "adapted_epochs": self.manifest.get("adapted_epochs", 0) + max_epochs,
        }
        turn_genes_to(adapted.module, list(adapted.corpus))
        adapted.train(max_epochs, **training)
        return adapted

    def get_latent_representation(
        self,
        data: AnnData | Sequence[AnnData] | Corpus | None = None,
        *,
        mode: EmbeddingMode | None = None,
        tile_size: int | None = None,
        n_genes: int | None = None,
        batch_size: int = 32,
        seed: int = 0,
        output: str | Path | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> np.ndarray | zarr.Array:
        """One vector per observation.

        Parameters
        ----------
        data
            Slides to embed, over any genes that overlap the vocabulary; those of the model by default.
        mode
            ``"context"``: principal components of expression averaged around a site, as in :class:`SmoothedPCA`, plus
            half of those that the model predicts while the site is masked together with a random half of the slide,
            beside niche codes of both; see the user guide. ``"visible"``: the encoder's output at
            a visible site. By default ``"context"`` with windows; the other units have ``"visible"`` alone.
        tile_size
            Rows and columns of the windows, which overlap by half and are averaged. By default twice those of
            training, so that most sites have neighbours on all sides.
        n_genes
            Genes drawn in each of three repeats, which are averaged; by default all genes are used.
        batch_size
            Windows in a forward pass at most. The result does not depend on it.
        seed
            Seed of the choice of masked sites and of gene draws.
        output
            Path of a zarr array to write the embedding to instead, a few rows of windows at a time: for slides whose
            embedding does not fit into memory. It appears there when it is complete.
        accelerator, device
            Where the model runs: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"gpu"``, ``"cuda"`` or ``"mps"``, and the number
            of the device. See the guide to GPUs.

        Returns
        -------
        numpy.ndarray or zarr.Array
            Embedding (observations x at most 60 with ``"context"``, 128 with ``"visible"`` and the default sizes), float32,
            in the order of the AnnData. With ``output`` the array on disk, open for reading; its attributes say where it comes from,
            as ``uns["stimage"]`` does.

        Raises
        ------
        FileExistsError, RuntimeError
            If there is something at ``output`` already, or another process writes there.
        ValueError
            If there is no such device; the error says which there are.
        """
        place = find_device(accelerator, device, self.module)
        asked = {"mode": mode, "tile_size": tile_size, "n_genes": n_genes, "seed": seed}
        options = EmbeddingOptions(self.spec, self.unit, **asked, batch_size=batch_size)
        if output is not None:
            check_absent(output)
        corpus = self._corpus_for(data)
        with on_device(place, self.module):
            n_dimensions = self._embedding_length(options)
            embed = slide_embedder(self.module, self.readout, options)
            if output is None:
                return embedding_in_memory(corpus, n_dimensions, embed)
            notes = self.embedding_record(None if data is None or isinstance(data, Sequence) else data, **asked)
            return embedding_on_disk(path_of(output), corpus, n_dimensions, embed, notes)

    def embed_corpus(
        self,
        data: AnnData | Sequence[AnnData] | Corpus | None,
        output: str | Path,
        *,
        accelerator: str = "auto",
        device: int | str = "auto",
        **options: Any,
    ) -> zarr.Group:
        """Embed many slides, one after the other, to a zarr group with an array for each.

        An array appears in the group when it is complete. The same call resumes after an interruption with the slides that
        are missing; so it does with slides that were added to the corpus.

        Parameters
        ----------
        data
            Slides to embed, in memory or on disk; those of the model when ``None``.
        output
            Path of the group; made when absent.
        accelerator, device
            Where the model runs, as in :meth:`get_latent_representation`.
        options
            ``mode``, ``tile_size``, ``n_genes``, ``batch_size`` and ``seed`` of :meth:`get_latent_representation`.

        Returns
        -------
        zarr.Group
            The group, open for reading. Its attributes say which model and options the embeddings come from, those of an
            array (observations of the slide in the order of its AnnData x dimensions, float32) which ``slide`` it is of.
            Arrays are called like slides; characters that paths give a meaning to are written as in URLs.

        Raises
        ------
        FileExistsError, RuntimeError, ValueError
            If there is something else at ``output``, another process writes there, or the group there was made by another
            model, with other options or from other slides of the same names.
        """
        place = find_device(accelerator, device, self.module)
        chosen = EmbeddingOptions(self.spec, self.unit, **options)
        _validate.check_path("output", output)
        corpus = self._corpus_for(data)
        with on_device(place, self.module):
            n_dimensions = self._embedding_length(chosen)
            embed, notes = slide_embedder(self.module, self.readout, chosen), self.embedding_record(**options)
            return embeddings_on_disk(path_of(output), corpus, n_dimensions, embed, notes)

    def _embedding_facts(self, **options: Any) -> dict[str, Any]:
        return EmbeddingOptions(self.spec, self.unit, **options).record()

    def _embedding_length(self, options: EmbeddingOptions) -> int:
        """Length of a site's vector. Fits the readout if it is needed and there is none yet."""
        if options.mode == "visible":
            return self.autoencoder.dim
        if self.readout is None:
            self._fit_readout()
        return self.readout.n_dimensions

    def reconstruct(
        self,
        slide: Slide,
        hidden: np.ndarray,
        *,
        interval: float | None = None,
        context: int = 8,
        calibrated: bool = True,
        batch_size: int = 8,
        seed: int = 0,
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> np.ndarray:
        """Expression of hidden sites of a slide, predicted from the sites around them.

        By default the prediction is calibrated on visible sites: up to sixteen regions of the same shape are hidden
        elsewhere on the slide, one after the other, and how well they are predicted says how far to trust the model and how
        far the mean of the nearest visible sites; see the user guide. No hidden value is used.

        With the units ``"spot"`` and ``"neighborhood"``, which know no hidden sites, the mean embedding of the 16 nearest
        visible sites is decoded; ``context`` plays no part.

        Parameters
        ----------
        slide
            The slide, over this model's genes.
        hidden
            Boolean mask over its sites.
        interval
            Also return bounds that hold this share of measured values: those of the shortest interval that does so in the
            regions of the calibration, for each gene and level of predicted expression.
        context
            Visible sites on every side of the hidden sites.
        calibrated
            Calibrate the prediction, or return it as the model makes it.
        batch_size
            Windows in a forward pass.
        seed
            Seed of the regions that it is calibrated on.
        accelerator, device
            Where the model runs, as in :meth:`get_latent_representation`.

        Returns
        -------
        numpy.ndarray
            log1p of counts per 10,000 (hidden sites x genes). With ``interval`` expression, lower and upper bounds
            (3 x hidden sites x genes), NaN for genes that the slide lacks, and where it has no room for a second such region.

        Raises
        ------
        ValueError
            If the model never saw hidden sites, ``interval`` is not between 0 and 1, ``calibrated`` is false with it, or there
            is no such device.
        """
        place = find_device(accelerator, device, self.module)
        check_filling(self.spec, self.unit, context=context, interval=interval, seed=seed)
        if interval is not None and not calibrated:
            raise ValueError("`interval` comes from the calibration: leave out `calibrated=False`.")
        scaled = slide.to_target_sum(self.target_sum)
        predict = region_predictor(self.module, self.spec, self.unit, scaled, context=context, batch_size=batch_size)
        with on_device(place, self.module):
            if not calibrated:
                return predict(slide, hidden)
            return calibrated_reconstruction(predict, slide, hidden, seed=seed, interval=interval)

    def reconstruct_region(
        self,
        adata: AnnData,
        *,
        region: str | Sequence[str] | np.ndarray | pd.Series | None = None,
        size: int | None = None,
        context: int = 8,
        interval: float | None = None,
        seed: int = 0,
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> RegionResult:
        """Hide a region of an AnnData and fill it in, without writing to it; see :func:`stimage.tl.reconstruct_region`.

        Parameters
        ----------
        adata
            AnnData after :func:`stimage.pp.compact_grid`.
        region, size, context, interval, seed, accelerator, device
            As in :func:`stimage.tl.reconstruct_region`.

        Returns
        -------
        RegionResult
            Which observations were hidden, the expression and its errors.
        """
        options = {"context": context, "interval": interval, "seed": seed}
        with self.filler(**options, accelerator=accelerator, device=device) as fill:
            return reconstruct_region(adata, self.vocabulary, fill, region=region, size=size, **options)

    @contextmanager
    def filler(
        self,
        *,
        context: int,
        interval: float | None,
        seed: int,
        accelerator: str = "auto",
        device: int | str = "auto",
    ) -> Iterator[Fill]:
        """How this model fills in hidden sites, with options of :meth:`reconstruct`; raises ``ValueError`` if it cannot."""
        place = find_device(accelerator, device, self.module)
        check_filling(self.spec, self.unit, context=context, interval=interval, seed=seed)
        n_parts = 1 if interval is None else 3

        def fill(slide: Slide, hidden: np.ndarray) -> np.ndarray:
            if not hidden.any():
                return np.empty((n_parts, 0, len(self.genes)), dtype=np.float32)
            options = {"accelerator": accelerator, "device": device, "seed": seed}
            filled = self.reconstruct(slide, hidden, context=context, interval=interval, **options)
            return filled.reshape(n_parts, *filled.shape[-2:])

        with on_device(place, self.module):  # once for many slides
            yield fill

    @classmethod
    def load(cls, directory: str | Path, data: AnnData | Sequence[AnnData] | Corpus | None = None) -> Self:
        """Read a model that :meth:`save` wrote.

        Parameters
        ----------
        directory
            The checkpoint.
        data
            Slides for :meth:`train` and :meth:`get_latent_representation` without arguments.

        Returns
        -------
        Self
            The model, as it was saved.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no checkpoint, or it is of another kind or version, truncated or altered.
        """
        model = cls._load(directory)
        model.corpus = None if data is None else model._corpus_for(data)
        return model

    def _tensors(self) -> dict[str, torch.Tensor]:
        return tensors_of(self.module, self.readout)

    def _config(self) -> dict[str, Any]:
        return {
            **{name: asdict(getattr(self, name)) for name in PARTS},
            **{name: getattr(self, name) for name in ("target_sum", "is_trained", "n_tokens_seen")},
            "history": losses_by_name(self.history),
        }

    def _restore(self, stored: StoredConfig, weights: dict[str, torch.Tensor], folder: Path) -> None:
        vars(self).update(restored(stored, weights, len(self.genes)))

    def _facts(self) -> dict[str, Any]:
        adapted = {"adapted_from": "", "adapted_epochs": 0}
        return {"unit": self.unit.name, **{name: self.manifest.get(name, none) for name, none in adapted.items()}}

    def _card_facts(self) -> dict[str, str]:
        spec, unit = self.spec, self.unit.name
        windows = self.unit.kind.has_windows
        sample = f"{spec.window} x {spec.window} sites" if windows else f"{unit}, {spec.window**2} in a sample"
        return {
            "window" if windows else "unit": f"{sample}, {spec.n_genes} genes, {spec.mask_ratio:.0%} hidden",
            **training_facts(self.module, self.history, self.seed, trained=self.is_trained),
        }

    def _corpus_for(self, data: AnnData | Sequence[AnnData] | Corpus | None) -> Corpus:
        if data is None and self.corpus is None:
            raise ValueError("This model was loaded without slides: pass `data`, or `data` to `STImage.load`.")
        return self.corpus if data is None else corpus_over(data, self.vocabulary).to_target_sum(self.target_sum)
