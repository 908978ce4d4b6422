"""Copies of public collections: which slides there are, and what is known of each without reading its counts."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from stimage._paths import path_of
from stimage._validate import check_path, listing
from stimage.io import _hest, _stimage_1k4m

COLUMNS = ("path", "species", "tissue", "technology", "donor", "study", "n_spots")


@dataclass(frozen=True)
class Collection:
    """A collection: what tells that a folder is a copy of it, and what lists its slides."""

    name: str
    detect: Callable[[Path], bool]
    slides: Callable[[Path], pd.DataFrame]


def list_slides(source: str | os.PathLike[str]) -> pd.DataFrame:
    """Slides of a local copy of HEST-1k or STimage-1K4M, or of part of one, from its metadata; counts are not read.

    Parameters
    ----------
    source
        The folder that holds ``st`` and ``metadata``, or ``Visium``, ``VisiumHD`` or ``ST``.

    Returns
    -------
    pandas.DataFrame
        A row for each slide whose counts are there, in the order of their names (index: slide). ``path`` is what
        :func:`read` and :func:`stimage.pp.build_corpus` take; ``species``, ``tissue``, ``technology``, ``donor`` and ``study``
        are as the collection has them, empty where it does not say; ``n_spots`` is missing where unknown.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ValueError
        If it is no copy of these, or the table of STimage-1K4M cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import stimage as sti
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("st", "metadata"):
    ...         Path(folder, name).mkdir()
    ...     sti.datasets.simulate_tissue(n_rows=20, n_cols=20).write_h5ad(f"{folder}/st/TENX1.h5ad")
    ...     n_bytes = Path(folder, "metadata/TENX1.json").write_text('{"species": "Homo sapiens", "organ": "Brain"}')
    ...     sti.io.list_slides(folder)[["species", "tissue"]].loc["TENX1"].tolist()
    ['Homo sapiens', 'Brain']
    """
    check_path("source", source)
    path = path_of(source)
    if not path.is_dir():
        raise FileNotFoundError(f"`source`: there is no folder {str(path)!r}.")
    collection = collection_of(path)
    if collection is None:
        raise ValueError(
            f"`source`: {str(path)!r} is no copy of {listing([known.name for known in COLLECTIONS])}: it has "
            f"{listing(sorted(child.name for child in path.iterdir()), 8)}."
        )
    return collection.slides(path)


def collection_of(path: Path) -> Collection | None:
    """The collection that a folder is a copy of."""
    return next((known for known in COLLECTIONS if path.is_dir() and known.detect(path)), None)


def _is_hest(path: Path) -> bool:
    return (path / "st").is_dir() and (path / "metadata").is_dir()


def _hest_slides(path: Path) -> pd.DataFrame:
    rows = {}
    for file in sorted((path / "st").glob("*.h5ad")):
        metadata = _hest.metadata_of(file)
        try:
            known = {} if metadata is None else _hest.read_metadata(metadata)
        except ValueError:
            known = {}  # one torn file of many: reading the slide says so
        spots = known.get("spots_under_tissue")
        rows[file.stem] = {"path": str(file), "n_spots": spots, **_hest.facts_of(known)}
    return _table(rows)


def _is_stimage_1k4m(path: Path) -> bool:
    return any((path / name / "gene_exp").is_dir() for name in _stimage_1k4m.TECHNOLOGIES)


def _stimage_1k4m_slides(path: Path) -> pd.DataFrame:
    meta = _stimage_1k4m.read_meta(path)
    rows = {}
    for folder in _stimage_1k4m.TECHNOLOGIES:
        for file in sorted((path / folder / "gene_exp").glob("*_count.csv")):
            name = _stimage_1k4m.name_of_slide(file)
            row = meta.loc[name] if name in meta.index else pd.Series(dtype=str)
            facts = _stimage_1k4m.facts_of(row, folder)
            rows[name] = {"path": str(file), "n_spots": row.get("spot_num"), "donor": "", **facts}
    return _table(rows)


def _table(rows: dict[str, dict[str, object]]) -> pd.DataFrame:
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS)).sort_index()
    table["n_spots"] = pd.to_numeric(table["n_spots"], errors="coerce").astype(np.float64)
    table.index.name = "slide"
    return table


COLLECTIONS = (
    Collection("HEST-1k", _is_hest, _hest_slides),
    Collection("STimage-1K4M", _is_stimage_1k4m, _stimage_1k4m_slides),
)
