from __future__ import annotations

import numpy as np

N_NEIGHBORS = 15


def leiden(vectors: np.ndarray, n_domains: int | None, seed: int) -> np.ndarray:
    """Domain of each observation: communities of the graph of nearest neighbours.

    The resolution is searched for the number of domains; without a number it is 1. Where no resolution gives the number,
    the labels with the nearest number are returned.
    """
    import anndata
    import scanpy as sc
    import torch

    # Building the graph changes the number of threads of everything that uses OpenMP.
    n_threads = torch.get_num_threads()
    graph = anndata.AnnData(obsm={"X": vectors}, shape=(len(vectors), 0))
    sc.pp.neighbors(graph, n_neighbors=min(N_NEIGHBORS, len(vectors) - 1), use_rep="X", random_state=seed)

    def at(resolution: float) -> np.ndarray:
        options = {"flavor": "igraph", "n_iterations": 2, "directed": False, "random_state": seed}
        sc.tl.leiden(graph, resolution=resolution, **options)
        return graph.obs["leiden"].astype(int).to_numpy()

    try:
        return at(1.0) if n_domains is None else _search(at, n_domains)
    finally:
        torch.set_num_threads(n_threads)


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
