from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from stimage import _keys, _validate
from stimage._features import absent_genes, genes_with_warning
from stimage.data.corpus._report import details_of, report
from stimage.data.corpus._store import open_slides, verify_corpus, write_corpus
from stimage.data.corpus._writer import TARGET_SUM
from stimage.data.slides._observations import slide_observations
from stimage.data.slides._slide import Slide
from stimage.data.slides._vocabulary import Vocabulary

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


class Corpus(Sequence[Slide]):
    """Many slides over one gene vocabulary, in memory or on disk.

    Parameters
    ----------
    slides
        The slides, with distinct names; their genes are ``genes``.
    genes
        The vocabulary, or the names of its genes: at least two, none twice.
    source
        Number of the AnnData that each slide came from; by default each came from one of its own.
    details
        What is known of each slide beside its arrays, for :meth:`report`.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> corpus = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])
    >>> len(corpus), len(corpus.genes)
    (1, 100)

    The same corpus on disk, for more slides than fit into memory:

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     corpus.write(f"{folder}/corpus")
    ...     sti.data.Corpus.verify(f"{folder}/corpus")
    ...     print(sti.data.Corpus.open(f"{folder}/corpus"))
    Corpus of 1 slides, 302 sites and 100 genes
    """

    def __init__(
        self,
        slides: Sequence[Slide],
        genes: Sequence[str] | np.ndarray | Vocabulary,
        *,
        source: Sequence[int] | None = None,
        details: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self.slides = list(slides)
        self.vocabulary = genes if isinstance(genes, Vocabulary) else Vocabulary(genes)
        self.source = list(range(len(self.slides)) if source is None else source)
        self.details = [{} for _ in self.slides] if details is None else [dict(known) for known in details]
        if not self.slides:
            raise ValueError("A corpus needs at least one slide, got none.")
        names = [slide.name for slide in self.slides]
        if len(set(names)) < len(names):
            raise ValueError(f"Slide names must be unique, got {names}.")
        for slide in self.slides:
            if slide.expression.shape[1] != len(self.genes):
                raise ValueError(
                    f"Slide {slide.name!r} has {slide.expression.shape[1]} genes, the vocabulary has {len(self.genes)}."
                )

    def __len__(self) -> int:
        return len(self.slides)

    def __getitem__(self, index):
        return self.slides[index]

    def __iter__(self) -> Iterator[Slide]:
        return iter(self.slides)

    def __repr__(self) -> str:
        return f"Corpus of {len(self)} slides, {self.n_sites} sites and {len(self.genes)} genes"

    @property
    def genes(self) -> np.ndarray:
        """Names of the genes."""
        return self.vocabulary.genes

    @property
    def n_sites(self) -> int:
        """Number of sites over all slides."""
        return sum(slide.n_sites for slide in self.slides)

    @property
    def observation_order(self) -> np.ndarray:
        """Permutation that brings observations, slide after slide, into the order of their AnnData, one after another."""
        source = np.repeat(self.source, [len(slide.observation_index) for slide in self.slides])
        return np.lexsort((np.concatenate([slide.observation_index for slide in self.slides]), source))

    def write(self, path: str | PathLike[str], *, target_sum: float = TARGET_SUM, overwrite: bool = False) -> None:
        """Write the corpus to a folder, from which :meth:`open` reads single windows; all of it or nothing.

        Parameters
        ----------
        path
            Folder of the corpus; made when absent.
        target_sum
            Scale of the stored expression: log1p of counts per this number. Models of the default preset train on the default;
            with another one every window is converted as it is read.
        overwrite
            Replace a corpus that is there, once the new one is complete.

        Raises
        ------
        FileExistsError
            If there is a corpus and ``overwrite`` is not set, or the folder holds something else.
        OSError
            If the disk is full or cannot be written to; nothing is left, and a corpus that was there stays.
        RuntimeError
            If another process writes to the corpus.
        ValueError
            If a slide has a ``centre`` of its own on another scale.
        """
        parts = [
            (slide, f"AnnData {source}", details)
            for slide, source, details in zip(self, self.source, self.details, strict=True)
        ]
        write_corpus(path, self.vocabulary, parts, target_sum=target_sum, overwrite=overwrite)

    @classmethod
    def open(cls, path: str | PathLike[str]) -> Corpus:
        """Open a corpus on disk: expression stays there, everything else is read.

        Format version, the checksum of ``corpus.json``, and the size and header of every file are checked, but not all their
        bytes, see :meth:`verify`.

        Parameters
        ----------
        path
            What :meth:`write`, :class:`CorpusWriter` or :func:`stimage.pp.build_corpus` wrote.

        Returns
        -------
        Corpus
            Slides whose ``expression`` is a :class:`StoredMatrix`.

        Raises
        ------
        FileNotFoundError
            If there is no corpus, or a slide is missing.
        ValueError
            If the corpus is damaged, of another format version, or has no slide yet.
        """
        index, slides = open_slides(path)
        numbers: dict[str, int] = {}
        # A slide of unknown origin is of an AnnData of its own.
        origins = [entry.origin or entry.file for entry in index.slides]
        source = [numbers.setdefault(origin, len(numbers)) for origin in origins]
        return cls(slides, index.vocabulary, source=source, details=[entry.details for entry in index.slides])

    @staticmethod
    def verify(path: str | PathLike[str]) -> None:
        """Read a whole corpus on disk: compare the checksums of all files and check that their content is valid.

        Parameters
        ----------
        path
            The corpus.

        Raises
        ------
        FileNotFoundError
            If there is no corpus.
        ValueError
            If the corpus is damaged; the message names the damaged slides.
        """
        verify_corpus(path)

    def to_target_sum(self, target_sum: float) -> Corpus:
        """The same corpus with all slides as log1p of counts per another number.

        Parameters
        ----------
        target_sum
            Counts that each site adds up to, see :meth:`Slide.to_target_sum`.

        Returns
        -------
        Corpus
            Shares with this one what does not change.
        """
        slides = [slide.to_target_sum(target_sum) for slide in self.slides]
        return Corpus(slides, self.vocabulary, source=self.source, details=self.details)

    def report(self) -> pd.DataFrame:
        """What the corpus consists of, and what contradicts itself.

        Returns
        -------
        pandas.DataFrame
            A row for each slide (index: its name): ``donor``, ``tissue``, ``species``, ``technology`` and ``study``, empty
            where the source does not say; ``n_observations``, ``n_sites``, ``n_genes`` (genes of the vocabulary that were
            measured) and ``median_counts`` (of a site, over all genes of the source); ``layout``, ``unit`` of the
            coordinates and ``micrometres_per_unit`` (missing where unknown); ``dropped``, what was left out of the source
            and why; ``same_counts_as``, other slides most of whose sites have the same counts, under whatever names and in
            whatever order; ``contradiction``, what cannot be right: slides of the same counts that are of different donors,
            species or tissues, and donors of several species. ``format`` and ``path`` say where the slide came from.

        Notes
        -----
        Sites are compared by hashes of their counts of the vocabulary's genes, of which the 64 smallest are kept for each
        slide (Broder 1997); sites with counts of less than eight of these genes are left out, since such are alike by chance.

        Examples
        --------
        >>> import stimage as sti
        >>> adatas = [sti.datasets.simulate_tissue(n_rows=20, n_cols=20, seed=seed) for seed in (0, 1, 0)]
        >>> for adata, donor in zip(adatas, ["ann", "bob", "cleo"]):
        ...     sti.pp.compact_grid(adata)
        ...     adata.obs["donor"] = donor
        >>> corpus = sti.data.Corpus.from_anndata(adatas, genes=adatas[0].var_names, donor_key="donor")
        >>> corpus.report()[["donor", "same_counts_as", "contradiction"]].values.tolist()[0]
        ['ann', 'slide-3', "same counts as 'slide-3' of donor 'cleo'"]
        """
        return report(list(self), self.details)

    @classmethod
    def from_anndata(
        cls,
        adatas: AnnData | Sequence[AnnData],
        *,
        genes: Sequence[str] | np.ndarray | Vocabulary,
        layer: str | None = None,
        slide_key: str | None = None,
        grid_key: str = _keys.GRID,
        donor_key: str | None = None,
    ) -> Corpus:
        """Read a corpus from one or several AnnData with compact grids.

        Parameters
        ----------
        adatas
            One AnnData or a list of them, each after :func:`stimage.pp.compact_grid`. They may be backed: counts are read from
            the file some rows at a time.
        genes
            Vocabulary, or the names of its genes. Slides may call them otherwise, see :meth:`stimage.data.Vocabulary.match`; those
            that a slide lacks are treated as not measured, and so are those that an outer join left empty on it: without a count
            where 20 would be expected from the other slides.
        layer
            Layer with raw counts; ``X`` by default.
        slide_key
            Key in ``obs`` of the slide of each observation. By default the one that the grid was built with.
        grid_key
            ``key_added`` of the grid.
        donor_key
            Key in ``obs`` of who the tissue is from, the same for a whole slide.

        Returns
        -------
        Corpus
            One slide for each AnnData and each value of ``slide_key`` in it. Slides of equal name get a number.

        Raises
        ------
        KeyError
            If a grid, a layer, the slide key or the donor key is missing.
        ValueError
            If counts are not raw, names are repeated, a slide has several donors, too few genes of the vocabulary, no
            counts or less than two observations.

        Warns
        -----
        UserWarning
            If antibodies, control probes, blanks or genes of a second species are left out of library sizes, with their share.
        """
        adatas = _validate.check_anndatas(adatas)
        vocabulary = genes if isinstance(genes, Vocabulary) else Vocabulary.from_anndata(adatas, genes)
        return read_corpus(adatas, vocabulary, layer=layer, slide_key=slide_key, grid_key=grid_key, donor_key=donor_key)

    @classmethod
    def with_unique_names(
        cls,
        slides: Sequence[Slide],
        genes: Sequence[str] | np.ndarray | Vocabulary,
        *,
        source: Sequence[int] | None = None,
        details: Sequence[Mapping[str, Any]] | None = None,
    ) -> Corpus:
        """A corpus of slides some of which may be called the same: these get a number.

        Parameters
        ----------
        slides, genes, source, details
            As for the class, but for names.

        Returns
        -------
        Corpus
            The slides, with distinct names.
        """
        repeated = {name for name, count in Counter(slide.name for slide in slides).items() if count > 1}
        seen: Counter[str] = Counter()
        named = []
        for slide in slides:
            if slide.name in repeated:
                seen[slide.name] += 1
                slide = replace(slide, name=f"{slide.name}-{seen[slide.name]}")
            named.append(slide)
        return cls(named, genes, source=source, details=details)


def read_corpus(
    adatas: Sequence[AnnData],
    vocabulary: Vocabulary,
    *,
    layer: str | None,
    slide_key: str | None,
    grid_key: str,
    donor_key: str | None,
    advice: str = _validate.LAYER_ADVICE,
    in_memory: bool = True,
    backed: bool = True,
) -> Corpus:
    """Read a corpus, see :meth:`Corpus.from_anndata` and, for ``in_memory``, :meth:`Slide.from_anndata`.

    ``advice`` is for AnnData whose counts are not raw; ``backed`` says whether they may be in a file.
    """
    matches, all_counts = [], []
    for adata in adatas:
        _validate.check_size(adata)
        all_counts.append(_validate.check_counts(adata, layer, advice=advice, backed=backed))
        _validate.check_unique_names(adata, genes=True)
        matches.append(vocabulary.match(adata))
    slides, source, details = [], [], []
    for number, (adata, match, counts) in enumerate(zip(adatas, matches, all_counts, strict=True)):
        match.report()
        genes_with_warning(adata, counts)
        parts = slide_observations(adata, slide_key=slide_key, grid_key=grid_key)
        absent = absent_genes(counts, [observations for _, observations in parts])
        for (name, observations), is_absent in zip(parts, absent, strict=True):
            slides.append(
                Slide.from_anndata(
                    adata,
                    vocabulary.genes,
                    name=name,
                    observations=observations,
                    layer=layer,
                    grid_key=grid_key,
                    donor=slide_donor(adata, observations, donor_key, name),
                    gene_of_variable=np.where(is_absent, -1, match.gene_of_variable),
                    in_memory=in_memory,
                )
            )
            source.append(number)
            details.append(details_of(adata, name, grid_key))
    return Corpus.with_unique_names(slides, vocabulary, source=source, details=details)


def slide_donor(adata: AnnData, observations: np.ndarray, donor_key: str | None, name: str) -> str:
    """Donor of a slide; empty without a key, or where no observation says one."""
    if donor_key is None:
        return ""
    donors = _validate.check_obs_key(adata, donor_key, "donor_key").iloc[observations].dropna().astype(str).unique()
    if len(donors) > 1:
        raise ValueError(
            f"Slide {name!r} has {len(donors)} donors in adata.obs[{donor_key!r}] (`donor_key`): "
            f"{_validate.listing(donors, 3)}; a slide needs one, pass `slide_key=` if `adata` holds several slides."
        )
    return str(donors[0]) if len(donors) else ""
