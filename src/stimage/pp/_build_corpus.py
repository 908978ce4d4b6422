from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from stimage import _keys
from stimage._validate import check_grid, check_path, check_text
from stimage.pp._genes import GeneStatistics, check_pool_options, gene_statistics, rank_genes
from stimage.pp._sources import Source, check_sources, fingerprint, naming, read_source

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
    table: str = "table",
) -> Corpus:
    """Build a corpus on disk from any number of slides, with one source in memory at a time.

    A build that was interrupted goes on where it stopped when it is called again in the same way, and new sources can be
    added to a finished corpus: sources that are in the corpus already, recognised by name, size and content, are
    skipped. Sources are only read.

    Parameters
    ----------
    sources
        Paths of ``.h5ad`` files, of ``.zarr`` folders (AnnData or SpatialData) or of folders that Space Ranger
        wrote for Visium or for one bin size of Visium HD (``filtered_feature_bc_matrix.h5`` and ``spatial``), or AnnData; raw
        counts. Those without a compact grid get the one of :func:`compact_grid` with its defaults.
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
        Layer with raw counts; ``None`` takes ``X``.
    slide_key
        Column of ``obs`` that names the slide of each observation. By default that of the grid or, in SpatialData of several
        regions, that of the region. A source of one slide without a name of its own is called like its file; a name that
        is taken gets a number.
    donor_key
        Column of ``obs`` with the donor of each slide.
    grid_key
        ``key_added`` of the grid.
    table
        Table of SpatialData.

    Returns
    -------
    Corpus
        The corpus, opened: its expression stays on disk. See :class:`stimage.data.CorpusWriter` for what a build that is
        killed leaves behind.

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
        If a source cannot be read or used, or the corpus at ``path`` was built with other options.

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
    checked = check_sources(sources)
    check_path("path", path)
    check_pool_options(n_genes=n_pool_genes, join=join, min_slides=min_slides)
    check_text("grid_key", grid_key)
    from stimage._progress import progress
    from stimage.data import Corpus, CorpusWriter

    reading = {"slide_key": slide_key, "grid_key": grid_key, "table": table}
    pool = {"n_genes": n_pool_genes, "join": join, "min_slides": min_slides}
    notes = {"layer": layer, "donor_key": donor_key, **reading}
    if genes is None:
        notes |= {"n_pool_genes": n_pool_genes, "join": join, "min_slides": min_slides}
    # Genes are chosen under the writer's lock, and not at all where a corpus is continued.
    chosen = partial(_gene_pool, checked, layer, reading, **pool) if genes is None else genes
    with CorpusWriter(path, chosen, target_sum=target_sum, notes=notes) as writer:
        for source in progress(checked, "Adding slides"):
            origin = fingerprint(source, layer)
            if origin in writer.origins:
                logger.info("Source %s is in the corpus already.", source.label)
                continue
            slides = _slides(source, writer, layer, donor_key, reading)
            with naming(source):
                writer.append(slides, origin=origin)
            # Not kept while the next source is read.
            del slides
    return Corpus.open(path)


def _slides(
    source: Source, writer: CorpusWriter, layer: str | None, donor_key: str | None, reading: dict[str, Any]
) -> list[Slide]:
    """Slides of a source, under names that the corpus does not have yet."""
    from stimage.data import Corpus

    adata = read_source(source, **reading)
    with naming(source):
        slides = Corpus.from_anndata(
            adata,
            genes=writer.vocabulary,
            layer=layer,
            slide_key=reading["slide_key"],
            grid_key=reading["grid_key"],
            donor_key=donor_key,
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
    return named


def _gene_pool(sources: list[Source], layer: str | None, reading: dict[str, Any], **pool: Any) -> Vocabulary:
    """Vocabulary of the most variable genes, found with one source in memory at a time."""
    from stimage._progress import progress
    from stimage.data import Vocabulary

    statistics: list[GeneStatistics] = []
    ids: dict[str, str] = {}
    for source in progress(sources, "Choosing genes"):
        slides, more_ids = _gene_statistics(source, layer, reading)
        ids = more_ids | ids
        for slide in slides:
            # Thousands of slides with the same panel share its names.
            if statistics and slide.genes.equals(statistics[-1].genes):
                slide = replace(slide, genes=statistics[-1].genes)
            statistics.append(slide)
    genes = rank_genes(statistics, **pool).genes
    return Vocabulary(genes, {gene: ids[gene] for gene in genes if gene in ids})


def _gene_statistics(
    source: Source, layer: str | None, reading: dict[str, Any]
) -> tuple[list[GeneStatistics], dict[str, str]]:
    """Statistics of the slides of a source, and the Ensembl ids of its genes."""
    from stimage.data import Vocabulary

    adata = read_source(source, **reading)
    with naming(source):
        slides = gene_statistics(adata, layer=layer, slide_key=_slide_key(adata, reading))
        return slides, Vocabulary.from_anndata([adata], adata.var_names).ensembl_ids


def _slide_key(adata: AnnData, reading: dict[str, Any]) -> str | None:
    """Column that names the slides: the one asked for, or that of the grid."""
    if reading["slide_key"] is not None:
        return reading["slide_key"]
    check_grid(adata, reading["grid_key"])
    return str(adata.uns[reading["grid_key"]]["params"]["slide_key"]) or None
