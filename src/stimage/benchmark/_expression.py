from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from stimage import _validate
from stimage.benchmark._splits import Split, leave_one_out
from stimage.benchmark.baselines._expression import (
    N_NEIGHBORS,
    ExpressionPredictor,
    check_expression,
    check_features,
    check_groups,
    dense_part,
    mean_predictor,
    neighbor_predictor,
    ridge_predictor,
)

N_PERMUTATIONS = 5  # one moves the mean correlation by some .07 on a section of 180 spots: genes move together
BASELINES = ("gene mean", "ridge", f"mean of {N_NEIGHBORS} nearest images", "ridge, permuted spots")
_CONSTANT = 1e-6  # a gene whose values differ by less than this share of the largest is constant but for rounding


def evaluate_expression(
    expression: np.ndarray | sparse.spmatrix,
    features: np.ndarray | None,
    groups: Sequence[Any] | np.ndarray,
    *,
    predictors: Mapping[str, ExpressionPredictor] | None = None,
    splits: Sequence[Split] | None = None,
    n_genes: int = 100,
    baselines: bool = True,
    permuted: bool = True,
    seed: int = 0,
) -> pd.DataFrame:
    """Score predictions of expression from the image on slides or patients that no predictor was fitted on.

    In each split the genes are those whose expression varies most among the training spots: tested spots choose nothing.
    The baselines are the mean of each gene, ridge regression and retrieval of the training spots with similar images.

    Parameters
    ----------
    expression
        log1p of counts per 10,000 (spots x genes), each spot normalised by its counts over all genes, before any gene is
        left out. A few nearly empty spots raise every error: leave them out too.
    features
        Image features (spots x dimensions) for the baselines; ``None`` with ``baselines=False``.
    groups
        Slide or patient of each spot: what is left out, and what the ridge regression leaves out to choose its penalty.
    predictors
        Functions of training spots, test spots and genes (positions in ``expression``) that return the expression of the
        test spots (test spots x genes). They may be fitted on the training spots only, which is the caller's to keep:
        whatever was fitted beforehand (a model, components, scaling, a gene list) must not have seen test spots either.
    splits
        Training and test spots (positions), with nothing in common; by default each group is left out once.
    n_genes
        Genes predicted; all when there are fewer.
    baselines
        Whether to score the baselines too.
    permuted
        Whether to score, with the baselines, ridge regressions on training features that were given to other training
        spots, in five random orders: their score is the chance level.
    seed
        Seed of these orders.

    Returns
    -------
    pandas.DataFrame
        One row for each split, method and repetition (of permutations): ``method``, ``repeat``, ``split``, ``n_train``,
        ``n_test``, ``n_genes``, ``mse``, ``mae``, ``pearson`` (mean over genes of the correlation over test spots; 0 for a
        gene that is predicted to be constant) and ``n_genes_scored``: genes that vary among the test spots, the only ones
        with a correlation. ``pearson`` is NaN when there are none.

    Raises
    ------
    ValueError
        If numbers of spots differ, values are not finite, a split is empty or trains on test spots, a predictor's answer
        has another shape or is not finite, is called like a baseline, or there is nothing to score.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import evaluate_expression
    >>> rng = np.random.default_rng(0)
    >>> features, groups = rng.normal(size=(90, 5)), np.repeat(["a", "b", "c"], 30)
    >>> expression = features @ rng.normal(size=(5, 20)) + rng.normal(size=(90, 20))
    >>> records = evaluate_expression(expression, features, groups, n_genes=10)
    >>> records.groupby("method")["pearson"].mean().round(1).to_dict()["ridge"]
    0.9

    References
    ----------
    ST-Align (expression from the image, patients left out). Jaume et al. 2024, HEST-1k: A Dataset for Spatial
    Transcriptomics and Histology Image Analysis (ridge regression on frozen features).
    """
    check_expression(expression)
    n_spots = expression.shape[0]
    _check_finite(expression)
    groups = check_groups(groups, n_spots)
    if baselines:
        if features is None:
            raise ValueError("`features` is None: pass image features, or `baselines=False`.")
        features = check_features(features, n_spots)
    _validate.check_positive("n_genes", n_genes)
    _validate.check_seed(seed)
    taken = sorted(set(BASELINES) & set(predictors or {})) if baselines else []
    if taken:
        raise ValueError(
            f"`predictors` has {_validate.listing(taken)}, as baselines are called: rename, or `baselines=False`."
        )
    if not baselines and not predictors:
        raise ValueError("`predictors` is empty and `baselines` False: there is nothing to score.")
    splits = leave_one_out(groups, parameter="groups") if splits is None else _check_splits(splits, n_spots)

    records = []
    for split in splits:
        genes = _most_variable(expression[split.train], n_genes)
        truth = dense_part(expression, split.test, genes)
        facts = {
            "split": split.name,
            "n_train": len(split.train),
            "n_test": len(split.test),
            "n_genes": len(genes),
        }
        methods = [(method, 0, predictor) for method, predictor in (predictors or {}).items()]
        if baselines:
            methods = [*_baselines(expression, features, groups, split, permuted, seed), *methods]
        for method, repeat, predictor in methods:
            prediction = predictor(split.train.copy(), split.test.copy(), genes.copy())
            prediction = np.asarray(prediction, dtype=np.float64)
            _check_prediction(prediction, truth, method)
            records.append({"method": method, "repeat": repeat, **facts, **_scores(prediction, truth)})
    return pd.DataFrame(records)


def _baselines(
    expression: np.ndarray | sparse.spmatrix,
    features: np.ndarray,
    groups: np.ndarray,
    split: Split,
    permuted: bool,
    seed: int,
) -> Iterator[tuple[str, int, ExpressionPredictor]]:
    """Name, repetition and predictor of each baseline."""
    mean, ridge, nearest, control = BASELINES
    yield mean, 0, mean_predictor(expression)
    yield ridge, 0, ridge_predictor(expression, features, groups=groups)
    yield nearest, 0, neighbor_predictor(expression, features)
    for repeat in range(N_PERMUTATIONS if permuted else 0):
        shuffled = features.copy()
        shuffled[split.train] = features[np.random.default_rng([seed, repeat]).permutation(split.train)]
        yield control, repeat, ridge_predictor(expression, shuffled, groups=groups)


def _most_variable(expression: np.ndarray | sparse.spmatrix, n_genes: int) -> np.ndarray:
    """Positions, ascending, of the genes with the largest variance; of equal ones the first."""
    mean = np.asarray(expression.mean(axis=0, dtype=np.float64)).ravel()
    squared = expression.multiply(expression) if sparse.issparse(expression) else np.square(expression)
    variance = np.asarray(squared.mean(axis=0, dtype=np.float64)).ravel() - mean**2
    return np.sort(np.argsort(-variance, kind="stable")[:n_genes])


def _scores(prediction: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    varies = _varies(truth)
    # A constant prediction correlates with nothing: it counts as 0, else refusing to predict would be rewarded.
    both = np.flatnonzero(varies & _varies(prediction))
    centred = [values[:, both] - values[:, both].mean(axis=0) for values in (prediction, truth)]
    norms = [np.linalg.norm(values, axis=0) for values in centred]
    correlations = (centred[0] * centred[1]).sum(axis=0) / (norms[0] * norms[1])
    difference = prediction - truth
    return {
        "mse": float(np.mean(difference**2)),
        "mae": float(np.abs(difference).mean()),
        "pearson": float(correlations.sum() / varies.sum()) if varies.any() else float("nan"),
        "n_genes_scored": int(varies.sum()),
    }


def _varies(values: np.ndarray) -> np.ndarray:
    return np.ptp(values, axis=0) > _CONSTANT * np.abs(values).max(axis=0)


def _check_finite(expression: np.ndarray | sparse.spmatrix) -> None:
    values = expression.data if sparse.issparse(expression) else expression
    if not np.isfinite(values).all():
        raise ValueError("`expression` has NaN or infinite values: leave out spots without counts before normalising.")


def _check_splits(splits: Sequence[Split], n_spots: int) -> list[Split]:
    if not len(splits):
        raise ValueError("`splits` is empty: there is nothing to score.")
    checked = []
    for i, split in enumerate(splits):
        if not isinstance(split, Split):
            raise TypeError(f"`splits[{i}]` must be a stimage.benchmark.Split, found {type(split).__name__}.")
        parts = {"train": np.asarray(split.train), "test": np.asarray(split.test)}
        for part, spots in parts.items():
            if spots.ndim != 1 or spots.dtype.kind not in "iu" or not len(spots):
                raise ValueError(
                    f"`splits[{i}].{part}` must be positions of at least one spot, found shape {spots.shape} of "
                    f"{spots.dtype}: turn a mask into positions with `numpy.flatnonzero`."
                )
            if spots.min() < 0 or spots.max() >= n_spots or len(np.unique(spots)) < len(spots):
                raise ValueError(f"`splits[{i}].{part}` must hold each of the {n_spots} spots at most once.")
        shared = np.intersect1d(parts["train"], parts["test"])
        if len(shared):
            raise ValueError(
                f"`splits[{i}]` ({split.name!r}) trains on {len(shared)} of its test spots (e.g. "
                f"{_validate.listing(shared, 3)})."
            )
        checked.append(Split(**parts, name=split.name))
    return checked


def _check_prediction(prediction: np.ndarray, truth: np.ndarray, method: str) -> None:
    if prediction.shape != truth.shape:
        raise ValueError(
            f"`predictors[{method!r}]` returned shape {prediction.shape}, {truth.shape} (test spots x genes) is needed."
        )
    if not np.isfinite(prediction).all():
        raise ValueError(f"`predictors[{method!r}]` returned values that are not finite: leave no test spot out.")
