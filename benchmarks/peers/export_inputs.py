"""Write the input of the peer methods: for each slide the genes and the normalisation that stimage uses.

    python benchmarks/peers/export_inputs.py --data ../shared/data --output INPUT

INPUT/<slide>.h5ad holds raw counts of the study's gene pool in X, log1p of counts per 10,000 (library size over all
genes of the slide) in layers["log"], obs["label"] ("" where not annotated) and obsm["spatial"]: in units of the
distance between neighbours on a lattice, as measured elsewhere. obsm["sites"] holds the positions of the sites, by which blocks of a
slide are cut; uns["input"] the study and the layout.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from scipy import sparse

import stimage as sti
from stimage.data import site_positions
from stimage.data.slides._slide import COUNTS_PER_SPOT

sys.path.append(str(Path(__file__).resolve().parent.parent))
from _studies import STUDIES, read_study

N_POOL_GENES = 2000


def input_of(adata, genes: list[str], study: str):
    import anndata
    import pandas as pd

    grid = adata.uns["grid"]["slides"].iloc[0]
    counts = sparse.csr_matrix(adata.X, dtype=np.float32)
    total = np.asarray(counts.sum(axis=1)).ravel()
    scale = np.divide(COUNTS_PER_SPOT, total, out=np.zeros_like(total), where=total > 0)
    pool = counts[:, adata.var_names.get_indexer(genes)]
    log = sparse.csr_matrix(sparse.diags(scale) @ pool, dtype=np.float32)
    log.data = np.log1p(log.data)
    rows_and_columns = adata.obs[["grid_row", "grid_col"]].to_numpy().T
    sites = site_positions(*rows_and_columns, layout=grid["layout"], parity=int(grid["parity"])).astype(np.float64)
    spatial = sites if grid["layout"] in ("hex", "square") else np.asarray(adata.obsm["spatial"], dtype=np.float64)
    label = adata.obs["label"].astype(object).where(adata.obs["label"].notna(), "").astype(str)
    return anndata.AnnData(
        pool,
        obs=pd.DataFrame({"label": label}, index=adata.obs_names),
        var=pd.DataFrame(index=pd.Index(genes)),
        layers={"log": log},
        obsm={"spatial": spatial, "sites": sites},
        uns={"input": {"study": study, "layout": str(grid["layout"])}},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()

    arguments.output.mkdir(parents=True, exist_ok=True)
    for study, names in STUDIES.items():
        # The slides of a study share their gene pool.
        adatas = read_study(arguments.data, study)
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
