"""Folders that instruments for single molecules write: Xenium, CosMx and MERSCOPE, as counts of cells.

CosMx and MERSCOPE are read by squidpy. Of Xenium only spatialdata-io has a reader, which needs all of an output; here the matrix
and the table of cells are enough.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stimage import _keys
from stimage._features import is_gene
from stimage._validate import listing
from stimage.io._choice import Options
from stimage.io._note import add_note
from stimage.io._tenx import matrix_in, read_matrix

if TYPE_CHECKING:
    from anndata import AnnData

_XENIUM = "cell_feature_matrix"
_XENIUM_CELLS = ("cells.parquet", "cells.csv.gz", "cells.csv")
_COSMX, _COSMX_CELLS = "exprMat_file.csv", "metadata_file.csv"
_COSMX_GLOBAL = "spatial_fov"
"""Where squidpy puts positions on the slide."""
_VIZGEN, _VIZGEN_CELLS = "cell_by_gene.csv", "cell_metadata.csv"
_CELL = "Cell_"


def is_xenium(path: Path) -> bool:
    """Whether a folder has the matrix of Xenium's cells."""
    return path.is_dir() and bool(matrix_in(path, _XENIUM))


def read_xenium(path: Path, options: Options) -> AnnData:
    """Counts of cells, and their centroids in micrometres."""
    matrices = matrix_in(path, _XENIUM)
    if len(matrices) > 1:
        raise ValueError(f"{str(path)!r} has matrices of several samples: {listing([m.name for m, _ in matrices])}.")
    (matrix, prefix) = matrices[0]
    names = [f"{start}{name}" for start in dict.fromkeys((prefix, "")) for name in _XENIUM_CELLS]
    table = next((path / name for name in names if (path / name).is_file()), None)
    if table is None:
        raise ValueError(f"{str(path)!r} has no table of cells, one of {listing(_XENIUM_CELLS)}: download it.")
    adata, dropped = read_matrix(matrix)
    adata, controls = _without_controls(adata)
    dropped |= controls
    cells = pd.read_parquet(table) if table.suffix == ".parquet" else pd.read_csv(table)
    cells = _by_cell(cells, "cell_id", adata, table.name)
    adata.obsm[_keys.SPATIAL] = cells[["x_centroid", "y_centroid"]].to_numpy(dtype=np.float64)
    return _finished(adata, path, matrix.name, f"{table.name}, x_centroid and y_centroid", dropped, "Xenium")


def is_cosmx(path: Path) -> bool:
    """Whether a folder has the flat files of CosMx."""
    return path.is_dir() and bool(_flat(path, _COSMX))


def read_cosmx(path: Path, options: Options) -> AnnData:
    """Counts of cells, and their centres on the slide in pixels of 0.12 micrometres."""
    from squidpy.read import nanostring

    counts, cells = _pair(path, _COSMX, _COSMX_CELLS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = nanostring(path, counts_file=counts, meta_file=cells)
    n_read = adata.n_obs
    if _COSMX_GLOBAL not in adata.obsm:
        raise ValueError(f"{cells!r} has no positions on the slide (CenterX_global_px, CenterY_global_px).")
    adata.obsm[_keys.SPATIAL] = np.asarray(adata.obsm.pop(_COSMX_GLOBAL), dtype=np.float64)
    adata.uns.pop(_keys.SPATIAL, None)
    adata, dropped = _without_controls(adata)
    background = (
        adata.obs["cell_ID"].astype(str).eq("0").to_numpy() if "cell_ID" in adata.obs else np.zeros(n_read, bool)
    )
    dropped["background of fields of view (cell 0)"] = int(background.sum())
    adata = adata[~background].copy()
    return _finished(adata, path, counts, f"{cells}, centres on the slide", dropped, "CosMx")


def is_merscope(path: Path) -> bool:
    """Whether a folder has the matrix of MERSCOPE's cells."""
    return path.is_dir() and bool(_flat(path, _VIZGEN))


def read_merscope(path: Path, options: Options) -> AnnData:
    """Counts of cells, and their centres in micrometres."""
    from squidpy.read import vizgen

    counts, cells = _pair(path, _VIZGEN, _VIZGEN_CELLS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adata = vizgen(path, counts_file=counts, meta_file=cells)
    adata.obsm[_keys.SPATIAL] = np.asarray(adata.obsm[_keys.SPATIAL], dtype=np.float64)
    adata.uns.pop(_keys.SPATIAL, None)
    adata, dropped = _without_controls(adata)
    return _finished(adata, path, counts, f"{cells}, center_x and center_y", dropped, "MERSCOPE")


def _finished(
    adata: AnnData, path: Path, counts: str, coordinates: str, dropped: dict[str, int], technology: str
) -> AnnData:
    name = path.resolve().name
    adata.obs_names = adata.obs_names.astype(str)
    if technology in ("Xenium", "MERSCOPE"):
        adata.uns[_keys.SPATIAL] = {name: {"images": {}, "scalefactors": {"microns_per_pixel": 1.0}}}
    add_note(
        adata,
        format=technology,
        path=path,
        counts=counts,
        coordinates=coordinates,
        dropped=dropped,
        slide=name,
        technology=technology,
    )
    return adata


def _flat(path: Path, ending: str) -> list[Path]:
    return sorted(file for end in (ending, f"{ending}.gz") for file in path.glob(f"*{end}"))


def _pair(path: Path, counts: str, cells: str) -> tuple[str, str]:
    """Names of the two files of a sample."""
    found = [_flat(path, ending) for ending in (counts, cells)]
    if any(len(files) != 1 for files in found):
        raise ValueError(
            f"{str(path)!r} must have one file *{counts} and one *{cells}, found {listing([f.name for f in found[0]])} and "
            f"{listing([f.name for f in found[1]])}: put each sample into a folder of its own."
        )
    return found[0][0].name, found[1][0].name


def _by_cell(cells: pd.DataFrame, key: str, adata: AnnData, name: str) -> pd.DataFrame:
    """Row of each observation."""
    cells = cells.set_index(cells[key].map(lambda value: value.decode() if isinstance(value, bytes) else str(value)))
    if not adata.obs_names.isin(cells.index).any() and adata.obs_names.str.startswith(_CELL).all():
        adata.obs_names = adata.obs_names.str.removeprefix(_CELL)  # as R packages write them
    if not cells.index.is_unique or not adata.obs_names.isin(cells.index).all():
        lost = int((~adata.obs_names.isin(cells.index)).sum())
        raise ValueError(f"{name!r} does not have each cell of the matrix once ({lost} of {adata.n_obs} are missing).")
    return cells.loc[adata.obs_names]


def _without_controls(adata: AnnData) -> tuple[AnnData, dict[str, int]]:
    """Genes alone, and how many features are none: control probes, blanks and codewords."""
    genes = is_gene(adata)
    return adata if genes.all() else adata[:, genes].copy(), {"control features": int((~genes).sum())}
