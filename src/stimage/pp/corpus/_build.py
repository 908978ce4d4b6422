from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from stimage import _keys
from stimage._paths import path_of
from stimage._validate import check_grid, check_path, check_text, listing
from stimage.io._note import note_of
from stimage.pp._genes import GeneStatistics, check_pool_options, gene_statistics, rank_genes
from stimage.pp.corpus._sources import Source, check_sources, fingerprint, naming, read_source

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.data import Corpus, CorpusWriter, Slide, Vocabulary

logger = logging.getLogger(__name__)


def build_corpus(
    sources: AnnData | str | os.PathLike[str] | Sequence[AnnData | str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    genes: Sequence[str] | Vocabulary | None = None,
    n_pool_genes: int = 2000,
    join: Literal["inner", "outer"] = "inner",
    min_slides: int = 1,
    target_sum: float = 1000.0,
    layer: str | None = None,
    slide_key: str | None = None,
    donor_key: str | None = None,
    grid_key: str = _keys.GRID,
    table: str | None = None,
    coordinate_system: str | None = None,
) -> Corpus:
    """Build a corpus on disk from any number of slides, with one source in memory at a time.

    A build that was interrupted resumes when it is called again in the same way, and new sources can be
    added to a finished corpus: sources that are in the corpus already, recognised by name and all of their content, are
    skipped. Sources are only read.

    Parameters
    ----------
    sources
        Paths in any format of :func:`stimage.io.read`, or AnnData. Those without a compact grid get
        the one of :func:`compact_grid` with its defaults.
    path
        Folder of the corpus.
    genes
        Vocabulary, or the names of its genes; a :class:`stimage.data.Vocabulary` with Ensembl ids where sources call genes
        differently. By default the most variable genes of :func:`select_genes`, for which all sources are read once more;
        a corpus that is continued keeps its genes.
    n_pool_genes, join, min_slides
        Size of the vocabulary when ``genes`` is not given, and which genes are candidates, see :func:`select_genes`.
    target_sum
        Scale of the stored expression: log1p of counts per this number, see :meth:`stimage.data.Corpus.write`.
    layer
        Layer with raw counts; ``None`` takes what :func:`stimage.io.read` finds.
    slide_key
        Column of ``obs`` that names the slide of each observation. By default that of the grid or, where the source has several
        slides, the one that its source note names. A source of one slide is called by what identifies it: the file, the prefix
        of its files or the folder above ``outs``, for an AnnData the library in ``uns["spatial"]``. Files of one name get
        the names of the folders that tell them apart, in whatever order they are passed. A name that is still taken gets a
        number.
    donor_key
        Column of ``obs`` with the donor of each slide. ``None`` takes the one that the source states, if any.
    grid_key
        ``key_added`` of the grid.
    table
        Table of SpatialData; ``None`` takes the only one.
    coordinate_system
        Coordinate system of SpatialData, see :func:`stimage.io.read`.

    Returns
    -------
    Corpus
        The corpus, opened: its expression stays on disk. See :class:`stimage.data.CorpusWriter` for what a build that is
        killed leaves behind. :meth:`stimage.data.Corpus.report` says what was left out, and which slides are the same.

    Warns
    -----
    UserWarning
        Once, if slides have the same counts, or donors contradict each other.

    Raises
    ------
    FileExistsError
        If the folder holds something other than a corpus.
    FileNotFoundError
        If a source does not exist.
    ImportError
        If what reads a source is not installed: spatialdata, or pyarrow for Visium HD.
    KeyError
        If a source lacks the layer, a key or coordinates. This and all other errors name the source; the slides of
        earlier sources stay in the corpus.
    RuntimeError
        If another process writes to the corpus.
    ValueError
        If a source cannot be read or used, a path that is in the corpus has another content now, or the corpus at ``path``
        was built with other options.

    Examples
    --------
    >>> import tempfile
    >>> import stimage as sti
    >>> slides = [sti.datasets.simulate_tissue(n_rows=20, n_cols=20, seed=seed) for seed in range(2)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     slides[0].write_h5ad(f"{folder}/first.h5ad")
    ...     corpus = sti.pp.build_corpus([f"{folder}/first.h5ad", slides[1]], f"{folder}/corpus", n_pool_genes=100)
    ...     [slide.name for slide in corpus], len(corpus.genes)
    (['first', 'slide'], 100)
    """
    return build(
        check_sources(sources),
        path,
        genes=genes,
        n_pool_genes=n_pool_genes,
        join=join,
        min_slides=min_slides,
        target_sum=target_sum,
        donor_key=donor_key,
        layer=layer,
        slide_key=slide_key,
        grid_key=grid_key,
        table=table,
        coordinate_system=coordinate_system,
    )


def build(
    checked: list[Source],
    path: str | os.PathLike[str],
    *,
    genes: Sequence[str] | Vocabulary | None,
    n_pool_genes: int,
    join: Literal["inner", "outer"],
    min_slides: int,
    target_sum: float,
    donor_key: str | None,
    left_out: dict[str, str] | None = None,
    **reading: Any,
) -> Corpus:
    """Build a corpus, see :func:`build_corpus`; ``reading`` is for :func:`read_source`.

    Sources that cannot be used end it with an error or, with ``left_out``, are noted there: why, by the source's name.
    """
    check_path("path", path)
    check_pool_options(n_genes=n_pool_genes, join=join, min_slides=min_slides)
    check_text("grid_key", reading["grid_key"])
    path = path_of(path)
    from stimage._settings import progress
    from stimage.data import Corpus, CorpusWriter

    pool = {"n_genes": n_pool_genes, "join": join, "min_slides": min_slides}
    notes = {"donor_key": donor_key, **reading}
    if genes is None:
        notes |= {"n_pool_genes": n_pool_genes, "join": join, "min_slides": min_slides}
    # Genes are chosen under the writer's lock, and not at all where a corpus is continued.
    chosen = partial(_gene_pool, checked, reading, left_out, **pool) if genes is None else genes
    with CorpusWriter(path, chosen, target_sum=target_sum, notes=notes) as writer:
        known = _check_unchanged(checked, writer, reading["layer"])
        for source in progress(checked, "Adding slides"):
            with _noting(source, left_out):
                origin = known.get(source.path) or fingerprint(source, reading["layer"])
                if origin in writer.origins:
                    logger.info("Source %s is in the corpus already.", source.label)
                    continue
                slides, details = _slides(source, writer, donor_key, reading)
                with naming(source):
                    writer.append(slides, origin=origin, details=details)
                # Not kept while the next source is read.
                del slides
        if left_out and not len(writer):
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(left_out.items())[:3])
            raise ValueError(f"None of {len(checked)} sources can be used: {reasons}")
    corpus = Corpus.open(path)
    _say_what_contradicts(corpus)
    return corpus


def _check_unchanged(checked: list[Source], writer: CorpusWriter, layer: str | None) -> dict[str, str]:
    """Fingerprints of the sources whose paths are in the corpus; raise ``ValueError`` if one has changed."""
    before, now = writer.paths, {}
    for source in checked:
        if source.path in before:
            now[source.path] = fingerprint(source, layer)
            if now[source.path] != before[source.path]:
                raise ValueError(
                    f"Source {source.label} is in the corpus, but its content is another now: restore it, or build a corpus "
                    "anew at another `path`."
                )
    return now


@contextmanager
def _noting(source: Source, left_out: dict[str, str] | None) -> Iterator[None]:
    """Go on after a source that cannot be used, when this is noted."""
    try:
        yield
    except (KeyError, TypeError, ValueError, FileNotFoundError) as error:
        if left_out is None:
            raise
        left_out[source.name or source.label] = str(error.args[0] if error.args else error)


def _say_what_contradicts(corpus: Corpus) -> None:
    """One warning for slides that are the same, and for what cannot be right."""
    table = corpus.report()
    same, wrong = table.index[table["same_counts_as"] != ""], table.index[table["contradiction"] != ""]
    if len(same) or len(wrong):
        parts = [f"{len(same)} slides have the same counts as others ({listing(same, 5)})"] if len(same) else []
        parts += [f"{len(wrong)} contradict others ({listing(wrong, 5)})"] if len(wrong) else []
        warnings.warn(f"{' and '.join(parts)}: see `Corpus.report()`.", stacklevel=4)


def _slides(
    source: Source, writer: CorpusWriter, donor_key: str | None, reading: dict[str, Any]
) -> tuple[list[Slide], list[dict[str, Any]]]:
    """Slides of a source, under names that the corpus does not have yet, and what is known of them."""
    from stimage.data import Corpus

    adata = read_source(source, **reading)
    with naming(source):
        slides = Corpus.from_anndata(
            adata,
            genes=writer.vocabulary,
            slide_key=reading["slide_key"],
            grid_key=reading["grid_key"],
            donor_key=donor_key or note_of(adata).get("donor_key") or None,
        )
    anonymous = len(slides) == 1 and source.name and _slide_key(adata, reading) is None
    taken, named = writer.names, []
    for slide in slides:
        name = wanted = source.name if anonymous else slide.name
        number = 1
        while name in taken:
            number += 1
            name = f"{wanted}-{number}"
        taken.add(name)
        named.append(replace(slide, name=name))
    where = {"path": source.path} if source.path else {}
    return named, [{**known, **where} for known in slides.details]


def _gene_pool(
    sources: list[Source], reading: dict[str, Any], left_out: dict[str, str] | None, **pool: Any
) -> Vocabulary:
    """Vocabulary of the most variable genes, found with one source in memory at a time."""
    from stimage._settings import progress
    from stimage.data import Vocabulary

    statistics: list[GeneStatistics] = []
    ids: dict[str, str] = {}
    for source in progress(sources, "Choosing genes"):
        slides: list[GeneStatistics] = []
        with _noting(source, left_out):
            slides, more_ids = _gene_statistics(source, reading)
            ids = more_ids | ids
        for slide in slides:
            # Thousands of slides with the same panel share its names.
            if statistics and slide.genes.equals(statistics[-1].genes):
                slide = replace(slide, genes=statistics[-1].genes)
            statistics.append(slide)
    genes = rank_genes(statistics, **pool).genes
    return Vocabulary(genes, {gene: ids[gene] for gene in genes if gene in ids})


def _gene_statistics(source: Source, reading: dict[str, Any]) -> tuple[list[GeneStatistics], dict[str, str]]:
    """Statistics of the slides of a source, and the Ensembl ids of its genes."""
    from stimage.data import Vocabulary

    adata = read_source(source, **reading)
    with naming(source):
        slides = gene_statistics(adata, layer=None, slide_key=_slide_key(adata, reading))
        return slides, Vocabulary.from_anndata([adata], adata.var_names).ensembl_ids


def _slide_key(adata: AnnData, reading: dict[str, Any]) -> str | None:
    """Column that names the slides: the one asked for, or that of the grid."""
    if reading["slide_key"] is not None:
        return reading["slide_key"]
    check_grid(adata, reading["grid_key"])
    return str(adata.uns[reading["grid_key"]]["params"]["slide_key"]) or None
