from __future__ import annotations

import numpy as np

from stimage.models.clustering._blocks import row_blocks
from stimage.models.clustering._kmeans import sample

N_NEIGHBORS = 15
MOST_OBSERVATIONS = 20_000
"""Observations of the graph; others have the domain that most of their nearest neighbours in it have."""
_MANY = 8192
"""Observations below which scanpy looks at all distances by itself."""


def leiden(vectors: np.ndarray, n_domains: int | None, seed: int) -> np.ndarray:
    """Domain of each observation: communities of the graph of nearest neighbours.

    The resolution is searched for the number of domains; without a number it is 1. Where no resolution gives the number,
    the labels with the nearest number are returned.
    """
    rows = sample(np.arange(len(vectors)), MOST_OBSERVATIONS, seed)
    labels = _communities(vectors[rows], n_domains, seed)
    return labels if len(rows) == len(vectors) else _of_neighbors(vectors[rows], labels, vectors)


def _communities(vectors: np.ndarray, n_domains: int | None, seed: int) -> np.ndarray:
    import anndata
    import scanpy as sc
    import torch
    from sklearn.neighbors import KNeighborsTransformer

    # Building the graph changes the number of threads of everything that uses OpenMP.
    n_threads = torch.get_num_threads()
    graph = anndata.AnnData(obsm={"X": vectors}, shape=(len(vectors), 0))
    n_neighbors = min(N_NEIGHBORS, len(vectors) - 1)
    # scanpy's own choice for many observations is approximate, and some versions of it fail with those of scipy.
    exact = KNeighborsTransformer(n_neighbors=n_neighbors, algorithm="brute") if len(vectors) >= _MANY else None
    sc.pp.neighbors(graph, n_neighbors=n_neighbors, use_rep="X", transformer=exact, random_state=seed)

    def at(resolution: float) -> np.ndarray:
        options = {"flavor": "igraph", "n_iterations": 2, "directed": False, "random_state": seed}
        sc.tl.leiden(graph, resolution=resolution, **options)
        return graph.obs["leiden"].astype(int).to_numpy()

    try:
        return at(1.0) if n_domains is None else _search(at, n_domains)
    finally:
        torch.set_num_threads(n_threads)


def _of_neighbors(known: np.ndarray, labels: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Domain of each vector by a vote of the nearest ones whose domain is known."""
    from sklearn.neighbors import KNeighborsClassifier

    neighbors = KNeighborsClassifier(N_NEIGHBORS, algorithm="brute").fit(known, labels)
    return np.concatenate([neighbors.predict(vectors[block]) for block in row_blocks(len(vectors))])


def _search(at, n_domains: int) -> np.ndarray:
    low, high = 1e-3, 8.0
    closest = at(high)
    for _ in range(25):
        middle = np.sqrt(low * high)
        labels = at(middle)
        found = labels.max() + 1
        if abs(found - n_domains) <= abs(closest.max() + 1 - n_domains):
            closest = labels
        if found == n_domains:
            break
        low, high = (middle, high) if found < n_domains else (low, middle)
    return closest
