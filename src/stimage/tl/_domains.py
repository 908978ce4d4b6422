from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from stimage import _keys, _validate
from stimage._settings import seed_of
from stimage.tl._clustering import METHODS, cluster

if TYPE_CHECKING:
    from anndata import AnnData


def domains(
    adata: AnnData,
    n_domains: int | None = None,
    *,
    use_rep: str = _keys.REPRESENTATION,
    method: Literal["gmm", "kmeans", "leiden"] = "gmm",
    n_components: int = 15,
    key_added: str = _keys.DOMAIN,
    seed: int | None = 0,
    copy: bool = False,
) -> AnnData | None:
    """Cluster an embedding into spatial domains. Labels are not smoothed over neighbours.

    Parameters
    ----------
    adata
        AnnData with an embedding.
    n_domains
        Number of domains. When not given it is estimated: with a mixture or k-means, between 2 and 15, where the curve
        of the Bayesian information criterion, or of the sum of squares, lies farthest below the line that joins its ends
        (its knee); with Leiden, what modularity at resolution 1 finds.
    use_rep
        Key in ``obsm`` of the embedding.
    method
        ``"gmm"``: Gaussian mixture with one covariance for all domains; ``"kmeans"``; ``"leiden"`` on a graph of 15
        nearest neighbours, its resolution searched for ``n_domains``.
    n_components
        Principal components of the embedding that are clustered.
    key_added
        Key of the result.
    seed
        Seed of the clustering. ``None`` takes ``scvi.settings.seed``, or 0 where that is not set.
    copy
        Return a copy instead of writing to ``adata``.

    Returns
    -------
    AnnData or None
        With ``copy=True`` the copy. Writes:

    ``obs["stimage_domain"]``
        Categorical domains ``"0"``, ``"1"``, …, the largest first.
    ``uns["stimage_domain"]``
        ``params``, ``n_domains`` and, when it was estimated, ``criterion``: a data frame with ``bic`` or
        ``inertia`` and ``below_chord`` of each number.

    Raises
    ------
    KeyError
        If the embedding is missing.
    ValueError
        If it has NaN, or there are not more observations than domains.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.tl.domains(adata, 5, use_rep="spatial", method="kmeans")
    >>> adata.obs["stimage_domain"].cat.categories.tolist()
    ['0', '1', '2', '3', '4']
    """
    _validate.check_anndata(adata)
    _validate.check_choice("method", method, METHODS)
    _validate.check_positive("n_components", n_components)
    seed = seed_of(seed)
    _validate.check_seed(seed)
    _validate.check_key_added(key_added)
    # A graph of nearest neighbours needs two of them.
    _validate.check_size(adata, n_obs=3 if method == "leiden" else 2, n_vars=0)
    embedding = _validate.check_representation(adata, use_rep)
    smallest = 4 * 3  # three numbers make a curve, and each needs four observations for a domain
    if n_domains is None and method != "leiden" and adata.n_obs < smallest:
        raise ValueError(
            f"`n_domains` cannot be estimated from {adata.n_obs} observations, at least {smallest} are needed: pass it."
        )
    if n_domains is not None:
        _validate.check_positive("n_domains", n_domains, smallest=2)
        if n_domains >= adata.n_obs:
            raise ValueError(
                f"`n_domains`={n_domains} must be below the number of observations, {adata.n_obs}: ask for fewer."
            )
    labels, criterion = cluster(embedding, n_domains, method=method, n_components=n_components, seed=seed)
    _, labels, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    names = np.argsort(order)[labels].astype(str)
    adata = adata.copy() if copy else adata
    categories = [str(number) for number in range(len(order))]
    adata.obs[key_added] = pd.Categorical(names, categories=categories)
    params = {"use_rep": use_rep, "method": method, "n_components": n_components, "seed": seed}
    adata.uns[key_added] = {"params": params, "n_domains": len(order)}
    if criterion is not None:
        adata.uns[key_added]["criterion"] = criterion
    return adata if copy else None
