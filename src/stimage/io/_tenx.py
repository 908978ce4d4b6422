"""Matrices that 10x writes, as HDF5 or as folders, with or without a prefix in their names."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from stimage._validate import listing

if TYPE_CHECKING:
    from anndata import AnnData

GENES = "Gene Expression"


def matrix_in(folder: Path, name: str) -> list[tuple[Path, str]]:
    """Matrices of a name in a folder, with their prefixes; HDF5 where a matrix is there in both forms."""
    found = {}
    for path in sorted(folder.glob(f"*{name}")):
        if path.is_dir() and any((path / file).is_file() for file in ("matrix.mtx", "matrix.mtx.gz")):
            found[path.name.removesuffix(name)] = path
    for path in sorted(folder.glob(f"*{name}.h5")):
        found[path.name.removesuffix(f"{name}.h5")] = path
    return [(path, prefix) for prefix, path in found.items()]


def read_matrix(path: Path) -> tuple[AnnData, dict[str, int]]:
    """Counts of genes, and how many features of other kinds were left out."""
    import scanpy as sc

    with warnings.catch_warnings():
        # Some symbols are those of several genes, which are told apart below.
        warnings.filterwarnings("ignore", message="Variable names are not unique")
        adata = sc.read_10x_h5(path, gex_only=False) if path.is_file() else _read_folder(path)
    dropped: dict[str, int] = {}
    if "feature_types" in adata.var:
        kinds = adata.var["feature_types"].astype(str)
        others = kinds[kinds != GENES]
        if len(others) == len(kinds):
            raise ValueError(
                f"{str(path)!r} has no features of type {GENES!r}, only {listing(sorted(others.unique()))}."
            )
        for kind, number in others.value_counts().items():
            dropped[f"features of type {kind}"] = int(number)
        if len(others):
            adata = adata[:, (kinds == GENES).to_numpy()].copy()
    adata.var_names_make_unique()
    return adata, dropped


def _read_folder(path: Path) -> AnnData:
    """A matrix in a folder. ``scanpy.read_10x_mtx`` refuses unpacked files of Space Ranger, which archives hold."""
    import scanpy as sc

    packed = (path / "matrix.mtx.gz").is_file()
    genes = "genes.tsv" if (path / "genes.tsv").is_file() and not packed else "features.tsv"
    names = [f"{name}.gz" if packed else name for name in (genes, "barcodes.tsv")]
    absent = [name for name in names if not (path / name).is_file()]
    if absent:
        raise ValueError(
            f"{str(path)!r} lacks {listing(absent)}, which belong to its matrix: download the folder again."
        )
    if packed or genes == "genes.tsv":
        return sc.read_10x_mtx(path, gex_only=False)
    return _read_unpacked(path)


def _read_unpacked(path: Path) -> AnnData:
    import pandas as pd
    from anndata import AnnData
    from scipy.io import mmread

    features = pd.read_csv(path / "features.tsv", sep="\t", header=None, dtype=str)
    barcodes = pd.read_csv(path / "barcodes.tsv", header=None, dtype=str)[0]
    counts = mmread(path / "matrix.mtx").T.tocsr().astype("float32")
    if counts.shape != (len(barcodes), len(features)):
        raise ValueError(
            f"{str(path)!r} has a matrix of {counts.shape[0]} barcodes and {counts.shape[1]} features, but {len(barcodes)} and "
            f"{len(features)} names: download the folder again."
        )
    adata = AnnData(counts, obs=pd.DataFrame(index=barcodes.to_numpy()), var=pd.DataFrame(index=features[1].to_numpy()))
    adata.var["gene_ids"] = features[0].to_numpy()
    if features.shape[1] > 2:
        adata.var["feature_types"] = features[2].to_numpy()
    return adata
