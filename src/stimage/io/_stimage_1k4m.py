"""STimage-1K4M: counts and coordinates of each slide as CSV, its image, and one table of all slides."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from stimage import _keys
from stimage._validate import listing
from stimage.io._choice import Options
from stimage.io._note import add_note, library
from stimage.pp.grid._array_fit import array_is_true

if TYPE_CHECKING:
    from anndata import AnnData

TECHNOLOGIES = ("ST", "Visium", "VisiumHD")
"""Folders of a copy."""
_COORD, _COUNT = "_coord.csv", "_count.csv"
_COORDINATES = ["xaxis", "yaxis", "r"]
_ARRAY_NAME = r"(?:.*_)?(\d+)x(\d+)$"
"""Spots of legacy arrays are named by column and row."""


def is_slide(path: Path) -> bool:
    """Whether a file is the table of counts or of coordinates of a slide."""
    return path.is_file() and path.name.endswith((_COORD, _COUNT)) and path.parent.name in ("coord", "gene_exp")


def name_of_slide(path: Path) -> str:
    """Name of the slide that a file is of."""
    return path.name.removesuffix(_COORD).removesuffix(_COUNT)


def files_of_slide(path: Path) -> list[Path]:
    """The tables of counts and coordinates; raise ``FileNotFoundError`` if one is missing."""
    folder, name = path.parent.parent, name_of_slide(path)
    files = [folder / "gene_exp" / f"{name}{_COUNT}", folder / "coord" / f"{name}{_COORD}"]
    absent = [str(file) for file in files if not file.is_file()]
    if absent:
        raise FileNotFoundError(f"Slide {name!r} of STimage-1K4M lacks {listing(absent)}: download it.")
    return files


def read_meta(root: Path) -> pd.DataFrame:
    """The table of all slides (index: slide); empty where a copy has none. Later versions of it come first."""
    tables = []
    for path in sorted(root.glob("meta/meta_all_gene*.csv"), reverse=True) or sorted(root.glob("meta/meta_all*.csv")):
        with path.open(encoding="utf-8") as file:
            separator = "\t" if "\t" in file.readline() else ","
        table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
        if "slide" not in table:
            raise ValueError(f"{str(path)!r} has no column 'slide', only {listing(table.columns)}: download it again.")
        tables.append(table)
    if not tables:
        return pd.DataFrame(index=pd.Index([], name="slide"))
    return pd.concat(tables).drop_duplicates("slide").set_index("slide").fillna("")


def facts_of(row: pd.Series, folder: str) -> dict[str, str]:
    """What the table says of a slide, under our names. It has no donors."""
    return {
        "species": row.get("species", ""),
        "tissue": row.get("tissue", ""),
        "technology": row.get("tech", "") or folder,
        "study": row.get("pmid", "") or row.get("title", ""),
    }


def read_slide(path: Path, options: Options) -> AnnData:
    """Counts, pixels of the image, array positions of legacy arrays, and the image."""
    from anndata import AnnData

    count_file, coord_file = files_of_slide(path)
    name, folder = name_of_slide(path), path.parent.parent
    coord = pd.read_csv(coord_file, index_col=0)
    coord.index = coord.index.astype(str)
    absent = [column for column in _COORDINATES if column not in coord]
    if absent:
        raise ValueError(f"{coord_file.name!r} lacks columns {listing(absent)}; it has {listing(coord.columns)}.")
    spots, genes, counts = read_counts(count_file)
    order = _matched(spots, coord.index, name, count_file.name, coord_file.name)
    known = np.flatnonzero(order >= 0)
    coord = coord.iloc[order[known]]
    adata = AnnData(counts if len(known) == len(spots) else counts[known], obs=pd.DataFrame(index=coord.index))
    adata.var_names = genes
    adata.var_names_make_unique()
    adata.obsm[_keys.SPATIAL] = coord[["xaxis", "yaxis"]].to_numpy(dtype=np.float64)
    _add_array(adata)
    image = _image(folder, name)
    factors = {"spot_diameter_fullres": float(2 * coord["r"].median())}
    adata.uns[_keys.SPATIAL] = {name: library(image=image, load=options.images, scalefactors=factors)}
    meta = read_meta(folder.parent)
    row = meta.loc[name] if name in meta.index else pd.Series(dtype=str)
    add_note(
        adata,
        format="STimage-1K4M",
        path=path,
        counts=count_file.name,
        coordinates=f"{coord_file.name}, xaxis and yaxis",
        dropped={"spots without coordinates": len(spots) - len(known)},
        slide=name,
        **facts_of(row, folder.name),
    )
    return adata


def read_counts(path: Path) -> tuple[list[str], list[str], sparse.csr_matrix]:
    """Spots, genes and counts of a table with a row for each spot, of which one row at a time is held as text.

    Parameters
    ----------
    path
        The CSV file.

    Returns
    -------
    tuple
        Names of spots and genes, and counts (CSR, float32).
    """
    spots, values, columns, lengths = [], [], [], [0]
    with path.open("rb") as file:
        genes = next(csv.reader([file.readline().decode()]))[1:]
        for number, line in enumerate(file, 2):
            line = line.rstrip(b"\r\n")
            name, _, text = line[1:].partition(b'",') if line.startswith(b'"') else line.partition(b",")
            row = _counts_of_row(text)
            if row is None or row[0] != len(genes):
                found = "text among its numbers" if row is None else f"{row[0]} numbers"
                raise ValueError(
                    f"{path.name!r} has {len(genes)} genes, but line {number} (spot {name.decode()!r:.60}) has {found}: the "
                    "file is cut off or not a table of counts, download it again."
                )
            spots.append(name.decode())
            columns.append(row[1])
            values.append(row[2])
            lengths.append(len(row[1]))
    if not spots:
        raise ValueError(f"{path.name!r} has no spots: download it again.")
    counts = sparse.csr_matrix(
        (np.concatenate(values), np.concatenate(columns), np.cumsum(lengths)), shape=(len(spots), len(genes))
    )
    return spots, genes, counts


def _counts_of_row(text: bytes) -> tuple[int, np.ndarray, np.ndarray] | None:
    """How many numbers there are, and columns and values of those that are not 0; ``None`` if one is no number.

    Nine of ten counts are a single 0: these are found in the bytes and never made numbers of.
    """
    letters = np.frombuffer(text, dtype=np.uint8)
    commas = np.flatnonzero(letters == ord(","))
    starts, ends = np.concatenate([[0], commas + 1]), np.concatenate([commas, [len(letters)]])
    if not len(letters) or starts[-1] == len(letters):
        return (0, starts[:0], starts[:0]) if not len(letters) else None
    present = np.flatnonzero((ends - starts != 1) | (letters[starts] != ord("0")))
    try:
        values = [
            float(text[start:end]) for start, end in zip(starts[present].tolist(), ends[present].tolist(), strict=True)
        ]
    except ValueError:
        return None
    row = np.array(values, dtype=np.float32)
    return len(starts), present[row != 0].astype(np.int32), row[row != 0]


def _matched(spots: list[str], index: pd.Index, slide: str, counts: str, coords: str) -> np.ndarray:
    """Row of the coordinates of each spot, -1 where there is none; the slide's name may stand before a spot's in one."""
    if not index.is_unique or len(set(spots)) < len(spots):
        raise ValueError(f"{counts!r} or {coords!r} names spots twice: download them again.")
    places = [pd.Index(spots), pd.Index(spots).str.removeprefix(f"{slide}_")]
    targets = [index, index.str.removeprefix(f"{slide}_")]
    order = targets[0].get_indexer(places[0])
    if (order < 0).all():
        order = targets[1].get_indexer(places[1]) if targets[1].is_unique else order
    if (order < 0).mean() > 0.5:
        raise ValueError(
            f"{(order < 0).sum()} of {len(spots)} spots of {counts!r} (e.g. {spots[0]!r}) are not in {coords!r} (e.g. "
            f"{index[0]!r}): these are not the files of one slide, or the table of counts has genes as rows."
        )
    return order


def _add_array(adata: AnnData) -> None:
    """Array positions from the names of spots, where these are such and agree with the pixels."""
    parts = adata.obs_names.str.extract(_ARRAY_NAME)
    if parts.isna().to_numpy().any() or not len(parts):
        return
    adata.obs[_keys.ARRAY_COL], adata.obs[_keys.ARRAY_ROW] = (
        parts[part].to_numpy().astype(np.int64) for part in (0, 1)
    )
    if not array_is_true(adata.obs[_keys.ARRAY_ROW], adata.obs[_keys.ARRAY_COL], adata.obsm[_keys.SPATIAL]):
        adata.obs = adata.obs.drop(columns=[_keys.ARRAY_COL, _keys.ARRAY_ROW])


def _image(folder: Path, name: str) -> Path | None:
    """The image of a slide, of whatever type: it is told by its first bytes when it is opened."""
    files = sorted(path for path in folder.glob("image/*") if re.fullmatch(rf"{re.escape(name)}\.\w+", path.name))
    return files[0] if files else None
