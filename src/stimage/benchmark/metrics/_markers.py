"""The genes that mark domains, for the metrics that look at their spatial pattern."""

from __future__ import annotations

import warnings

import numpy as np
from scipy import sparse

N_TOP_GENES = 5  # of each domain
N_NEIGHBORS = 6
_FEWEST_SPOTS = 4  # of a domain whose markers count


def marker_values(
    expression: np.ndarray | sparse.spmatrix, found: np.ndarray, n_top_genes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Spots of domains that are not tiny (spots), and expression of the domains' top genes in them (genes x spots).

    Genes are ranked by the t-test of a domain against all other spots, as ``scanpy.tl.rank_genes_groups`` does.
    """
    import scanpy as sc
    from anndata import AnnData

    codes, found = np.unique(np.asarray(found), return_inverse=True)
    large = np.bincount(found) >= _FEWEST_SPOTS
    kept = np.flatnonzero(large[found])
    if large.sum() < 2:
        return kept, np.empty((0, len(kept)))
    values = sparse.csr_matrix(expression) if sparse.issparse(expression) else np.asarray(expression)
    adata = AnnData(values[kept])
    adata.obs["domain"] = found[kept].astype(str)
    adata.obs["domain"] = adata.obs["domain"].astype("category")
    with warnings.catch_warnings():
        # Genes without counts have no fold change.
        warnings.simplefilter("ignore")
        sc.tl.rank_genes_groups(adata, "domain", n_genes=min(n_top_genes, adata.n_vars), method="t-test")
    names = adata.uns["rank_genes_groups"]["names"]
    genes = np.unique([adata.var_names.get_loc(name) for row in names.tolist() for name in row])
    chosen = adata.X[:, genes]
    return kept, np.asarray(chosen.toarray() if sparse.issparse(chosen) else chosen, dtype=np.float64).T
