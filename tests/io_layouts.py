"""Copies of public layouts, written by hand from the descriptions of those who publish them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from PIL import Image
from scipy import sparse


def dense(adata: AnnData) -> np.ndarray:
    return adata.X.toarray() if sparse.issparse(adata.X) else np.asarray(adata.X)


def write_10x_h5(path: Path, adata: AnnData, *, kinds: list[str] | None = None) -> None:
    """A matrix as Cell Ranger and Space Ranger write it."""
    counts = sparse.csr_matrix(adata.X)
    with h5py.File(path, "w") as file:
        file.attrs["library_ids"] = np.array([b"lib"])
        group = file.create_group("matrix")
        group["barcodes"] = adata.obs_names.to_numpy().astype("S")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(counts, name).astype(np.int64)
        group["shape"] = adata.shape[::-1]
        features = group.create_group("features")
        features["id"] = [f"ENSG{i:011}".encode() for i in range(adata.n_vars)]
        features["name"] = adata.var_names.to_numpy().astype("S")
        features["feature_type"] = np.array(kinds or ["Gene Expression"] * adata.n_vars).astype("S")
        features["genome"] = np.full(adata.n_vars, "GRCh38").astype("S")


def write_10x_folder(path: Path, adata: AnnData, *, packed: bool) -> None:
    """The same as a folder of text files."""
    path.mkdir(parents=True)
    counts = sparse.coo_matrix(dense(adata).T)
    lines = ["%%MatrixMarket matrix coordinate integer general", f"{adata.n_vars} {adata.n_obs} {counts.nnz}"]
    lines += [f"{r + 1} {c + 1} {int(v)}" for r, c, v in zip(counts.row, counts.col, counts.data, strict=True)]
    texts = {
        "matrix.mtx": "\n".join(lines) + "\n",
        "barcodes.tsv": "\n".join(adata.obs_names) + "\n",
        "features.tsv": "".join(f"ENSG{i:011}\t{name}\tGene Expression\n" for i, name in enumerate(adata.var_names)),
    }
    for name, text in texts.items():
        if packed:
            with gzip.open(path / f"{name}.gz", "wt") as file:
                file.write(text)
        else:
            (path / name).write_text(text)


def write_positions(path: Path, adata: AnnData, *, in_tissue: np.ndarray | None = None) -> pd.DataFrame:
    """Positions as a parquet file, as CSV with names (Space Ranger 2) or without (version 1), by the file's name."""
    table = pd.DataFrame(
        {
            "barcode": adata.obs_names,
            "in_tissue": np.ones(adata.n_obs, int) if in_tissue is None else in_tissue.astype(int),
            "array_row": adata.obs["array_row"].to_numpy(),
            "array_col": adata.obs["array_col"].to_numpy(),
            "pxl_row_in_fullres": adata.obsm["spatial"][:, 1],
            "pxl_col_in_fullres": adata.obsm["spatial"][:, 0],
        }
    )[::-1]
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, header=path.name.endswith("positions.csv"))
    return table


def write_stimage_1k4m(root: Path, slides: dict[str, AnnData], *, technology: str = "Visium", **facts: str) -> None:
    """Counts, coordinates and an image for each slide, and a line for each in the table of all."""
    for part in ("coord", "gene_exp", "image"):
        (root / technology / part).mkdir(parents=True, exist_ok=True)
    rows = []
    for name, adata in slides.items():
        index = [f"{name}_{spot}" for spot in adata.obs_names]
        counts = pd.DataFrame(dense(adata).astype(int), index=index, columns=adata.var_names)
        counts.to_csv(root / technology / "gene_exp" / f"{name}_count.csv")
        xy = np.asarray(adata.obsm["spatial"])
        coord = pd.DataFrame({"yaxis": xy[:, 1], "xaxis": xy[:, 0], "r": 27.5}, index=index)
        coord[::-1].to_csv(root / technology / "coord" / f"{name}_coord.csv")
        row = {
            "slide": name,
            "species": "human",
            "tissue": "brain",
            "pmid": "1",
            "title": "a study",
            "tech": technology,
        }
        rows.append({**row, "spot_num": adata.n_obs, "gene_num": adata.n_vars, **facts})
    (root / "meta").mkdir(exist_ok=True)
    meta = root / "meta" / "meta_all_gene.csv"
    table = pd.DataFrame(rows)
    if meta.exists():
        table = pd.concat([pd.read_csv(meta, dtype=str), table])
    table.to_csv(meta, index=False)


def write_hest(root: Path, slides: dict[str, AnnData], **facts: object) -> None:
    """An h5ad, metadata and an image for each sample, the smaller image under the names that HEST gives it."""
    for part in ("st", "metadata", "wsis"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for number, (name, adata) in enumerate(slides.items()):
        xy = np.asarray(adata.obsm["spatial"], dtype=float)
        width, height = (int(n) for n in xy.max(axis=0) + 50)
        Image.new("RGB", (width, height), (200, 180, 220)).save(root / "wsis" / f"{name}.tif")
        sample = AnnData(sparse.csr_matrix(adata.X), obs=adata.obs.copy(), var=adata.var[[]], obsm={"spatial": xy})
        sample.obs["in_tissue"] = 0  # has no meaning there
        small = np.full((height // 10, width // 10, 3), 100, np.uint8)
        factors = {"tissue_downscaled_fullres_scalef": 0.1, "spot_diameter_fullres": 50.0}
        sample.uns["spatial"] = {"ST": {"images": {"downscaled_fullres": small}, "scalefactors": factors}}
        sample.write_h5ad(root / "st" / f"{name}.h5ad")
        known = {
            "id": name,
            "species": "Homo sapiens",
            "organ": "Breast",
            "st_technology": "Visium",
            "dataset_title": "a study",
            "patient": f"Patient {number + 1}",
            "spots_under_tissue": adata.n_obs,
            **facts,
        }
        (root / "metadata" / f"{name}.json").write_text(json.dumps(known))


def cellxgene(adata: AnnData, *, normalised: bool = True) -> tuple[AnnData, np.ndarray]:
    """The unfiltered spots that CELLxGENE demands, and which of them are under tissue."""
    rng = np.random.default_rng(0)
    inside = rng.random(adata.n_obs) < 0.7
    result = ad.AnnData(sparse.csr_matrix(adata.X), obs=adata.obs.copy(), var=adata.var.copy())
    result.obs["in_tissue"] = inside.astype(int)
    result.obs["donor_id"] = pd.Categorical(["D7"] * adata.n_obs)
    result.obs["tissue"] = pd.Categorical(["heart"] * adata.n_obs)
    result.obs["assay"] = pd.Categorical(["Visium Spatial Gene Expression V1"] * adata.n_obs)
    result.var["feature_name"] = adata.var_names
    result.var_names = [f"ENSG{i:011}" for i in range(adata.n_vars)]
    if normalised:
        result.raw = result.copy()
        result.X = np.log1p(result.X)
    xy = np.asarray(adata.obsm["spatial"], dtype=float)
    result.obsm["spatial"] = np.column_stack([xy, np.zeros(len(xy))])
    side = int(xy.max()) + 50
    image = np.full((side // 4, side // 4, 3), 9, np.uint8)
    library = {
        "images": {"hires": image},
        "scalefactors": {"spot_diameter_fullres": 55.0, "tissue_hires_scalef": 0.25},
    }
    result.uns["spatial"] = {"is_single": np.bool_(True), "section_A": library}
    result.uns["organism"] = "Homo sapiens"
    return result, inside
