"""Which genes vary in tissues that are known from other donors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from stimage import _validate
from stimage._count_rows import count_rows
from stimage._features import counted_genes
from stimage.data import Vocabulary
from stimage.data.slides._observations import slide_observations
from stimage.models._setup import corpus_of, manifest_of, setup_of
from stimage.models._smoothed_pca import N_POOL_GENES, TARGET_SUM
from stimage.models.embedding._axes import FEWEST_SITES

if TYPE_CHECKING:
    from anndata import AnnData

LEAST_CORRELATION = 0.72
"""Of the genes' deviations on a slide with those of a tissue, from which on the slide is taken to be of this tissue."""
FEWEST_GENES = 500
"""Genes that a slide and a tissue must share. Panels, which were chosen for a tissue, mostly have fewer."""
LEAST_VARIANCE = 0.003
"""Genes that vary less both on a slide and in a tissue are not compared."""
MOST_OBSERVATIONS = 5_000
"""Of a slide, that variances are estimated from."""


@dataclass(frozen=True)
class RecognisedTissue:
    """A known tissue that slides are like.

    Parameters
    ----------
    tissue
        Its name.
    correlation
        Of the standard deviations of genes on the slides with those in the tissue.
    genes
        The genes that vary most in the tissue and are measured on all slides, as the first slide calls them.
    slides
        Name, fingerprints and donor of each slide that the tissue is known from.

    Examples
    --------
    >>> import stimage as sti
    >>> found = sti.pretrained.RecognisedTissue("liver", 0.9, ["ALB", "CYP2E1"], [])
    >>> len(found.genes)
    2
    """

    tissue: str
    correlation: float
    genes: list[str]
    slides: list[dict[str, Any]]


@dataclass(frozen=True)
class KnownTissues:
    """How much each gene varies in some tissues, and from which slides that is known.

    What varies on a single slide is not all of its tissue: contaminations and accidents of one donor can lead its principal
    axes. Genes that vary in other donors of the tissue are chosen by what these have in common.

    Parameters
    ----------
    vocabulary
        Genes.
    tissues
        Names of the tissues.
    variance
        Variance of log1p of counts per 1,000 (tissues x genes), NaN where a gene was not measured.
    slides
        Of each tissue, name, fingerprints and donor of its slides.

    Examples
    --------
    Sections of your own tissue, to recognise another one by:

    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20, n_genes=600, n_slides=2)
    >>> first, second = (adata[adata.obs["slide"] == name].copy() for name in adata.obs["slide"].unique())
    >>> for section in (first, second):
    ...     sti.pp.compact_grid(section)
    >>> second.obs["donor"] = "donor 2"
    >>> known = sti.pretrained.KnownTissues.from_anndata({"simulated tissue": [second]})
    >>> known.recognise([first]).tissue
    'simulated tissue'
    """

    vocabulary: Vocabulary
    tissues: list[str]
    variance: np.ndarray
    slides: list[list[dict[str, Any]]]

    @classmethod
    def from_anndata(cls, tissues: Mapping[str, Sequence[AnnData]], *, donor_key: str = "donor") -> Self:
        """Variances in some tissues: median over the slides of a donor, then over donors.

        Parameters
        ----------
        tissues
            Slides of each tissue, one in each AnnData, after :func:`stimage.pp.compact_grid`. Genes are called alike.
        donor_key
            Column of ``obs`` with the donor.

        Returns
        -------
        KnownTissues
            The tissues, with the genes that more than half of the donors of any of them measure.

        Raises
        ------
        KeyError
            If an AnnData has no grid or no such column.
        ValueError
            If counts are not raw.
        """
        columns, slides = {}, []
        for tissue, adatas in tissues.items():
            by_slide = pd.concat([gene_variances(adata) for adata in adatas], axis=1)
            donors = [str(_validate.check_obs_key(adata, donor_key, "donor_key").iloc[0]) for adata in adatas]
            by_donor = by_slide.T.groupby(donors).median().T
            columns[tissue] = by_donor.median(axis=1)[by_donor.notna().mean(axis=1) > 0.5]
            records = []
            for adata in adatas:
                # The fingerprints are of the counts, whatever the vocabulary.
                setup = {**setup_of(adata), "donor_key": donor_key}
                corpus = corpus_of(adata, list(adata.var_names[:100]), setup=setup)
                records += manifest_of(corpus)["slides"].to_dict("records")
            slides.append(records)
        table = pd.DataFrame(columns)
        every = [adata for adatas in tissues.values() for adata in adatas]
        vocabulary = Vocabulary.from_anndata(every, table.index.to_numpy(dtype=str))
        return cls(vocabulary, list(tissues), table.to_numpy().T.astype(np.float16), slides)

    def recognise(self, adatas: Sequence[AnnData]) -> RecognisedTissue | None:
        """The tissue that slides are most like, if they are alike enough.

        Parameters
        ----------
        adatas
            Slides that are embedded together, with a grid.

        Returns
        -------
        RecognisedTissue or None
            ``None`` if no tissue is like them, they share too few genes with it, or they are several small slides: together
            these choose their genes as well, and better from one of them to another.
        """
        if not self.tissues or any(adata.n_vars < FEWEST_GENES for adata in adatas):
            return None
        sizes = [len(rows) for adata in adatas for _, rows in _slides(adata)]
        if len(sizes) > 1 and min(sizes) < FEWEST_SITES:
            return None
        found = [self._variances(adata) for adata in adatas]
        if any(part is None for part in found):
            return None
        own = np.mean(found, axis=0)  # NaN for genes that one of them lacks
        best = max(range(len(self.tissues)), key=lambda number: self._correlation(own, number))
        correlation = self._correlation(own, best)
        if correlation < LEAST_CORRELATION:
            return None
        variance = np.where(np.isnan(own), np.nan, self.variance[best].astype(np.float64))
        order = np.argsort(-variance, kind="stable")[: int(np.isfinite(variance).sum())]
        first = self.vocabulary.match(adatas[0]).first_variable[order[:N_POOL_GENES]]
        genes = adatas[0].var_names[first].astype(str).tolist()
        return RecognisedTissue(self.tissues[best], correlation, genes, self.slides[best])

    def _variances(self, adata: AnnData) -> np.ndarray | None:
        """Variances on a slide in the order of the vocabulary; ``None`` if it shares too few genes."""
        try:
            match = self.vocabulary.match(adata)
        except ValueError:  # of too few genes
            return None
        if match.n_genes - match.n_ignoring_case < FEWEST_GENES:  # another species
            return None
        variances = gene_variances(adata).reindex(adata.var_names).to_numpy()
        first = match.first_variable
        return np.where(first >= 0, variances[first], np.nan)

    def _correlation(self, own: np.ndarray, number: int) -> float:
        theirs = self.variance[number].astype(np.float64)
        both = np.isfinite(own) & np.isfinite(theirs)
        compared = both & (np.fmax(own, theirs) > LEAST_VARIANCE)
        if compared.sum() < FEWEST_GENES or not own[compared].any():
            return -1.0
        return float(np.corrcoef(np.sqrt(own[compared]), np.sqrt(theirs[compared]))[0, 1])

    def save(self, path: Path) -> None:
        """Write ``<path>.npz`` with genes and variances and ``<path>.json`` with tissues and slides.

        Parameters
        ----------
        path
            Without an ending.
        """
        genes = self.vocabulary.genes.astype(str)
        ids = np.array([self.vocabulary.ensembl_ids.get(gene, "") for gene in genes])
        np.savez_compressed(path.with_suffix(".npz"), variance=self.variance, genes=genes, ensembl_ids=ids)
        tissues = dict(zip(self.tissues, self.slides, strict=True))
        path.with_suffix(".json").write_text(json.dumps(tissues, separators=(",", ":")) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Self:
        """What :meth:`save` wrote.

        Parameters
        ----------
        path
            As in :meth:`save`.

        Returns
        -------
        KnownTissues
            The tissues.
        """
        tissues = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        with np.load(path.with_suffix(".npz"), allow_pickle=False) as stored:
            variance, genes, ids = (stored[name] for name in ("variance", "genes", "ensembl_ids"))
        ensembl_ids = {gene: found for gene, found in zip(genes.tolist(), ids.tolist(), strict=True) if found}
        return cls(Vocabulary(genes, ensembl_ids), list(tissues), variance, list(tissues.values()))


def gene_variances(adata: AnnData) -> pd.Series:
    """Variance of log1p of counts per 1,000 of each gene, over some observations and centred per slide.

    Parameters
    ----------
    adata
        Slides with a grid and raw counts, which may be in a file.

    Returns
    -------
    pandas.Series
        By the names of the variables that are genes.
    """
    counts = _validate.check_counts(adata, setup_of(adata)["layer"], backed=True)
    genes = np.flatnonzero(counted_genes(adata, counts))
    rng = np.random.default_rng(0)
    squares, n_observations = np.zeros(len(genes)), 0
    for _, rows in _slides(adata):
        if len(rows) > MOST_OBSERVATIONS:
            rows = np.sort(rng.choice(rows, MOST_OBSERVATIONS, replace=False))
        block = count_rows(counts, rows)[:, genes].astype(np.float64)
        library = np.asarray(block.sum(axis=1)).ravel()
        block, library = block[library > 0], library[library > 0]
        block.data = np.log1p(block.data * np.repeat(TARGET_SUM / library, np.diff(block.indptr)))
        mean = np.asarray(block.mean(axis=0)).ravel() if len(library) else 0.0
        squares += np.asarray(block.multiply(block).sum(axis=0)).ravel() - len(library) * np.square(mean)
        n_observations += len(library)
    return pd.Series(squares / max(n_observations, 1), index=adata.var_names[genes].astype(str))


def _slides(adata: AnnData) -> list[tuple[str, np.ndarray]]:
    setup = setup_of(adata)
    return slide_observations(adata, slide_key=setup["slide_key"], grid_key=setup["grid_key"])
