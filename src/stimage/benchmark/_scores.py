from __future__ import annotations

import numpy as np

from stimage.benchmark.metrics._ari import adjusted_rand_index
from stimage.benchmark.metrics._nmi import normalized_mutual_information


def classification_scores(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Accuracy, macro-averaged F1, adjusted Rand index and normalised mutual information.

    Parameters
    ----------
    truth, predicted
        Labels (spots).

    Returns
    -------
    dict
        ``accuracy``, ``macro_f1`` (over the classes that occur in either), ``ari`` and ``nmi``.

    Examples
    --------
    >>> from stimage.benchmark import classification_scores
    >>> classification_scores(["a", "a", "b", "b"], ["a", "a", "b", "a"])["accuracy"]
    0.75
    """
    from sklearn.metrics import f1_score

    truth, predicted = np.asarray(truth), np.asarray(predicted)
    return {
        "accuracy": float(np.mean(truth == predicted)),
        "macro_f1": float(f1_score(truth, predicted, average="macro", zero_division=0)),
        **clustering_scores(truth, predicted),
    }


def clustering_scores(truth: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Adjusted Rand index and normalised mutual information: agreement of two partitions, whatever the names.

    Parameters
    ----------
    truth, found
        Labels (spots).

    Returns
    -------
    dict
        ``ari`` (Hubert and Arabie 1985) and ``nmi`` (arithmetic mean of the entropies).

    Examples
    --------
    >>> from stimage.benchmark import clustering_scores
    >>> clustering_scores(["a", "a", "b", "b"], [1, 1, 0, 0])
    {'ari': 1.0, 'nmi': 1.0}
    """
    return {"ari": adjusted_rand_index(truth, found), "nmi": normalized_mutual_information(truth, found)}


def reconstruction_scores(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Errors of predicted expression of hidden spots.

    Parameters
    ----------
    prediction, truth
        log1p of counts per 10,000 (hidden spots x genes).

    Returns
    -------
    dict
        ``mse``, ``mae``, and ``pearson``: the mean over genes of the correlation over hidden spots. Genes that are constant
        in either have none and are left out of it; it is NaN when all are.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import reconstruction_scores
    >>> truth = np.array([[0.0, 1.0], [1.0, 3.0]])
    >>> reconstruction_scores(truth + 1, truth)
    {'mse': 1.0, 'mae': 1.0, 'pearson': 1.0}
    """
    prediction, truth = np.asarray(prediction, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if prediction.shape != truth.shape:
        raise ValueError(f"`prediction` has shape {prediction.shape}, `truth` {truth.shape}: they must be the same.")
    difference = prediction - truth
    centred = [values - values.mean(axis=0) for values in (prediction, truth)]
    norms = [np.sqrt((values**2).sum(axis=0)) for values in centred]
    varies = np.minimum(*norms) > 1e-6
    pearson = (centred[0] * centred[1]).sum(axis=0)[varies] / (norms[0] * norms[1])[varies]
    return {
        "mse": float(np.mean(difference**2)),
        "mae": float(np.abs(difference).mean()),
        "pearson": round(float(pearson.mean()), 12) if varies.any() else float("nan"),
    }
