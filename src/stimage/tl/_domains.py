from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from stimage import _keys, _validate
from stimage._settings import seed_of
from stimage.models.clustering import METHODS, by_size, cluster, confidence, nested_labels, places_of, voted

if TYPE_CHECKING:
    from anndata import AnnData


def domains(
    adata: AnnData,
    n_domains: int | None = None,
    *,
    use_rep: str = _keys.REPRESENTATION,
    method: Literal["kmeans", "gmm", "leiden"] = "kmeans",
    n_components: int = 15,
    levels: Sequence[int] = (),
    smooth_neighbors: int = 0,
    key_added: str = _keys.DOMAIN,
    seed: int | None = 0,
    copy: bool = False,
) -> AnnData | None:
    """Cluster an embedding into spatial domains.

    Vectors are reduced to principal components, which are not scaled one by one; the scale of the vectors does not matter.
    Positions do not enter, except through the embedding, in the estimate of the number and in ``smooth_neighbors``.

    Parameters
    ----------
    adata
        AnnData with an embedding. Several slides in it are clustered together.
    n_domains
        Number of domains. When not given it is estimated, between 3 and 15, by how well clusterings of two halves of the tissue
        agree: the largest number at which they do clearly, or else the smallest that is almost as steady as the best, see the
        user guide; with Leiden, what modularity at resolution 1 finds.
    use_rep
        Key in ``obsm`` of the embedding.
    method
        ``"kmeans"``, the best of up to 100 starts; ``"gmm"``: Gaussian mixture with one covariance for all domains, in which
        directions in which observations of a domain vary count little; ``"leiden"`` on a graph of 15 nearest neighbours, its
        resolution searched for ``n_domains``. Of many observations methods are fitted to some (10,000; 20,000 with Leiden).
    n_components
        Principal components of the embedding that are clustered.
    levels
        Numbers of coarser or finer domains that are nested in each other: below ``n_domains`` domains are joined, above it
        they are divided.
    smooth_neighbors
        Nearest observations on the same slide that vote on the domain of each, once. 0 leaves labels as they are.
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
    ``obs["stimage_domain_confidence"]``
        Between 0 on a border and 1: how much nearer the centre of the own domain is than that of the nearest other one (the
        simplified silhouette), in the embedding.
    ``obs["stimage_domain_3"]``, …
        Domains of each of ``levels``.
    ``uns["stimage_domain"]``
        ``params``, ``n_domains`` (found) and, when the number was estimated, ``criterion``: a data frame with the
        ``agreement`` of halves at each number and its ``deviation``.

    Raises
    ------
    KeyError
        If the embedding is missing, or positions are for ``smooth_neighbors``.
    ValueError
        If the embedding has NaN, or there are not more observations than domains.

    Warns
    -----
    UserWarning
        If another number of domains is found than requested.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.tl.domains(adata, 5, use_rep="spatial", levels=[2])
    >>> adata.obs["stimage_domain"].cat.categories.tolist()
    ['0', '1', '2', '3', '4']
    >>> adata.obs.groupby("stimage_domain", observed=True)["stimage_domain_2"].nunique().tolist()
    [1, 1, 1, 1, 1]

    References
    ----------
    Lange et al. 2004, Stability-Based Validation of Clustering Solutions, Neural Computation 16 (number of domains).
    """
    _validate.check_anndata(adata)
    _validate.check_copy(adata, copy)
    _validate.check_choice("method", method, METHODS)
    _validate.check_positive("n_components", n_components)
    _validate.check_positive("smooth_neighbors", smooth_neighbors, smallest=0)
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
    for name, number in [("n_domains", n_domains), *(("levels", level) for level in _numbers(levels))]:
        if number is not None:
            _check_number(adata, name, number)
    positions, slides = places_of(adata)
    if smooth_neighbors and positions is None:
        raise KeyError(
            "`smooth_neighbors` needs positions: there is neither a grid nor adata.obsm['spatial'], or slides were joined "
            "since: run `stimage.pp.compact_grid`, with `slide_key=` for several slides."
        )

    found = cluster(
        embedding,
        n_domains,
        method=method,
        n_components=n_components,
        positions=positions,
        slides=slides,
        seed=seed,
    )
    labels = found.labels
    if smooth_neighbors:
        labels = by_size(voted(labels, positions, slides, smooth_neighbors))
    nested = nested_labels(found.vectors, labels, _numbers(levels), seed)
    columns = {key_added: labels, **{_keys.domain_level(key_added, level): part for level, part in nested.items()}}
    for name, asked in [(key_added, n_domains), *((_keys.domain_level(key_added, n), n) for n in _numbers(levels))]:
        if asked is not None and columns[name].max() + 1 != asked:
            _warn_of_other_number(columns[name].max() + 1, asked, method, smooth_neighbors)
            break

    adata = adata.copy() if copy else adata
    for name, numbers in columns.items():
        categories = [str(number) for number in range(numbers.max() + 1)]
        adata.obs[name] = pd.Categorical.from_codes(numbers, categories)
    adata.obs[_keys.domain_confidence(key_added)] = confidence(found.vectors, labels)
    params: dict[str, Any] = {"use_rep": use_rep, "method": method, "n_components": n_components, "seed": seed}
    params |= {"levels": ", ".join(map(str, _numbers(levels))), "smooth_neighbors": smooth_neighbors}
    adata.uns[key_added] = {"params": params, "n_domains": int(labels.max()) + 1}
    if found.curve is not None:
        adata.uns[key_added]["criterion"] = found.curve
    return adata if copy else None


def _numbers(levels: Sequence[int]) -> list[int]:
    if isinstance(levels, str) or not isinstance(levels, Sequence | np.ndarray):
        raise TypeError(f"`levels` must be a list of numbers, found {levels!r}.")
    return list(dict.fromkeys(levels))


def _check_number(adata: AnnData, parameter: str, number: int) -> None:
    _validate.check_positive(parameter, number, smallest=2)
    if number >= adata.n_obs:
        raise ValueError(
            f"`{parameter}`={number} must be below the number of observations, {adata.n_obs}: ask for fewer."
        )


def _warn_of_other_number(found: int, asked: int, method: str, smooth_neighbors: int) -> None:
    reason = {
        "leiden": "no resolution gives that number; use another `method`",
        "gmm": "the others are empty; use another `method` or ask for fewer",
        "kmeans": "there are no more that differ in the embedding; ask for fewer",
    }[method]
    if smooth_neighbors:
        reason += ", or vote among fewer `smooth_neighbors`"
    warnings.warn(f"{found} domains were found, not {asked}: {reason}.", stacklevel=3)
