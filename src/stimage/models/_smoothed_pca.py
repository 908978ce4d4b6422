from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from stimage import _validate
from stimage.data import Corpus, Slide
from stimage.models._base import SlideModel
from stimage.models._setup import corpus_of, corpus_over, manifest_of
from stimage.models.checkpoints._config import StoredConfig
from stimage.models.checkpoints._weights import check_readout
from stimage.models.embedding._axes import own_axes
from stimage.models.embedding._neighbors import width_factor
from stimage.models.embedding._readout import MARGIN, Readout, sample

if TYPE_CHECKING:
    from anndata import AnnData

TARGET_SUM = 1e3
"""The closer a library size is to the counts themselves, the less single counts of rare genes weigh."""
N_POOL_GENES = 2000
MOST_SITES = 20_000
"""Sites that codes and scales are fitted on."""


class SmoothedPCA(SlideModel):
    r"""Principal components of expression, averaged around each site, beside niche codes.

    A closed form: nothing is trained, and any species, gene panel and platform will do. Expression :math:`x_i` is log1p of
    counts per 1,000, centred per slide; :math:`A` holds the 30 principal axes of all slides that are given together, in which
    genes that vary more than the upper quartile of genes are scaled down to it if every slide has 1,000 sites or more;
    :math:`\mathcal G_w` is the Gaussian mean of width :math:`w` (:func:`stimage.data.gaussian_mean`). The embedding of a site is

    .. math::
        c_i = \tfrac12 \mathcal G_{f}[A^\top x]_i + \tfrac12 \mathcal G_{2.2 f}[A^\top x]_i, \qquad
        q_i = \mathcal G_{1.5 f}\big[\operatorname{codes}(\mathcal G_{1.5 f}[A^\top x])\big]_i, \qquad
        z_i = [\, c_i / \sigma_c \;;\; 0.7\, q_i / \sigma_q \,],

    where codes are principal components of the posteriors of nine Gaussian mixtures, and :math:`\sigma` is the total spread
    of each part over the slides of the fit. The factor :math:`f` of all widths is 1, except for slides whose sites are predicted
    best by a Gaussian mean wider than 3, such as fine bins of few counts: then :math:`2.2 f` is the width that predicts best.
    Axes, codes, spreads and factor belong to the fit: a new slide is centred by its own mean and described with them, so that
    embeddings of slides can be compared.

    Parameters
    ----------
    data
        An AnnData or a list of them, each after :func:`stimage.pp.compact_grid`, or a :class:`stimage.data.Corpus`.
    genes
        Vocabulary. By default the ``n_pool_genes`` highly variable genes of :func:`stimage.pp.select_genes`; of a corpus, all
        its genes.
    n_pool_genes
        Size of the vocabulary when ``genes`` is not given.
    seed
        Seed of the starts of the mixtures, and of the choice of slides that they are fitted on.

    Raises
    ------
    KeyError
        If an AnnData has no grid.
    ValueError
        If counts are not raw, or there are fewer than three sites with counts.

    Examples
    --------
    >>> import stimage as sti
    >>> first, second = (sti.datasets.simulate_tissue(n_rows=20, n_cols=20, seed=seed) for seed in (0, 1))
    >>> for adata in (first, second):
    ...     sti.pp.compact_grid(adata)
    >>> model = sti.models.SmoothedPCA(first)
    >>> model.get_latent_representation(second).shape == (second.n_obs, 60)
    True
    """

    def __init__(
        self,
        data: AnnData | Sequence[AnnData] | Corpus,
        *,
        genes: Sequence[str] | None = None,
        n_pool_genes: int = N_POOL_GENES,
        seed: int = 0,
    ) -> None:
        _validate.check_positive("n_pool_genes", n_pool_genes, smallest=2)
        _validate.check_seed(seed)
        if isinstance(data, Corpus) and genes is not None:
            raise ValueError("`genes` cannot be chosen for a corpus, which has its own: pass AnnData, or no `genes`.")
        if isinstance(data, Corpus):
            corpus = data
        else:
            corpus = corpus_of(data, genes, n_pool_genes, in_memory=False, backed=True)
        n_active = sum(int(slide.active.sum()) for slide in corpus)
        if n_active < 3:
            raise ValueError(f"`data` has {n_active} sites with counts, at least 3 are needed: pass more observations.")
        corpus = corpus.to_target_sum(TARGET_SUM)
        self._fit(corpus, own_axes(list(corpus)), [None] * len(corpus), seed)

    def _fit(self, corpus: Corpus, axes: np.ndarray, predicted: Sequence[np.ndarray | None], seed: int) -> None:
        self.vocabulary = corpus.vocabulary
        self.seed = seed
        self.manifest = manifest_of(corpus)
        factor = width_factor(list(corpus), axes, seed=seed)
        chosen = sample(list(corpus), MOST_SITES, seed=seed, margin=ceil(factor * MARGIN))
        slides, sites = zip(*chosen.values(), strict=True)
        added = [predicted[number] for number in chosen]
        self.readout = Readout.fit(slides, sites, axes, added, seed=seed, width_factor=factor)

    @classmethod
    def with_predictions(
        cls, corpus: Corpus, axes: np.ndarray, predicted: Sequence[np.ndarray | None], *, seed: int
    ) -> Self:
        """A fit to which the components that another model predicts are added.

        Parameters
        ----------
        corpus
            Slides on the scale of the closed form, with as many sites with counts as a fit needs.
        axes
            Their principal axes (genes x components).
        predicted
            Of each slide, components of its sites (sites x components); ``None`` for the closed form.
        seed
            As in the constructor.

        Returns
        -------
        SmoothedPCA
            The fit; :meth:`embed` takes the same predictions.
        """
        model = cls.__new__(cls)
        model._fit(corpus, axes, predicted, seed)
        return model

    def __repr__(self) -> str:
        slides = _validate.listing(self.manifest["slides"]["name"], 3)
        return f"SmoothedPCA: {len(self.genes)} genes, {self.n_dimensions} dimensions, fitted on slides {slides}"

    _reads_arrays = True

    @property
    def n_dimensions(self) -> int:
        """Length of an embedding."""
        return self.readout.n_dimensions

    def get_latent_representation(self, data: AnnData | Sequence[AnnData] | Corpus) -> np.ndarray:
        """One vector per observation.

        Parameters
        ----------
        data
            Slides, over any genes that overlap the vocabulary.

        Returns
        -------
        numpy.ndarray
            Embedding (observations x at most 60), float32, in the order of the AnnData. Observations that share a site share
            its vector.

        Raises
        ------
        KeyError
            If an AnnData has no grid.
        ValueError
            If counts are not raw, or too few genes are known to the model.
        """
        corpus = corpus_over(data, self.vocabulary, in_memory=False)
        return self.embed(corpus, [None] * len(corpus))

    def embed(self, corpus: Corpus, predicted: Sequence[np.ndarray | None]) -> np.ndarray:
        """One vector per observation of a corpus.

        Parameters
        ----------
        corpus
            Slides over the vocabulary.
        predicted
            Of each slide, components of its sites that a model predicts (sites x axes); ``None`` for the closed form.

        Returns
        -------
        numpy.ndarray
            Embedding (observations x at most 60), float32, in the order of the AnnData.
        """
        scaled = corpus.to_target_sum(TARGET_SUM)
        parts = (
            _of_observations(slide, self.readout(slide, components))
            for slide, components in zip(scaled, predicted, strict=True)
        )
        order = corpus.observation_order
        if len(corpus) == 1 and (np.diff(order) == 1).all():
            return next(parts)
        rows = np.empty((len(order), self.n_dimensions), dtype=np.float32)
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        start = 0
        for part in parts:
            rows[places[start : start + len(part)]] = part
            start += len(part)
        return rows

    def _tensors(self) -> dict[str, np.ndarray]:
        return self.readout.tensors()

    def _config(self) -> dict[str, Any]:
        return {}

    def _restore(self, stored: StoredConfig, weights: dict[str, np.ndarray], folder: Path) -> None:
        check_readout(weights, len(self.genes))
        self.readout = Readout.from_tensors(weights)

    def _facts(self) -> dict[str, Any]:
        readout = self.readout
        sizes = {"n_axes": readout.axes.shape[1], "n_codes": readout.codes.n_codes}
        return {**sizes, "width_factor": readout.width_factor, "seed": self.seed}

    def _card_facts(self) -> dict[str, str]:
        return {"dimensions": str(self.n_dimensions), "fitted": f"in closed form, seed {self.seed}"}


def _of_observations(slide: Slide, vectors: np.ndarray) -> np.ndarray:
    """Vectors of the sites of a slide as those of its observations, in the same place where there are as many."""
    site = slide.site_of_observation
    if len(site) != len(vectors):
        return vectors[site]
    if not np.array_equal(site, np.arange(len(site))):
        for dimension in range(vectors.shape[1]):
            vectors[:, dimension] = vectors[site, dimension]
    return vectors
