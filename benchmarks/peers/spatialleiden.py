"""SpatialLeiden (Müller-Bötticher et al. 2025) on the exported slides.

    python benchmarks/peers/spatialleiden.py --input INPUT --output OUTPUT/spatialleiden

Settings of its tutorial: 50 principal components, 15 neighbours in them; in space the 6 (hexagonal) or 4 (square) sites
around each on a lattice, elsewhere 10 nearest neighbours weighted by distance; layer_ratio 1.8, spatial layer directed.
Both resolutions are searched for the true number of domains, in at most 60 steps instead of its default of 15. Five
seeds.
"""

import numpy as np
import scanpy as sc
from _run import main
from scipy import sparse
from scipy.spatial import cKDTree
from spatialleiden import distance2connectivity, search_resolution

N_SEEDS = 5
LATTICES = ("hex", "square")


def spatial_neighbors(adata) -> sparse.csr_matrix:
    """As the tutorial asks of ``squidpy.gr.spatial_neighbors``, without that package's dependencies."""
    positions = np.asarray(adata.obsm["spatial"])
    if adata.uns["input"]["layout"] in LATTICES:
        pairs = cKDTree(positions).query_pairs(1.1, output_type="ndarray")
        graph = sparse.coo_matrix((np.ones(len(pairs)), pairs.T), shape=(adata.n_obs, adata.n_obs)).tocsr()
        return graph + graph.T
    distances, nearest = cKDTree(positions).query(positions, k=11)
    start = np.repeat(np.arange(adata.n_obs), 10)
    shape = (adata.n_obs, adata.n_obs)
    return distance2connectivity(
        sparse.csr_matrix((distances[:, 1:].ravel(), (start, nearest[:, 1:].ravel())), shape=shape)
    )


def cluster(adata, seed: int) -> dict[str, np.ndarray]:
    labels, resolutions = [], []
    adata.X = adata.layers["log"].copy()
    adata.obsp["spatial_connectivities"] = spatial_neighbors(adata)
    n_domains = len(set(adata.obs["label"]) - {""})
    for random_state in range(seed, seed + N_SEEDS):
        sc.pp.pca(adata, random_state=random_state)
        sc.pp.neighbors(adata, random_state=random_state)
        found = search_resolution(
            adata,
            n_domains,
            n_iter=60,
            latent_kwargs={"random_state": random_state},
            spatial_kwargs={"layer_ratio": 1.8, "directed": (False, True), "random_state": random_state},
        )
        labels.append(adata.obs["spatialleiden"].to_numpy().astype(np.int32))
        resolutions.append(found)
    n_found = [len(np.unique(one)) for one in labels]
    return {"labels": np.stack(labels), "resolutions": np.array(resolutions), "n_found": np.array(n_found)}


if __name__ == "__main__":
    main(cluster, "spatialleiden", __doc__)
