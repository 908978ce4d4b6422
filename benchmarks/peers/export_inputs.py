"""Write the input of the peer methods: for each slide the genes and the normalisation that stimage uses.

    python benchmarks/peers/export_inputs.py --data ../shared/data --output INPUT

INPUT/<slide>.h5ad holds raw counts of the study's gene pool in X, log1p of counts per 10,000 (library size over all
genes of the slide) in layers["log"], obs["label"] ("" where not annotated) and obsm["spatial"]: in units of the
distance between neighbours on a lattice, as measured elsewhere. uns["input"] holds the study and the layout.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy import sparse

import stimage as sti
from stimage.data import site_positions
from stimage.data.slides._slide import COUNTS_PER_SPOT

# The slides of a study share their gene pool.
STUDIES = {
    "DLPFC": ("DLPFC_151673", "DLPFC_151674"),
    "her2st": ("her2st_A1", "her2st_B1", "her2st_C1", "her2st_D1", "her2st_E1"),
    "heart": ("heart_dev_1_CN73_E1", "heart_dev_2_CN73_E2", "heart_dev_3_CN73_D2", "heart_dev_4_CN73_C2"),
    "MOB": ("img-MOB_Rep11",),
    "STARmap V1": ("STARmap_V1_BY3_1k",),
    "STARmap mPFC": ("STARmap_mPFC_BZ5", "STARmap_mPFC_BZ9"),
    "osmFISH": ("osmFISH_mouse_cortex",),
}
N_POOL_GENES = 2000


def input_of(adata, genes: list[str], study: str):
    import anndata
    import pandas as pd

    sti.pp.compact_grid(adata)
    grid = adata.uns["grid"]["slides"].iloc[0]
    counts = sparse.csr_matrix(adata.X, dtype=np.float32)
    total = np.asarray(counts.sum(axis=1)).ravel()
    scale = np.divide(COUNTS_PER_SPOT, total, out=np.zeros_like(total), where=total > 0)
    pool = counts[:, adata.var_names.get_indexer(genes)]
    log = sparse.csr_matrix(sparse.diags(scale) @ pool, dtype=np.float32)
    log.data = np.log1p(log.data)
    spatial = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    if grid["layout"] in ("hex", "square"):
        sites = adata.obs[["grid_row", "grid_col"]].to_numpy()
        spatial = site_positions(*sites.T, layout=grid["layout"], parity=int(grid["parity"])).astype(np.float64)
    label = adata.obs["label"].astype(object).where(adata.obs["label"].notna(), "").astype(str)
    return anndata.AnnData(
        pool,
        obs=pd.DataFrame({"label": label}, index=adata.obs_names),
        var=pd.DataFrame(index=pd.Index(genes)),
        layers={"log": log},
        obsm={"spatial": spatial},
        uns={"input": {"study": study, "layout": str(grid["layout"])}},
    )


def main() -> None:
    import anndata

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    arguments.output.mkdir(parents=True, exist_ok=True)
    for study, names in STUDIES.items():
        adatas = [anndata.read_h5ad(arguments.data / name / f"{name}.h5ad") for name in names]
        genes = sti.pp.select_genes(adatas, n_genes=N_POOL_GENES).genes
        for name, adata in zip(names, adatas, strict=True):
            exported = input_of(adata, genes, study)
            exported.write_h5ad(arguments.output / f"{name}.h5ad")
            print(
                f"{name}: {exported.n_obs} x {exported.n_vars}, {exported.uns['input']['layout']}, "
                f"{(exported.obs['label'] != '').sum()} annotated",
                flush=True,
            )


if __name__ == "__main__":
    main()
