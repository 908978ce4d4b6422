from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from stimage import _validate

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

ExpressionPredictor = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
ALPHAS = np.logspace(-2, 6, 17)  # penalties of standardised features that are tried
N_NEIGHBORS = 50  # as BLEEP averages


def mean_predictor(expression: np.ndarray | sparse.spmatrix) -> ExpressionPredictor:
    """Predict each gene by its mean over the training spots, whatever the image shows.

    Parameters
    ----------
    expression
        log1p of counts per 10,000 (spots x genes); only rows of training spots are read.

    Returns
    -------
    callable
        Predictor of :func:`evaluate_expression`.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import mean_predictor
    >>> predict = mean_predictor(np.array([[1.0, 0.0], [3.0, 0.0], [9.0, 9.0]]))
    >>> predict(np.array([0, 1]), np.array([2]), np.array([0]))
    array([[2.]])
    """
    check_expression(expression)

    def predict(train: np.ndarray, test: np.ndarray, genes: np.ndarray) -> np.ndarray:
        return np.tile(dense_part(expression, train, genes).mean(axis=0), (len(test), 1))

    return predict


def ridge_predictor(
    expression: np.ndarray | sparse.spmatrix,
    features: np.ndarray,
    *,
    alpha: float | None = None,
    groups: Sequence[Any] | np.ndarray | None = None,
) -> ExpressionPredictor:
    """Predict expression by ridge regression on image features.

    Features are standardised on the training spots; the intercept is not penalised. HEST-Bench instead takes 256 principal
    components and alpha = 100 / (components x genes), hardly any penalty on standardised features.

    Parameters
    ----------
    expression
        log1p of counts per 10,000 (spots x genes); only rows of training spots are read.
    features
        Image features (spots x dimensions).
    alpha
        Penalty: the loss is the sum of squared errors plus alpha times that of the coefficients. By default the one of 17
        (0.01 to a million) with the least squared error over all genes in cross-validation within the training spots.
    groups
        Slide or patient of each spot: cross-validation leaves out one group of the training spots after another. Without,
        or where training spots are of one group, it leaves out single spots.

    Returns
    -------
    callable
        Predictor of :func:`evaluate_expression`.

    Raises
    ------
    ValueError
        If ``alpha`` is not positive, the numbers of spots differ or features are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import ridge_predictor
    >>> features = np.arange(6.0)[:, None]
    >>> predict = ridge_predictor(1 + 2 * features, features, alpha=1e-6)
    >>> predict(np.arange(5), np.array([5]), np.array([0])).round(3)
    array([[11.]])

    References
    ----------
    Jaume et al. 2024, HEST-1k: A Dataset for Spatial Transcriptomics and Histology Image Analysis.
    """
    check_expression(expression)
    features = check_features(features, expression.shape[0])
    if alpha is not None:
        _validate.check_range("alpha", alpha, 0, np.inf)
    names = None if groups is None else check_groups(groups, expression.shape[0])

    def predict(train: np.ndarray, test: np.ndarray, genes: np.ndarray) -> np.ndarray:
        inputs, targets = features[train], dense_part(expression, train, genes)
        chosen = _least_error(inputs, targets, None if names is None else names[train]) if alpha is None else alpha
        # A single gene comes back as a vector.
        return _ridge(chosen).fit(inputs, targets).predict(features[test]).reshape(len(test), -1)

    return predict


def neighbor_predictor(
    expression: np.ndarray | sparse.spmatrix, features: np.ndarray, *, n_neighbors: int = N_NEIGHBORS
) -> ExpressionPredictor:
    """Predict expression by the mean over the training spots whose features are most alike (cosine): retrieval.

    Parameters
    ----------
    expression
        log1p of counts per 10,000 (spots x genes); only rows of training spots are read.
    features
        Features (spots x dimensions): of the image, or an embedding that image and expression share.
    n_neighbors
        Training spots averaged; all when there are fewer. BLEEP takes 50.

    Returns
    -------
    callable
        Predictor of :func:`evaluate_expression`.

    Raises
    ------
    ValueError
        If the numbers of spots differ or features are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import neighbor_predictor
    >>> features = np.array([[1.0, 0.0], [0.0, 1.0], [0.1, 2.0]])
    >>> predict = neighbor_predictor(np.array([[5.0], [7.0], [0.0]]), features, n_neighbors=1)
    >>> predict(np.array([0, 1]), np.array([2]), np.array([0]))
    array([[7.]])

    References
    ----------
    Xie et al. 2023, Spatially Resolved Gene Expression Prediction from Histology Images via Bi-modal Contrastive Learning.
    """
    check_expression(expression)
    features = check_features(features, expression.shape[0])
    _validate.check_positive("n_neighbors", n_neighbors)

    def predict(train: np.ndarray, test: np.ndarray, genes: np.ndarray) -> np.ndarray:
        from sklearn.neighbors import NearestNeighbors

        number = min(n_neighbors, len(train))
        finder = NearestNeighbors(n_neighbors=number, metric="cosine", algorithm="brute").fit(features[train])
        return finder.kneighbors_graph(features[test]) @ dense_part(expression, train, genes) / number

    return predict


def _ridge(alpha: float) -> Pipeline:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), Ridge(alpha))


def _least_error(features: np.ndarray, targets: np.ndarray, groups: np.ndarray | None) -> float:
    """The penalty with the least squared error of training spots that were left out: of a group, or one by one."""
    from sklearn.linear_model import Ridge, RidgeCV
    from sklearn.model_selection import LeaveOneGroupOut
    from sklearn.preprocessing import StandardScaler

    if groups is None or len(np.unique(groups)) == 1:
        return float(RidgeCV(ALPHAS).fit(StandardScaler().fit_transform(features), targets).alpha_)
    errors = np.zeros(len(ALPHAS))
    for rest, out in LeaveOneGroupOut().split(features, targets, groups):
        scaler = StandardScaler().fit(features[rest])
        inputs, left_out = scaler.transform(features[rest]), scaler.transform(features[out])
        for i, alpha in enumerate(ALPHAS):
            predicted = Ridge(alpha).fit(inputs, targets[rest]).predict(left_out).reshape(len(out), -1)
            errors[i] += ((predicted - targets[out]) ** 2).sum()
    return float(ALPHAS[int(np.argmin(errors))])


def dense_part(expression: np.ndarray | sparse.spmatrix, spots: np.ndarray, genes: np.ndarray) -> np.ndarray:
    """Expression of some spots and genes, dense and in double precision."""
    part = expression[spots][:, genes]
    return (part.toarray() if sparse.issparse(part) else part).astype(np.float64)


def check_features(features: np.ndarray, n_spots: int, parameter: str = "features") -> np.ndarray:
    """Return vectors as a finite matrix of doubles with a row per spot, or raise ``ValueError``."""
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or len(features) != n_spots or not features.shape[1]:
        raise ValueError(f"`{parameter}` has shape {features.shape}, {n_spots} rows (one per spot) are needed.")
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise ValueError(
            f"`{parameter}` has NaN or infinite values for {len(bad)} spots (e.g. {_validate.listing(bad, 3)}): embed "
            "them again or leave these spots out."
        )
    return features


def check_groups(groups: Sequence[Any] | np.ndarray, n_spots: int, parameter: str = "groups") -> np.ndarray:
    """Return groups as strings, one per spot and none missing, or raise ``ValueError``."""
    from pandas import isna

    groups = np.asarray(groups)
    if groups.shape != (n_spots,):
        raise ValueError(f"`{parameter}` has shape {groups.shape}, ({n_spots},) is needed: one group per spot.")
    if isna(groups).any():
        raise ValueError(f"`{parameter}` is missing for {int(isna(groups).sum())} spots: name them or leave them out.")
    return groups.astype(str)


def check_expression(expression: np.ndarray | sparse.spmatrix) -> None:
    if sparse.issparse(expression):
        if expression.format not in ("csr", "csc"):
            raise TypeError(f"`expression` is a sparse matrix in {expression.format} form: convert it with `.tocsr()`.")
    elif not isinstance(expression, np.ndarray) or expression.ndim != 2:
        raise TypeError("`expression` must be a matrix (spots x genes): a numpy array or a CSR or CSC matrix.")
