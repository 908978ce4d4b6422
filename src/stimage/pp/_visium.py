"""Folders that Space Ranger wrote, of Visium and of Visium HD."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from stimage import _keys
from stimage._validate import listing

if TYPE_CHECKING:
    from anndata import AnnData

VISIUM_COUNTS = "filtered_feature_bc_matrix.h5"
_HD_POSITIONS = "spatial/tissue_positions.parquet"
_ARRAY = ["in_tissue", "array_row", "array_col"]
_PIXELS = ["pxl_col_in_fullres", "pxl_row_in_fullres"]


def read_visium(folder: Path) -> AnnData:
    """Counts and positions of a folder; of Visium HD, whose positions are a parquet file, without its images.

    Raises
    ------
    ImportError
        If positions are a parquet file and pyarrow is not installed.
    ValueError
        If positions lack columns or barcodes.
    """
    from squidpy.read import visium

    is_hd = (folder / _HD_POSITIONS).is_file()
    with warnings.catch_warnings():
        # Some gene symbols are those of several genes, which are told apart below.
        warnings.filterwarnings("ignore", message="Variable names are not unique")
        adata = visium(folder, load_images=not is_hd)
    adata.var_names_make_unique()
    if is_hd:
        _add_hd_positions(adata, folder)
    return adata


def _add_hd_positions(adata: AnnData, folder: Path) -> None:
    import pandas as pd

    try:
        positions = pd.read_parquet(folder / _HD_POSITIONS)
    except ImportError as error:
        raise ImportError(
            f"{str(folder / _HD_POSITIONS)!r} is a parquet file, which pandas reads with pyarrow: `pip install pyarrow`."
        ) from error
    absent = [column for column in ("barcode", *_ARRAY, *_PIXELS) if column not in positions]
    if absent:
        raise ValueError(f"{_HD_POSITIONS!r} lacks columns {listing(absent)}; it has {listing(positions.columns)}.")
    positions = positions.set_index("barcode")
    if not positions.index.is_unique or not adata.obs_names.isin(positions.index).all():
        raise ValueError(
            f"{_HD_POSITIONS!r} does not have each barcode of {VISIUM_COUNTS!r} once: are both of one bin size?"
        )
    positions = positions.loc[adata.obs_names]
    adata.obs[_ARRAY] = positions[_ARRAY]
    adata.obsm[_keys.SPATIAL] = positions[_PIXELS].to_numpy(dtype=float)
    (library,) = adata.uns[_keys.SPATIAL].values()
    scale_factors = folder / "spatial" / "scalefactors_json.json"
    if scale_factors.is_file():
        library["scalefactors"] = json.loads(scale_factors.read_text())
