"""A corpus from a local copy of a public collection: which of its slides, and who of them is held out."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from stimage import _keys
from stimage._files import written_whole
from stimage._paths import path_of
from stimage._validate import check_choice, check_path, check_positive, listing
from stimage.io import list_slides
from stimage.pp._genes import check_pool_options
from stimage.pp.corpus._build import build
from stimage.pp.corpus._sources import check_sources

if TYPE_CHECKING:
    from stimage.data import Corpus, Vocabulary

SLIDES = "slides.csv"
SPLITS = "splits.json"
_SAME_SPECIES = {"human": "homosapiens", "mouse": "musmusculus", "rat": "rattusnorvegicus"}
_SAME_TECHNOLOGY = {"st": "spatialtranscriptomics"}


def build_public_corpus(
    sources: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    species: str | None = None,
    technology: str | Sequence[str] | None = None,
    tissue: str | Sequence[str] | None = None,
    min_spots: int = 50,
    genes: Sequence[str] | Vocabulary | None = None,
    n_pool_genes: int = 2000,
    min_slides: int | None = None,
    target_sum: float = 1000.0,
    splits_by: Literal["donor", "study"] | None = "donor",
    validation_size: float = 0.1,
    test_size: float = 0.1,
    seed: int = 0,
) -> Corpus:
    """Build a corpus of the slides of a local copy of STimage-1K4M or HEST-1k that pass a filter, and split it by donor.

    The same as ``python -m stimage corpus``. A slide that cannot be read or used is left out, and a build that was interrupted
    resumes when it is called again in the same way, see :func:`build_corpus`.

    Parameters
    ----------
    sources
        Folder of the copy, see :func:`stimage.io.list_slides`; a part of the collection will do.
    path
        Folder of the corpus.
    species
        Species to keep, as the collection calls it; ``"human"`` and ``"Homo sapiens"`` are the same, as are those of mouse and
        rat. ``None`` keeps all, for a corpus of one species only.
    technology
        One or several to keep; upper case and blanks do not matter, ``"ST"`` is ``"Spatial Transcriptomics"``, and ``"Visium"``
        is not ``"Visium HD"``.
    tissue
        One or several to keep; upper case does not matter.
    min_spots
        Least number of spots under tissue.
    genes, n_pool_genes, target_sum
        As in :func:`build_corpus`; the most variable genes are those of an outer join.
    min_slides
        In how many slides a gene must be measured to be chosen. ``None`` takes half of those that pass the filter.
    splits_by, validation_size, test_size, seed
        As in :func:`stimage.data.split_by_donor`, ``splits_by`` being its ``by``. ``None`` makes no splits.

    Returns
    -------
    Corpus
        The corpus, opened. Beside it in the folder are written

    ``slides.csv``
        A row for each slide of the collection: its metadata, ``status`` (``"in the corpus"`` or ``"left
        out"``), ``reason`` (why it was left out), ``split``, and the columns of :meth:`stimage.data.Corpus.report`.
    ``splits.json``
        ``by``, ``seed``, and the names of the slides of ``train``, ``validation`` and ``test``.

    Warns
    -----
    UserWarning
        As :func:`build_corpus` does.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it is not a copy of a collection, nothing passes the filter (the message lists the values), species would be
        mixed, none of the slides can be used, or there are too few donors to split by.

    Examples
    --------
    >>> import json, tempfile
    >>> from pathlib import Path
    >>> import stimage as sti
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("st", "metadata"):
    ...         Path(folder, name).mkdir()
    ...     for number in range(3):
    ...         adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20, seed=number)
    ...         adata.write_h5ad(f"{folder}/st/TENX{number}.h5ad")
    ...         known = {
    ...             "species": "Homo sapiens",
    ...             "organ": "Brain",
    ...             "st_technology": "Visium",
    ...             "patient": f"P{number}",
    ...         }
    ...         n_bytes = Path(folder, f"metadata/TENX{number}.json").write_text(json.dumps(known))
    ...     corpus = sti.pp.build_public_corpus(folder, f"{folder}/corpus", species="human", n_pool_genes=100)
    ...     splits = json.loads(Path(folder, "corpus/splits.json").read_text())
    >>> len(corpus), [len(splits[part]) for part in ("train", "validation", "test")]
    (3, [1, 1, 1])
    """
    check_path("path", path)
    check_positive("min_spots", min_spots, smallest=0)
    if splits_by is not None:
        check_choice("splits_by", splits_by, ("donor", "study"))
    table = list_slides(sources)
    reasons = _left_out(table, species=species, technology=technology, tissue=tissue, min_spots=min_spots)
    chosen = table[reasons == ""]
    if not len(chosen):
        raise ValueError(f"No slide passes the filter: {_what_there_is(table)}.")
    kinds = {_plain(name, _SAME_SPECIES): name for name in chosen["species"] if name}
    if len(kinds) > 1:
        raise ValueError(
            f"The slides are of {len(kinds)} species ({listing(kinds.values())}), whose genes have other names: pass `species=`."
        )
    min_slides = (len(chosen) + 1) // 2 if min_slides is None else min_slides
    check_pool_options(n_genes=n_pool_genes, join="outer", min_slides=min_slides)
    failed: dict[str, str] = {}
    corpus = build(
        check_sources(chosen["path"].tolist()),
        path,
        genes=genes,
        n_pool_genes=n_pool_genes,
        join="outer",
        min_slides=min_slides,
        target_sum=target_sum,
        donor_key=None,
        left_out=failed,
        layer=None,
        slide_key=None,
        grid_key=_keys.GRID,
        table=None,
        coordinate_system=None,
        min_spots=min_spots,
    )
    folder = path_of(path)
    splits = {}
    if splits_by is not None:
        from stimage.data import split_by_donor

        splits = split_by_donor(corpus, by=splits_by, validation_size=validation_size, test_size=test_size, seed=seed)
        document = {"by": splits_by, "seed": seed, **splits}
        (folder / SPLITS).write_text(json.dumps(document, indent=1) + "\n")
    _write_table(folder / SLIDES, table, reasons, failed, corpus, splits)
    return corpus


def _left_out(
    table: pd.DataFrame,
    *,
    species: str | None,
    technology: str | Sequence[str] | None,
    tissue: str | Sequence[str] | None,
    min_spots: int,
) -> pd.Series:
    """Why each slide does not pass the filter; empty where it does."""
    reasons = pd.Series("", index=table.index, dtype=object)
    filters = (
        ("species", species, _SAME_SPECIES),
        ("technology", technology, _SAME_TECHNOLOGY),
        ("tissue", tissue, {}),
    )
    for column, wanted, same in filters:
        if wanted is None:
            continue
        kept = {_plain(name, same) for name in ([wanted] if isinstance(wanted, str) else wanted)}
        other = ~table[column].map(lambda name, same=same: _plain(name, same)).isin(kept)
        reasons[other & (reasons == "")] = table[column].map(
            lambda name, column=column: f"{column} is {name or 'not known'}"
        )
    few = (table["n_spots"] < min_spots) & (reasons == "")
    reasons[few] = table["n_spots"].map(lambda number: f"it has {number:.0f} spots, fewer than {min_spots}")
    return reasons


def _plain(name: str, same: dict[str, str]) -> str:
    """A name without upper case, blanks and dashes, the same for all ways to say it."""
    plain = "".join(letter for letter in str(name).lower() if letter.isalnum())
    return same.get(plain, plain)


def _what_there_is(table: pd.DataFrame) -> str:
    parts = [f"{column} {listing(sorted(set(table[column])), 12)}" for column in ("species", "technology", "tissue")]
    return f"the {len(table)} slides have {'; '.join(parts)}; up to {table['n_spots'].max():.0f} spots"


def _write_table(
    path: Path,
    table: pd.DataFrame,
    reasons: pd.Series,
    failed: dict[str, str],
    corpus: Corpus,
    splits: dict[str, list[str]],
) -> None:
    """The table of all slides of the collection, written in one step."""
    part_of = {name: part for part, names in splits.items() for name in names}
    reasons = reasons.where(reasons != "", pd.Series(failed, dtype=object).reindex(reasons.index).fillna(""))
    report: Any = corpus.report().drop(columns=["species", "tissue", "technology", "study", "donor", "path"])
    result = table.assign(reason=reasons, split=[part_of.get(name, "") for name in table.index])
    result.insert(0, "status", ["in the corpus" if name in report.index else "left out" for name in table.index])
    result = result.join(report)
    with written_whole(path) as (draft,):
        result.to_csv(draft)
