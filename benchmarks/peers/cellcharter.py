"""CellCharter (Varrone et al. 2024) on the exported slides.

    python benchmarks/peers/cellcharter.py --input INPUT --output OUTPUT/cellcharter

Spots and three layers of neighbours of a Delaunay graph without its long edges, then its Gaussian mixture with the true
number of domains, five seeds. Its tutorials take scVI's latent space; here 30 principal components of the log-normalised input stand
for it, so that all methods start from the same values.
"""

import numpy as np
import scanpy as sc
import squidpy as sq
from _run import main
from cellcharter.gr import aggregate_neighbors, remove_long_links
from cellcharter.tl import Cluster

N_SEEDS, N_LAYERS = 5, 3


def embed(adata, seed: int) -> dict[str, np.ndarray]:
    adata.X = adata.layers["log"].copy()
    sc.pp.pca(adata, n_comps=min(30, min(adata.shape) - 1), random_state=seed)
    sq.gr.spatial_neighbors(adata, coord_type="generic", delaunay=True)
    remove_long_links(adata)
    adata.obsm["X_pca"] = adata.obsm["X_pca"].astype(np.float32)
    aggregate_neighbors(adata, n_layers=N_LAYERS, use_rep="X_pca")
    vectors = np.nan_to_num(np.asarray(adata.obsm["X_cellcharter"], dtype=np.float32))
    adata.obsm["X_cellcharter"] = vectors
    n_domains = len(set(adata.obs["label"]) - {""})
    labels = []
    for random_state in range(seed, seed + N_SEEDS):
        options = {"random_state": random_state, "trainer_params": {"accelerator": "cpu", "enable_progress_bar": False}}
        mixture = Cluster(n_clusters=n_domains, **options)
        mixture.fit(adata, use_rep="X_cellcharter")
        labels.append(np.asarray(mixture.predict(adata, use_rep="X_cellcharter")).astype(np.int32))
    n_found = [len(np.unique(one)) for one in labels]
    return {"embedding": vectors, "labels": np.stack(labels), "n_found": np.array(n_found)}


if __name__ == "__main__":
    main(embed, "cellcharter", __doc__)
