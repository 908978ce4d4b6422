from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from stimage import _validate
from stimage._labels import text_labels
from stimage.benchmark.baselines._expression import check_features, check_groups

_INSTALL = "Measuring batch effects needs scib-metrics: `pip install 'stimage[batch]'`."


def batch_mixing(
    embedding: np.ndarray, batches: Sequence[Any] | np.ndarray, *, n_neighbors: int = 90
) -> dict[str, float]:
    """How well slides or donors are mixed in an embedding: iLISI and the acceptance rate of kBET.

    Both ask whether the nearest neighbours of a spot are from all batches in their overall shares. Slides with other tissue
    *should* differ: a perfectly mixed embedding may have lost what is real. Read it beside how well domains are kept.

    Parameters
    ----------
    embedding
        Vectors (spots x dimensions) of all slides.
    batches
        Slide or donor of each spot.
    n_neighbors
        Nearest neighbours looked at, at most all other spots.

    Returns
    -------
    dict
        ``ilisi``, from 0 (neighbours are of one batch) to 1 (of all in equal parts), and ``kbet``, the share of spots, from 0 to 1,
        around which the shares of batches cannot be told from the overall ones.

    Raises
    ------
    ImportError
        If scib-metrics is not installed.
    ValueError
        If there is one batch only, lengths differ, vectors are not finite, or most of them are the same.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import batch_mixing
    >>> vectors = np.random.default_rng(0).normal(size=(200, 5))
    >>> batch_mixing(vectors, np.tile(["a", "b"], 100))["ilisi"] > 0.8  # doctest: +SKIP
    True

    References
    ----------
    Korsunsky et al. 2019, Harmony (LISI); Büttner et al. 2019 (kBET); Luecken et al. 2022 (scIB).
    """
    embedding = np.asarray(embedding, dtype=np.float64)
    embedding = check_features(embedding, len(embedding) if embedding.ndim else 0, "embedding")
    names = check_groups(batches, len(embedding), "batches")
    if len(np.unique(names)) < 2:
        raise ValueError(f"`batches` has {len(np.unique(names))} batch: mixing needs at least 2.")
    _validate.check_positive("n_neighbors", n_neighbors, smallest=3)
    try:
        from scib_metrics import kbet, lisi_knn
        from scib_metrics.nearest_neighbors import NeighborsResults
    except ImportError as error:
        raise ImportError(_INSTALL) from error
    from sklearn.neighbors import NearestNeighbors

    number = min(n_neighbors, len(embedding))
    # A spot is its own first neighbour, as these metrics are defined.
    distances, nearest = NearestNeighbors(n_neighbors=number).fit(embedding).kneighbors(embedding)
    found = NeighborsResults(indices=nearest, distances=distances)
    lisi = np.asarray(lisi_knn(found, names), dtype=np.float64)
    # Where neighbours are all equally far no width of the kernel fits, which is told by a value that cannot be.
    defined = np.isfinite(lisi) & (lisi > 1 - 1e-3)
    if defined.mean() < 0.5:
        raise ValueError(
            f"`embedding` has {int((~defined).sum())} of {len(lisi)} spots whose neighbours are all equally far: too many of "
            "its vectors are the same."
        )
    ilisi = (np.median(lisi[defined]) - 1) / (len(np.unique(names)) - 1)
    return {"ilisi": float(ilisi), "kbet": float(kbet(found, names)[0])}


def domain_proportions(
    domains: Sequence[Any] | np.ndarray | pd.Series,
    donors: Sequence[Any] | np.ndarray | pd.Series,
    *,
    conditions: Sequence[Any] | np.ndarray | pd.Series | None = None,
) -> pd.DataFrame:
    """Share of each domain in the spots of each donor, for figures and tests over donors.

    Shares of one donor sum to one: if one domain grows, others shrink.

    Parameters
    ----------
    domains
        Domain of each spot; spots without one are left out.
    donors
        Who, or which slide, each spot is from: the unit of a test.
    conditions
        Condition of each spot, the same for all spots of a donor.

    Returns
    -------
    pandas.DataFrame
        A row for each donor and domain, also where the share is 0: ``donor``, ``condition`` (if given), ``domain``,
        ``proportion``, ``n_spots`` (of the donor).

    Raises
    ------
    ValueError
        If numbers of spots differ, a donor is missing, no spot has a domain, or a donor has several conditions.

    Examples
    --------
    >>> from stimage.benchmark import domain_proportions
    >>> table = domain_proportions(["a", "a", "b", "b"], ["x", "x", "x", "y"])
    >>> table["proportion"].round(2).tolist()
    [0.67, 0.33, 0.0, 1.0]
    """
    text, known = text_labels(domains)
    donors = check_groups(donors, len(text), "donors")
    if not known.any():
        raise ValueError("`domains` is missing for all spots.")
    frame = pd.DataFrame({"donor": donors, "domain": text})
    condition_of = None
    if conditions is not None:
        frame["condition"] = check_groups(conditions, len(text), "conditions")
        several = frame.groupby("donor", sort=False)["condition"].nunique().loc[lambda numbers: numbers > 1].index
        if len(several):
            raise ValueError(
                f"`conditions` has several values for donors {_validate.listing(several)}: one is needed for each."
            )
        condition_of = frame.groupby("donor", sort=False)["condition"].first()
    frame = frame[known]
    counts = frame.groupby(["donor", "domain"], sort=False).size().unstack("domain", fill_value=0)
    counts = counts.loc[list(dict.fromkeys(frame["donor"])), sorted(counts.columns)]
    shares = counts.div(counts.sum(axis=1), axis=0).stack().rename("proportion").reset_index()
    shares["n_spots"] = shares["donor"].map(counts.sum(axis=1))
    if condition_of is not None:
        shares.insert(1, "condition", shares["donor"].map(condition_of))
    return shares
