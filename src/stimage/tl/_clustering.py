from __future__ import annotations

import warnings
from typing import Literal

import numpy as np
import pandas as pd
import torch

from stimage._progress import progress

METHODS = ("gmm", "kmeans", "leiden")
LARGEST_ESTIMATE = 15
N_NEIGHBORS = 15


def cluster(
    embedding: np.ndarray,
    n_clusters: int | None,
    *,
    method: Literal["gmm", "kmeans", "leiden"] = "gmm",
    n_components: int = 15,
    seed: int = 0,
    show_progress: bool = True,
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
    show_progress
        Show a progress bar while the number of clusters is estimated.

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
    criterion = _knee(vectors, method, seed, show_progress)
    best = int(criterion["n_domains"][criterion["below_chord"].idxmax()])
    return _mixture(vectors, best, method, seed).predict(vectors), criterion


def _mixture(vectors: np.ndarray, n_clusters: int, method: str, seed: int, n_init: int = 10):
    from sklearn.cluster import KMeans
    from sklearn.mixture import GaussianMixture

    if method == "kmeans":
        return KMeans(n_clusters, n_init=n_init, random_state=seed).fit(vectors)
    return GaussianMixture(n_clusters, covariance_type="tied", n_init=n_init, random_state=seed).fit(vectors)


def _knee(vectors: np.ndarray, method: str, seed: int, show_progress: bool) -> pd.DataFrame:
    """How far the misfit of each number of clusters lies below the line from one cluster to the largest number."""
    numbers = np.arange(1, min(LARGEST_ESTIMATE, len(vectors) // 4) + 1)
    shown = progress(numbers, "Numbers of domains") if show_progress else numbers
    fits = [_mixture(vectors, int(n), method, seed, n_init=3) for n in shown]
    misfit = np.array([fit.inertia_ if method == "kmeans" else fit.bic(vectors) for fit in fits])
    chord = np.linspace(misfit[0], misfit[-1], len(misfit))
    name = "inertia" if method == "kmeans" else "bic"
    return pd.DataFrame({"n_domains": numbers, name: misfit, "below_chord": chord - misfit}).iloc[1:]


def _leiden(vectors: np.ndarray, n_clusters: int | None, seed: int) -> np.ndarray:
    import anndata
    import scanpy as sc

    # Building the graph changes the number of threads of everything that uses OpenMP.
    n_threads = torch.get_num_threads()
    graph = anndata.AnnData(obsm={"X": vectors}, shape=(len(vectors), 0))
    sc.pp.neighbors(graph, n_neighbors=min(N_NEIGHBORS, len(vectors) - 1), use_rep="X", random_state=seed)

    def at(resolution: float) -> np.ndarray:
        options = {"flavor": "igraph", "n_iterations": 2, "directed": False, "random_state": seed}
        sc.tl.leiden(graph, resolution=resolution, **options)
        return graph.obs["leiden"].astype(int).to_numpy()

    if n_clusters is None:
        labels = at(1.0)
        torch.set_num_threads(n_threads)
        return labels
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
    torch.set_num_threads(n_threads)
    if closest.max() + 1 != n_clusters:
        warnings.warn(
            f"Leiden found {closest.max() + 1} domains, not the {n_clusters} of `n_domains`: no resolution gives as many. "
            "Use another `method`.",
            stacklevel=4,
        )
    return closest
