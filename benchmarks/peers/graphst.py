"""GraphST (Long et al. 2023) on the exported slides, on the CPU.

    python benchmarks/peers/graphst.py --input INPUT --output OUTPUT/graphst

Its defaults: 3 nearest neighbours, 600 epochs, features scaled without centring and clipped at 10; its own choice of
genes and normalisation are left out, they are those of the input. The embedding is the first 30 principal components
of its reconstruction.
"""

import numpy as np
import scanpy as sc
import torch
from _run import main
from GraphST.GraphST import GraphST
from sklearn.decomposition import PCA


def embed(adata, seed: int) -> dict[str, np.ndarray]:
    adata.X = adata.layers["log"].copy()
    sc.pp.scale(adata, zero_center=False, max_value=10)
    # With this column in place, GraphST skips its own preprocessing.
    adata.var["highly_variable"] = True
    trained = GraphST(adata, device=torch.device("cpu"), random_seed=seed).train()
    reconstruction = trained.obsm["emb"]
    components = PCA(min(30, min(reconstruction.shape)), svd_solver="full").fit_transform(reconstruction)
    return {"embedding": components.astype(np.float32)}


if __name__ == "__main__":
    main(embed, "GraphST", __doc__)
