from __future__ import annotations

import numpy as np
from scipy import sparse

from stimage.benchmark.metrics._markers import N_NEIGHBORS, N_TOP_GENES, marker_values
from stimage.benchmark.metrics._neighbors import neighbor_graph


def marker_moran(
    expression: np.ndarray | sparse.spmatrix,
    found: np.ndarray,
    positions: np.ndarray,
    *,
    n_top_genes: int = N_TOP_GENES,
    n_neighbors: int = N_NEIGHBORS,
) -> float:
    """Median Moran's I of the genes that mark the domains: whether markers have a spatial pattern.

    Parameters
    ----------
    expression
        Log-normalised expression (spots x genes).
    found
        Labels (spots).
    positions
        Physical positions (spots x 2).
    n_top_genes
        Genes of each domain, by the t-test against all other spots; domains of fewer than four spots are left out.
    n_neighbors
        Nearest neighbours of a spot in the graph.

    Returns
    -------
    float
        Around 0 without a pattern, towards 1 the stronger it is. NaN if there are fewer than two domains of four spots.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import marker_moran
    >>> positions = np.stack(np.indices((12, 12)), axis=-1).reshape(-1, 2)
    >>> rng = np.random.default_rng(0)
    >>> expression = rng.normal(size=(144, 20)) + 4 * (positions[:, :1] >= 6)
    >>> marker_moran(expression, positions[:, 0] >= 6, positions) > 0.5
    True

    References
    ----------
    Moran 1950, Notes on Continuous Stochastic Phenomena; Yuan et al. 2024, Benchmarking spatial clustering
    methods (SDMBench).
    """
    from scanpy.metrics import morans_i

    kept, values = marker_values(expression, found, n_top_genes)
    values = values[(values != values[:, :1]).any(axis=1)]
    if not len(values):
        return float("nan")
    return float(np.median(morans_i(neighbor_graph(np.asarray(positions)[kept], n_neighbors), values)))
