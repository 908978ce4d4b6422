from __future__ import annotations

import numpy as np

from stimage.models.clustering._blocks import row_blocks


def components(embedding: np.ndarray, n_components: int) -> np.ndarray:
    """Leading principal components of an embedding, divided by their total spread.

    Axes keep the weight of what they carry, and vectors of any scale give the same. The covariance matrix is summed up
    block by block, so that nothing of the size of the embedding is held in double precision.

    Parameters
    ----------
    embedding
        Vectors (observations x dimensions).
    n_components
        Components that are kept; all of fewer dimensions.

    Returns
    -------
    numpy.ndarray
        Components (observations x components), float32, of total variance 1; zeros where all vectors are alike.
    """
    n, dim = embedding.shape
    blocks = list(row_blocks(n))
    mean = sum(embedding[block].astype(np.float64).sum(axis=0) for block in blocks) / n
    # Very large or small vectors would lose their digits in squares.
    largest = max(float(np.abs(embedding[block] - mean).max(initial=0.0)) for block in blocks) or 1.0
    covariance = np.zeros((dim, dim))
    for block in blocks:
        centred = (embedding[block] - mean) / largest
        covariance += centred.T @ centred
    values, axes = np.linalg.eigh(covariance / n)
    order = np.argsort(values)[::-1][:n_components]
    axes = axes[:, order]
    axes *= np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    spread = np.sqrt(np.maximum(values[order], 0).sum())
    # Rounding errors of equal vectors are no components.
    scale = 1 / spread if spread > 1e-7 * max(1.0, np.abs(mean).max() / largest) else 0.0
    found = np.empty((n, len(order)), dtype=np.float32)
    for block in blocks:
        found[block] = ((embedding[block] - mean) / largest) @ (axes * scale)
    return found
