from __future__ import annotations

from typing import Literal, get_args

import numpy as np

Head = Literal["logistic", "knn"]
HEADS: tuple[str, ...] = get_args(Head)
N_COMPONENTS = 15
"""Principal components that heads see: with more, a few labels do not hold a logistic regression."""
N_NEIGHBORS = 15


def label_probabilities(
    vectors: np.ndarray, codes: np.ndarray, n_labels: int, *, head: Head, n_components: int = N_COMPONENTS
) -> np.ndarray:
    """Probability of each label for every observation, from the observations whose label is known.

    The head sees principal components of all vectors, labelled or not, scaled together so that their mean variance is one.

    Parameters
    ----------
    vectors
        Embedding (observations x dimensions).
    codes
        Number of each observation's label, -1 where it is not known (observations).
    n_labels
        Number of labels. One that no observation has gets probability 0.
    head
        ``"logistic"``: multinomial logistic regression with a penalty of half the squared length of its coefficients;
        ``"knn"``: share of the 15 nearest labelled observations.
    n_components
        Number of principal components.

    Returns
    -------
    numpy.ndarray
        Probabilities (observations x labels), float32; 1 at the label where it is known.
    """
    known = np.flatnonzero(codes >= 0)
    components = _components(np.asarray(vectors, dtype=np.float64), n_components)
    labels = np.unique(codes[known])
    probabilities = np.zeros((len(vectors), n_labels), dtype=np.float32)
    if len(labels) == 1:
        probabilities[:, labels] = 1
    else:
        fitted = _classifier(head, len(known)).fit(components[known], codes[known])
        unknown = codes < 0
        if unknown.any():
            probabilities[np.ix_(unknown, labels)] = fitted.predict_proba(components[unknown])
        probabilities[known, codes[known]] = 1
    return probabilities


def _components(vectors: np.ndarray, n_components: int) -> np.ndarray:
    from sklearn.decomposition import PCA

    vectors = vectors - vectors.mean(axis=0)
    if vectors.shape[1] > n_components and len(vectors) > n_components:
        vectors = PCA(n_components, svd_solver="full").fit_transform(vectors)
    return vectors / (np.sqrt(vectors.var(axis=0).mean()) or 1.0)


def _classifier(head: Head, n_known: int):
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    if head == "knn":
        return KNeighborsClassifier(min(N_NEIGHBORS, n_known))
    return LogisticRegression(C=1.0, max_iter=1000)
