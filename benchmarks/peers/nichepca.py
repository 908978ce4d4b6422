"""NichePCA (Schaub et al. 2025) on the exported slides.

    python benchmarks/peers/nichepca.py --input INPUT --output OUTPUT/nichepca

Settings of its README: the mean over the graph of 25 nearest neighbours, then 30 principal components. The steps "norm"
and "log1p" of its pipeline are left out: the input is log-normalised already.
"""

import numpy as np
from _run import main
from nichepca.workflows import nichepca


def embed(adata, seed: int) -> dict[str, np.ndarray]:
    """Deterministic: the seed is not used."""
    adata.X = adata.layers["log"].copy()
    n_components = min(30, min(adata.shape) - 1)
    nichepca(adata, knn=25, n_comps=n_components, pipeline=("agg", "pca"))
    return {"embedding": np.asarray(adata.obsm["X_npca"], dtype=np.float32)}


if __name__ == "__main__":
    main(embed, "nichepca", __doc__)
