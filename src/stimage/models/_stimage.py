from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from stimage import _keys, _validate
from stimage.data import Corpus, SampleUnit, WindowSpec, principal_genes
from stimage.data.sampling._gene_selection import GeneSelection
from stimage.data.sampling.masking import Masking
from stimage.data.sampling.units import NeighborWeights, Unit
from stimage.models._adapting import AdaptMixin
from stimage.models._embedding import EmbedMixin
from stimage.models._options import check_model_options, check_unit_options, check_window
from stimage.models._presets import PRESETS, Preset
from stimage.models._readout import Readout
from stimage.models._reconstruction import ReconstructMixin
from stimage.models._saving import SaveMixin
from stimage.models._setup import check_setup, corpus_of, manifest_of, notes_of
from stimage.models._training import TrainMixin
from stimage.models._units import build_module

if TYPE_CHECKING:
    from anndata import AnnData


class STImage(TrainMixin, AdaptMixin, EmbedMixin, ReconstructMixin, SaveMixin):
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
        in two of three windows and a region of half the share in the third. By default what the preset says.
    mask_ratio
        Share hidden. By default what the preset says.
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
        Start gene embeddings from the principal axes of the data. By default what the preset says.
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
        check_model_options(
            preset=preset,
            gene_selection=gene_selection,
            masking=masking,
            mask_ratio=mask_ratio,
            window=window,
            n_genes=n_genes,
            n_pool_genes=n_pool_genes,
            seed=seed,
        )
        check_unit_options(
            unit=unit,
            masking=masking,
            window=window,
            n_neighbors=n_neighbors,
            neighbor_weights=neighbor_weights,
            n_macro_domains=n_macro_domains,
        )
        self.unit = SampleUnit(unit, n_neighbors, neighbor_weights, n_macro_domains)
        chosen = PRESETS[preset]
        if masking is None:
            masking = chosen.masking if unit == "patch" else "site_gene"
        mask_ratio = chosen.mask_ratio if mask_ratio is None else mask_ratio
        if isinstance(data, Corpus) and genes is not None:
            raise ValueError("`genes` cannot be chosen for a corpus, which has its own: pass AnnData, or no `genes`.")
        corpus = data if isinstance(data, Corpus) else corpus_of(data, genes, n_pool_genes)
        check_window(window, corpus)
        self.target_sum = chosen.target_sum
        self.corpus = corpus.to_target_sum(self.target_sum)
        self.vocabulary = self.corpus.vocabulary
        self.spec = WindowSpec(
            window=window,
            n_genes=min(n_genes, len(self.genes)),
            gene_selection=gene_selection,
            masking=masking,
            mask_ratio=mask_ratio,
        )
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
        sample = f"window {self.spec.window}" if self.unit.name == "patch" else f"unit {self.unit.name}"
        state = "trained" if self.is_trained else "not trained"
        slides = _validate.listing(self.manifest["slides"]["name"], 3)
        return f"STImage ({state}): {len(self.genes)} genes, {sample}, slides {slides}"

    @property
    def genes(self) -> np.ndarray:
        """Names of the genes of the vocabulary."""
        return self.vocabulary.genes

    @staticmethod
    def setup_anndata(
        adata: AnnData,
        *,
        layer: str | None = None,
        slide_key: str | None = None,
        grid_key: str = _keys.GRID,
        donor_key: str | None = None,
    ) -> None:
        """Say where an AnnData keeps raw counts, slides and donors.

        Parameters
        ----------
        adata
            AnnData after :func:`stimage.pp.compact_grid`.
        layer
            Layer with raw counts; ``X`` by default.
        slide_key
            Key in ``obs`` of each observation's slide. By default the one that the grid was built with.
        grid_key
            ``key_added`` of the grid.
        donor_key
            Key in ``obs`` of who the tissue is from, which a model notes: :func:`stimage.benchmark.compare` refuses to
            test on a donor that was trained on.

        Returns
        -------
        None
            Writes ``uns["stimage"]["setup"]``.

        Raises
        ------
        KeyError
            If grid, layer, slide key or donor key are missing.
        ValueError
            If the counts are not raw counts.
        """
        _validate.check_anndata(adata)
        setup = {"layer": layer, "slide_key": slide_key, "grid_key": grid_key, "donor_key": donor_key}
        check_setup(adata, setup)
        setup = {key: value or "" for key, value in setup.items()}
        adata.uns[_keys.STIMAGE] = {**notes_of(adata), "setup": setup}

    def _check_hides_sites(self, what: str, advice: str) -> None:
        if self.spec.masking == "site_gene":
            raise ValueError(
                f"{what} hides sites, which a model trained with `masking='site_gene'` never saw: {advice}."
            )

    def _corpus_for(self, data: AnnData | Sequence[AnnData] | Corpus | None) -> Corpus:
        if data is None:
            if self.corpus is None:
                raise ValueError("This model was loaded without slides: pass `data`, or `data` to `STImage.load`.")
            return self.corpus
        if not isinstance(data, Corpus):
            return corpus_of(data, self.vocabulary).to_target_sum(self.target_sum)
        if not np.array_equal(data.genes, self.genes):
            raise ValueError(
                f"`data` is a corpus over other genes (e.g. {_validate.listing(data.genes, 3)}) than the model's (e.g. "
                f"{_validate.listing(self.genes, 3)}): build it with `genes=model.genes`."
            )
        return data.to_target_sum(self.target_sum)
