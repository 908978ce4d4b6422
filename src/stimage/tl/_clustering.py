from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import pandas as pd

METHODS = ("gmm", "kmeans", "leiden")
CANDIDATES = range(2, 16)
N_NEIGHBORS = 15


def cluster(
    embedding: np.ndarray,
    n_clusters: int | None,
    *,
    method: Literal["gmm", "kmeans", "leiden"] = "gmm",
    n_components: int = 15,
    seed: int = 0,
) -> tuple[np.ndarray, pd.DataFrame | None]:
    """Cluster vectors.

    Parameters
    ----------
    embedding
        Vectors (observations x dimensions).
    n_clusters
        Number of clusters; estimated when ``None``, see :func:`stimage.tl.domains`.
    method
        ``"gmm"`` (tied covariance), ``"kmeans"`` or ``"leiden"``.
    n_components
        Principal components that are clustered; vectors with no more dimensions are used as they are.
    seed
        Seed of the clustering.

    Returns
    -------
    tuple
        Cluster of each observation, and the score of each number of clusters when it was estimated with a mixture or
        k-means.
    """
    from sklearn.decomposition import PCA

    vectors = np.asarray(embedding, dtype=np.float64)
    if vectors.shape[1] > n_components and len(vectors) > n_components:
        vectors = PCA(n_components, svd_solver="full").fit_transform(vectors)
    if method == "leiden":
        return _leiden(vectors, n_clusters, seed), None
    if n_clusters is not None:
        return _mixture(vectors, n_clusters, method, seed).predict(vectors), None
    criterion = _stability(vectors, method, seed)
    best = criterion.loc[criterion["stability"].idxmax()]
    near = criterion[criterion["stability"] >= best["stability"] - best["standard_error"]]
    return _mixture(vectors, int(near["n_domains"].max()), method, seed).predict(vectors), criterion


def _mixture(vectors: np.ndarray, n_clusters: int, method: str, seed: int, n_init: int = 10):
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture

    if method == "kmeans":
        return KMeans(n_clusters, n_init=n_init, random_state=seed).fit(vectors)
    return GaussianMixture(n_clusters, covariance_type="tied", n_init=n_init, random_state=seed).fit(vectors)


def _stability(vectors: np.ndarray, method: str, seed: int, n_splits: int = 5) -> pd.DataFrame:
    from sklearn.metrics import adjusted_rand_score

    rng = np.random.default_rng(seed)
    halves = [np.array_split(rng.permutation(len(vectors)), 2) for _ in range(n_splits)]
    rows = []
    for n_clusters in CANDIDATES:
        if n_clusters > len(vectors) // 4:
            break
        scores = []
        for split, pair in enumerate(halves):
            fits = [_mixture(vectors[half], n_clusters, method, seed + split, n_init=2) for half in pair]
            scores.append(adjusted_rand_score(*(fit.predict(vectors) for fit in fits)))
        rows.append((n_clusters, np.mean(scores), np.std(scores, ddof=1) / np.sqrt(n_splits)))
    return pd.DataFrame(rows, columns=["n_domains", "stability", "standard_error"])


def _leiden(vectors: np.ndarray, n_clusters: int | None, seed: int) -> np.ndarray:
    import anndata
    import scanpy as sc

    graph = anndata.AnnData(obsm={"X": vectors}, shape=(len(vectors), 0))
    sc.pp.neighbors(graph, n_neighbors=min(N_NEIGHBORS, len(vectors) - 1), use_rep="X", random_state=seed)

    def at(resolution: float) -> np.ndarray:
        options = {"flavor": "igraph", "n_iterations": 2, "directed": False, "random_state": seed}
        sc.tl.leiden(graph, resolution=resolution, **options)
        return graph.obs["leiden"].astype(int).to_numpy()

    if n_clusters is None:
        return at(1.0)
    low, high = 1e-3, 8.0
    closest = at(high)
    for _ in range(25):
        middle = np.sqrt(low * high)
        labels = at(middle)
        found = labels.max() + 1
        if abs(found - n_clusters) <= abs(closest.max() + 1 - n_clusters):
            closest = labels
        if found == n_clusters:
            break
        low, high = (middle, high) if found < n_clusters else (low, middle)
    if closest.max() + 1 != n_clusters:
        warnings.warn(
            f"Leiden found {closest.max() + 1} domains, not the {n_clusters} of `n_domains`: no resolution gives as many. "
            "Use another `method`.",
            stacklevel=4,
        )
    return closest
