from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from stimage import _validate
from stimage.benchmark.baselines._expression import check_features, check_groups

KS = (1, 5, 10)
_BLOCK = 1024  # queries compared together, so that a large slide needs no square matrix
_TIED = 1e-9  # cosines that differ less are equal but for rounding


def retrieval_recall(
    queries: np.ndarray,
    keys: np.ndarray,
    *,
    ks: Sequence[int] = KS,
    groups: Sequence[Any] | np.ndarray | None = None,
) -> pd.DataFrame:
    """How often the partner of a spot in the other modality is among the k most similar vectors (cosine).

    Ties count as what a random order of the tied would give on average, so vectors that are all the same score chance.
    Swap the first two arguments for the other direction.

    Parameters
    ----------
    queries
        Vectors of one modality (spots x dimensions).
    keys
        Vectors of the other; row i belongs to row i of ``queries``.
    ks
        Numbers of vectors retrieved.
    groups
        Slide of each spot: a query is compared with the keys of its slide only. By default with all.

    Returns
    -------
    pandas.DataFrame
        One row for each k: ``k``, ``recall`` (mean over queries), ``chance`` (mean over queries of k / size of the group, at
        most 1) and ``n_queries``.

    Raises
    ------
    ValueError
        If shapes differ, vectors are not finite, or there is nothing to retrieve.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import retrieval_recall
    >>> images = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [-1.0, 0.0]])
    >>> retrieval_recall(images, images[[0, 1, 3, 2]], ks=[1, 3]).values.tolist()
    [[1.0, 0.5, 0.25, 4.0], [3.0, 0.75, 0.75, 4.0]]

    References
    ----------
    ST-Align, Eq. 10 (the contrastive loss whose success this measures).
    """
    queries = np.asarray(queries, dtype=np.float64)
    queries = check_features(queries, len(queries) if queries.ndim else 0, "queries")
    keys = check_features(keys, len(queries), "keys")
    if keys.shape != queries.shape:
        raise ValueError(
            f"`keys` has {keys.shape[1]} dimensions, `queries` {queries.shape[1]}: they must share a space."
        )
    if not len(queries):
        raise ValueError("`queries` has no rows: there is nothing to retrieve.")
    ks = list(ks)
    if not ks:
        raise ValueError("`ks` is empty: pass at least one number of vectors to retrieve.")
    for k in ks:
        _validate.check_positive("ks", k)
    names = np.repeat("all", len(queries)) if groups is None else check_groups(groups, len(queries))

    queries, keys = _unit(queries), _unit(keys)
    recall, chance = np.zeros(len(ks)), np.zeros(len(ks))
    for name in np.unique(names):
        members = np.flatnonzero(names == name)
        better, tied = _places(queries[members], keys[members])
        for i, k in enumerate(ks):
            # The partner is equally likely to have any place among those that tie with it.
            recall[i] += np.clip((k - better) / tied, 0, 1).sum()
            chance[i] += min(k, len(members))
    n = len(queries)
    return pd.DataFrame({"k": ks, "recall": recall / n, "chance": chance / n, "n_queries": n})


def _places(queries: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each query, how many keys are more similar than its partner, and how many as similar, the partner included."""
    better, tied = np.empty(len(queries)), np.empty(len(queries))
    for start in range(0, len(queries), _BLOCK):
        similarity = queries[start : start + _BLOCK] @ keys.T
        rows = np.arange(len(similarity))
        similarity -= similarity[rows, start + rows][:, None]
        better[start + rows] = (similarity > _TIED).sum(axis=1)
        tied[start + rows] = (np.abs(similarity) <= _TIED).sum(axis=1)
    return better, tied


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length one; those of length zero stay, and their cosine with any is 0."""
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    vectors = vectors / np.where(largest > 0, largest, 1)  # squares of very large and small values stay finite
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)
