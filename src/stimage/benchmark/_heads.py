from __future__ import annotations

from itertools import pairwise

import numpy as np

from stimage import _validate

N_NEIGHBORS = 15
HIDDEN_LAYERS = (512, 256, 128)


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
        Neighbours that vote; all training spots when there are fewer.

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
    return KNeighborsClassifier(min(n_neighbors, len(labels))).fit(embedding, labels).predict(test_embedding)


def mlp_head(
    embedding: np.ndarray,
    labels: np.ndarray,
    test_embedding: np.ndarray,
    *,
    n_epochs: int = 800,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
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
    import torch
    from torch import nn

    _validate.check_positive("n_epochs", n_epochs)
    _validate.check_positive("batch_size", batch_size)
    _validate.check_seed(seed)
    classes, codes = np.unique(labels, return_inverse=True)
    embedding = np.asarray(embedding, dtype=np.float32)
    centre, spread = embedding.mean(axis=0), embedding.std(axis=0)
    spread = np.where(spread > 1e-6 * max(float(spread.max()), 1e-12), spread, 1)
    features = torch.from_numpy((embedding - centre) / spread)
    test = torch.from_numpy((np.asarray(test_embedding, dtype=np.float32) - centre) / spread)
    target = torch.from_numpy(codes)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = [features.shape[1], *HIDDEN_LAYERS, len(classes)]
        layers = [module for n_in, n_out in pairwise(sizes) for module in (nn.Linear(n_in, n_out), nn.ReLU())]
        network = nn.Sequential(*layers[:-1])
        # One pass over the weights per step: at this size the plain loop over tensors takes most of the time.
        optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)
        for _ in range(n_epochs):
            order = torch.randperm(len(target))
            shuffled, wanted = features[order], target[order]
            for start in range(0, len(order), batch_size):
                optimizer.zero_grad()
                output = network(shuffled[start : start + batch_size])
                nn.functional.cross_entropy(output, wanted[start : start + batch_size]).backward()
                optimizer.step()
    with torch.inference_mode():
        return classes[network(test).argmax(dim=1).numpy()]
