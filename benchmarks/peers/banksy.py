"""BANKSY (Singhal et al. 2024) on the exported slides.

    python benchmarks/peers/banksy.py --input INPUT --output OUTPUT/banksy

Settings of its documentation for tissue domains: 15 neighbours, scaled Gaussian weights, azimuthal filters up to order 1, lambda .8,
20 principal components.
"""

import contextlib
import io

import numpy as np
from _run import main
from banksy.embed_banksy import generate_banksy_matrix
from banksy.initialize_banksy import initialize_banksy
from sklearn.decomposition import PCA

N_NEIGHBORS, MAX_M, LAMBDA, N_COMPONENTS = 15, 1, 0.8, 20


def embed(adata, seed: int) -> dict[str, np.ndarray]:
    adata.X = adata.layers["log"].toarray()
    adata.obs["x"], adata.obs["y"] = adata.obsm["spatial"].T
    quiet = {"plt_edge_hist": False, "plt_nbr_weights": False, "plt_theta": False}
    with contextlib.redirect_stdout(io.StringIO()):
        graphs = initialize_banksy(
            adata, ("x", "y", "spatial"), N_NEIGHBORS, nbr_weight_decay="scaled_gaussian", max_m=MAX_M, **quiet
        )
        _, matrix = generate_banksy_matrix(adata, graphs, [LAMBDA], MAX_M)
    values = np.asarray(matrix.X, dtype=np.float64)
    n_components = min(N_COMPONENTS, min(values.shape) - 1)
    vectors = PCA(n_components, random_state=seed).fit_transform(np.nan_to_num(values))
    return {"embedding": vectors.astype(np.float32)}


if __name__ == "__main__":
    main(embed, "pybanksy", __doc__)
