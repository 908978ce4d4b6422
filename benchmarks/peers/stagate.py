"""STAGATE (Dong and Zhang 2022) on the exported slides, on the CPU.

    python benchmarks/peers/stagate.py --input INPUT --output OUTPUT/stagate

Its defaults: layers of 512 and 30, 1,000 epochs, learning rate 0.001; the spatial network is the 6 (hexagonal) or 8
(square) sites around each on a lattice, elsewhere 6 nearest neighbours.
"""

import numpy as np
from _run import main
from STAGATE_pyG import Cal_Spatial_Net, train_STAGATE

RADIUS = {"hex": 1.1, "square": 1.5}


def embed(adata, seed: int) -> dict[str, np.ndarray]:
    adata.X = adata.layers["log"].copy()
    layout = adata.uns["input"]["layout"]
    if layout in RADIUS:
        Cal_Spatial_Net(adata, rad_cutoff=RADIUS[layout])
    else:
        Cal_Spatial_Net(adata, model="KNN", k_cutoff=6)
    train_STAGATE(adata, random_seed=seed, device="cpu", verbose=False)
    return {
        "embedding": np.asarray(adata.obsm["STAGATE"], dtype=np.float32),
        "n_neighbors": np.array(len(adata.uns["Spatial_Net"]) / adata.n_obs),
    }


if __name__ == "__main__":
    main(embed, "stagate-modern", __doc__)
