"""Stereo-seq: a GEM file lists molecules by gene and place on the chip; they are added up in square bins.

squidpy and scanpy have no reader; spatialdata-io reads files of SAW only, which hold the same with its images.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from stimage import _keys
from stimage._validate import check_positive, listing
from stimage.io._choice import Options
from stimage.io._note import add_note

if TYPE_CHECKING:
    from anndata import AnnData

_PITCH = 0.5
"""Micrometres between the centres of two spots of the chip."""
_BIN = 50
"""Spots along a side of a bin: 25 micrometres, what SAW reports first."""
_GENE, _COUNT = ("geneID", "geneName", "gene"), ("MIDCounts", "MIDCount", "UMICount")
_ROWS = 5_000_000
_ENDINGS = (".gem", ".gem.gz", ".gem.txt", ".gem.txt.gz")


def is_gem(path: Path) -> bool:
    """Whether a file is called as GEM files are."""
    return path.is_file() and path.name.endswith(_ENDINGS)


def name_of_gem(path: Path) -> str:
    """Name of the file without its ending."""
    return path.name.partition(".gem")[0]


def read_gem(path: Path, options: Options) -> AnnData:
    """Counts in square bins with their place in the array of bins, and the length of a unit."""
    from anndata import AnnData

    size = _BIN if options.bin_size is None else options.bin_size
    check_positive("bin_size", size)
    genes: dict[str, int] = {}
    parts, low, high = [], None, None
    for chunk, gene, count in _chunks(path):
        names, codes = np.unique(chunk[gene].astype(str).to_numpy(), return_inverse=True)
        numbers = np.array([genes.setdefault(name, len(genes)) for name in names])
        place = chunk[["y", "x"]].to_numpy(dtype=np.int64)
        part = pd.DataFrame({"row": place[:, 0] // size, "col": place[:, 1] // size, "gene": numbers[codes]})
        part["count"] = chunk[count].to_numpy(dtype=np.int64)
        parts.append(part.groupby(["row", "col", "gene"], as_index=False, sort=False)["count"].sum())
        extremes = place.min(axis=0), place.max(axis=0)
        low = extremes[0] if low is None else np.minimum(low, extremes[0])
        high = extremes[1] if high is None else np.maximum(high, extremes[1])
    if not parts:
        raise ValueError(f"{path.name!r} lists no molecules: download it again.")
    table = pd.concat(parts)
    bins = table[["row", "col"]].drop_duplicates().sort_values(["row", "col"])
    number = pd.MultiIndex.from_frame(bins).get_indexer(pd.MultiIndex.from_frame(table[["row", "col"]]))
    counts = sparse.coo_matrix(
        (table["count"].to_numpy(np.float32), (number, table["gene"].to_numpy())), shape=(len(bins), len(genes))
    ).tocsr()
    names = [f"{row}_{col}" for row, col in bins.to_numpy()]
    adata = AnnData(counts, obs=pd.DataFrame(index=names), var=pd.DataFrame(index=list(genes)))
    adata.obs[_keys.ARRAY_ROW], adata.obs[_keys.ARRAY_COL] = bins["row"].to_numpy(), bins["col"].to_numpy()
    adata.obsm[_keys.SPATIAL] = (bins[["col", "row"]].to_numpy(dtype=np.float64) + 0.5) * size
    name = name_of_gem(path)
    factors = {"microns_per_pixel": _PITCH, "bin_size_um": size * _PITCH, "spot_diameter_fullres": float(size)}
    adata.uns[_keys.SPATIAL] = {name: {"images": {}, "scalefactors": factors}}
    add_note(
        adata,
        format="Stereo-seq GEM",
        path=path,
        counts=f"{path.name}, added up in bins of {size} x {size} spots",
        coordinates=f"centres of bins in spots of the chip, x {low[1]}-{high[1]}, y {low[0]}-{high[0]}",
        slide=name,
        technology="Stereo-seq",
    )
    return adata


def _chunks(path: Path):
    """Pieces of the table, and its columns with the gene and the count."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        line = file.readline()
        skipped = 0
        while line.startswith("#"):
            line, skipped = file.readline(), skipped + 1
    columns = line.rstrip("\r\n").split("\t")
    gene = next((name for name in _GENE if name in columns), None)
    count = next((name for name in _COUNT if name in columns), None)
    if gene is None or count is None or not {"x", "y"} <= set(columns):
        raise ValueError(
            f"{path.name!r} has the columns {listing(columns)}: one of {listing(_GENE)}, 'x', 'y' and one of {listing(_COUNT)} "
            "are needed."
        )
    reader = pd.read_csv(path, sep="\t", skiprows=skipped, usecols=[gene, "x", "y", count], chunksize=_ROWS)
    for chunk in reader:
        if len(chunk):
            yield chunk, gene, count
