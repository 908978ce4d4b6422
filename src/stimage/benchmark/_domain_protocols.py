from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stimage.benchmark._scores import classification_scores, clustering_scores
from stimage.benchmark._splits import random_split
from stimage.benchmark.heads._knn import N_NEIGHBORS, knn_head


def random_split_knn(
    embedding: np.ndarray,
    labels: np.ndarray,
    *,
    n_neighbors: int = N_NEIGHBORS,
    train_share: float = 0.2,
    seed: int = 0,
) -> dict[str, float]:
    """The paper's protocol: a random share of the spots trains a k-NN classifier, the others test it.

    Test spots lie among training spots, so coordinates alone score high: show them beside.

    Parameters
    ----------
    embedding
        Vectors (spots x dimensions) of one slide, annotated spots only.
    labels
        Their labels.
    n_neighbors
        Neighbours that vote, at most a fifth of the training spots.
    train_share
        Share of training spots.
    seed
        Seed of the split.

    Returns
    -------
    dict
        ``accuracy`` and ``ari`` on the test spots.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import random_split_knn
    >>> labels = np.repeat([0, 1], 50)
    >>> random_split_knn(10.0 * labels[:, None], labels, n_neighbors=3)
    {'accuracy': 1.0, 'ari': 1.0}
    """
    embedding, labels = np.asarray(embedding), np.asarray(labels)
    split = random_split(len(labels), train_share=train_share, seed=seed)
    training = embedding[split.train], labels[split.train]
    return transfer_knn(*training, embedding[split.test], labels[split.test], n_neighbors=n_neighbors)


def transfer_knn(
    embedding: np.ndarray,
    labels: np.ndarray,
    test_embedding: np.ndarray,
    test_labels: np.ndarray,
    *,
    n_neighbors: int = N_NEIGHBORS,
) -> dict[str, float]:
    """Train a k-NN classifier on some spots (of one slide, say) and test it on others (of another).

    Parameters
    ----------
    embedding, labels
        Training vectors (spots x dimensions) and labels.
    test_embedding, test_labels
        Test vectors and labels.
    n_neighbors
        Neighbours that vote, at most a fifth of the training spots.

    Returns
    -------
    dict
        ``accuracy`` and ``ari`` on the test spots.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import transfer_knn
    >>> labels = np.repeat([0, 1], 10)
    >>> transfer_knn(10.0 * labels[:, None], labels, 10.0 * labels[:, None] + 1, labels, n_neighbors=3)
    {'accuracy': 1.0, 'ari': 1.0}
    """
    scores = classification_scores(test_labels, knn_head(embedding, labels, test_embedding, n_neighbors=n_neighbors))
    return {metric: scores[metric] for metric in ("accuracy", "ari")}


def unsupervised_ari(embedding: np.ndarray, labels: np.ndarray, annotated: np.ndarray, *, seed: int = 0) -> float:
    """Cluster all spots with the true number of domains given, score the annotated ones.

    Parameters
    ----------
    embedding
        Vectors (spots x dimensions) of one slide.
    labels
        Labels (spots).
    annotated
        Which spots have a label (spots): only these are scored.
    seed
        Seed of the clustering.

    Returns
    -------
    float
        Adjusted Rand index of the domains of :func:`stimage.tl.domains` with its default settings, not refined.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import unsupervised_ari
    >>> labels = np.repeat([0, 1], 20)
    >>> vectors = 10.0 * labels[:, None] + np.random.default_rng(0).normal(size=(40, 2))
    >>> unsupervised_ari(vectors, labels, annotated=np.ones(40, dtype=bool))
    1.0
    """
    from stimage.models.clustering import cluster

    n_domains = len(np.unique(labels[annotated]))
    found = cluster(embedding, n_domains, seed=seed).labels
    return clustering_scores(labels[annotated], found[annotated])["ari"]


def mean_and_deviation(values: Sequence[float]) -> dict[str, float | list[float]]:
    """Mean, standard deviation (n − 1) and the values themselves, for a result file.

    Parameters
    ----------
    values
        Scores, for example of several seeds.

    Returns
    -------
    dict
        ``mean``, ``sd`` (0 for a single value) and ``values``.

    Examples
    --------
    >>> from stimage.benchmark import mean_and_deviation
    >>> mean_and_deviation([1.0, 3.0])["mean"]
    2.0
    """
    values = [float(value) for value in values]
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return {"mean": float(np.mean(values)), "sd": deviation, "values": values}
