#!/usr/bin/env python
"""stimage as a method module of SpaceHack: closed-form embedding and domains, without training.

Called by its workflow with files of one sample; writes domains.tsv and embedding.tsv. The file is not called stimage.py, which would
hide the package.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anndata import AnnData

ARRAY_POSITIONS = {"row": "array_row", "col": "array_col"}


def read_sample(arguments: argparse.Namespace) -> AnnData:
    """The selected observations and features of a sample, rows matched by name."""
    import anndata
    import pandas as pd
    from scipy import sparse
    from scipy.io import mmread

    observations = pd.read_table(arguments.observations, index_col=0)
    features = pd.read_table(arguments.features, index_col=0)
    coordinates = pd.read_table(arguments.coordinates, index_col=0)
    for table in (observations, features, coordinates):
        table.index = table.index.astype(str)
    adata = anndata.AnnData(sparse.csr_matrix(mmread(arguments.matrix)), obs=observations, var=features)
    adata.obsm["spatial"] = coordinates.loc[adata.obs_names, ["x", "y"]].to_numpy(dtype=float)
    # Only arrays have rows and columns; other platforms may leave them out or empty.
    if set(ARRAY_POSITIONS) <= set(adata.obs) and adata.obs[list(ARRAY_POSITIONS)].notna().all(axis=None):
        adata.obs = adata.obs.rename(columns=ARRAY_POSITIONS)
    if "selected" in adata.obs:
        adata = adata[adata.obs["selected"].astype(bool)]
    if "selected" in adata.var:
        adata = adata[:, adata.var["selected"].astype(bool)]
    adata = adata.copy()
    adata.var_names_make_unique()
    return adata


def main() -> None:
    parser = argparse.ArgumentParser(description="stimage: closed-form embedding of spots in context, and domains")
    parser.add_argument("-c", "--coordinates", required=True, help="x and y of observations (tsv)")
    parser.add_argument("-m", "--matrix", required=True, help="raw counts, observations x features (mtx)")
    parser.add_argument("-f", "--features", required=True, help="features (tsv)")
    parser.add_argument("-o", "--observations", required=True, help="observations (tsv)")
    parser.add_argument("-d", "--out_dir", required=True, type=Path)
    parser.add_argument("--n_clusters", required=True, type=int)
    parser.add_argument("--seed", required=True, type=int)
    parser.add_argument("--config", type=Path, help='json: "clustering" is kmeans (default), gmm or leiden')
    parser.add_argument("--technology", required=True, help="not used: the lattice is inferred")
    for option in ("-n/--neighbors", "--dim_red", "--image"):
        parser.add_argument(*option.split("/"), help="not used")
    arguments = parser.parse_args()

    import pandas as pd

    import stimage as sti

    config = json.loads(arguments.config.read_text()) if arguments.config else {}
    adata = read_sample(arguments)
    sti.pp.compact_grid(adata)
    # Samples of the workflow may be training slides of the checkpoint, which this leaves alone.
    sti.tl.embed(adata, model="closed", seed=arguments.seed)
    sti.tl.domains(adata, arguments.n_clusters, method=config.get("clustering", "kmeans"), seed=arguments.seed)

    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    labels = adata.obs[["stimage_domain"]].set_axis(["label"], axis=1)
    labels.to_csv(arguments.out_dir / "domains.tsv", sep="\t", index_label="")
    embedding = pd.DataFrame(adata.obsm["X_stimage"], index=adata.obs_names)
    embedding.to_csv(arguments.out_dir / "embedding.tsv", sep="\t", index_label="")


if __name__ == "__main__":
    main()
