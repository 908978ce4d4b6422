from __future__ import annotations

from itertools import pairwise

import numpy as np

from stimage import _validate

HIDDEN_LAYERS = (512, 256, 128)
BATCH_SIZE = 32
LEARNING_RATE = 1e-3


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
    import torch
    from torch import nn

    _validate.check_positive("n_epochs", n_epochs)
    _validate.check_positive("batch_size", batch_size)
    _validate.check_seed(seed)
    features, test_features = (
        torch.from_numpy(np.asarray(vectors, dtype=np.float32)) for vectors in (embedding, test_embedding)
    )
    center, spread = features.mean(dim=0), features.std(dim=0, correction=0)
    # A dimension that is constant in training is not blown up.
    spread = spread.where(spread > 1e-6 * spread.max().clamp(min=1e-12), 1)
    features = (features - center) / spread
    classes, codes = np.unique(np.asarray(labels), return_inverse=True)
    targets = torch.from_numpy(codes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = [features.shape[1], *HIDDEN_LAYERS, len(classes)]
        layers = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())][:-1]
        network = nn.Sequential(*layers)
        optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)
        for _ in range(n_epochs):
            for batch in torch.randperm(len(targets)).split(batch_size):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(features[batch]), targets[batch]).backward()
                optimizer.step()
    with torch.inference_mode():
        return classes[network((test_features - center) / spread).argmax(dim=1).numpy()]
