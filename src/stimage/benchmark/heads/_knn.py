from __future__ import annotations

import numpy as np

from stimage import _validate

N_NEIGHBORS = 15


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
