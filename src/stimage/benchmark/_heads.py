from __future__ import annotations

import numpy as np

from stimage import _validate
from stimage.benchmark._perceptrons import train_perceptrons
from stimage.benchmark._splits import Split

N_NEIGHBORS = 15
BATCH_SIZE = 32
LEARNING_RATE = 1e-3


def knn_head(
    embedding: np.ndarray, labels: np.ndarray, test_embedding: np.ndarray, *, n_neighbors: int = N_NEIGHBORS
) -> np.ndarray:
    """Predict labels by a vote of the nearest training spots (Euclidean).

    Parameters
    ----------
    embedding
        Vectors of the training spots (spots x dimensions).
    labels
        Their labels.
    test_embedding
        Vectors of the test spots.
    n_neighbors
        Neighbours that vote, at most a fifth of the training spots: more of them would outvote small domains.

    Returns
    -------
    numpy.ndarray
        Label of each test spot.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import knn_head
    >>> knn_head(np.array([[0.0], [1.0], [9.0]]), np.array(["a", "a", "b"]), np.array([[0.4], [8.0]]), n_neighbors=1)
    array(['a', 'b'], dtype='<U1')
    """
    from sklearn.neighbors import KNeighborsClassifier

    _validate.check_positive("n_neighbors", n_neighbors)
    return (
        KNeighborsClassifier(min(n_neighbors, max(len(labels) // 5, 1))).fit(embedding, labels).predict(test_embedding)
    )


def mlp_head(
    embedding: np.ndarray,
    labels: np.ndarray,
    test_embedding: np.ndarray,
    *,
    n_epochs: int = 800,
    batch_size: int = BATCH_SIZE,
    learning_rate: float = LEARNING_RATE,
    seed: int = 0,
) -> np.ndarray:
    """Predict labels with the paper's multilayer perceptron: 512, 256 and 128 hidden units, ReLU, Adam, cross-entropy.

    Dimensions are standardised on the training spots.

    Parameters
    ----------
    embedding
        Vectors of the training spots (spots x dimensions).
    labels
        Their labels.
    test_embedding
        Vectors of the test spots.
    n_epochs
        Passes over the training spots; 800 in the paper.
    batch_size
        Spots in a step.
    learning_rate
        Of Adam.
    seed
        Seed of the start and of the order of spots.

    Returns
    -------
    numpy.ndarray
        Label of each test spot, one of those seen in training.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import mlp_head
    >>> labels = np.repeat(["a", "b"], 50)
    >>> vectors = np.repeat([0.0, 5.0], 50)[:, None] + np.random.default_rng(0).normal(size=(100, 2))
    >>> float((mlp_head(vectors, labels, vectors, n_epochs=10) == labels).mean()) > 0.95
    True

    References
    ----------
    Spatial Transcriptomics as Images for Large-Scale Pretraining, section 4.
    """
    _validate.check_positive("n_epochs", n_epochs)
    _validate.check_positive("batch_size", batch_size)
    _validate.check_seed(seed)
    spots = np.arange(len(embedding) + len(test_embedding))
    split = Split(spots[: len(embedding)], spots[len(embedding) :])
    ((outputs, classes),) = train_perceptrons(
        np.concatenate([embedding, test_embedding]),
        np.asarray(labels),
        [split],
        n_epochs=n_epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        seeds=[seed],
    )
    return classes[outputs.argmax(axis=1)]
