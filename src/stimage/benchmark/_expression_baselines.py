from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from stimage import _validate

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
    codes = None if groups is None else np.unique(check_groups(groups, expression.shape[0]), return_inverse=True)[1]

    def predict(train: np.ndarray, test: np.ndarray, genes: np.ndarray) -> np.ndarray:
        inputs, targets = features[train], dense_part(expression, train, genes)
        ridge = _Ridge(inputs, targets)
        if alpha is not None:
            return ridge.predict(features[test], alpha)
        of_training = np.zeros(len(train), dtype=int) if codes is None else codes[train]
        if (of_training == of_training[0]).all():
            errors = [ridge.leave_one_out_error(each) for each in ALPHAS]
        else:
            errors = _leave_group_out_errors(inputs, targets, of_training)
        return ridge.predict(features[test], ALPHAS[int(np.argmin(errors))])

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


class _Ridge:
    """Ridge regressions for any penalty from one decomposition of the training features.

    With X = standardised features, weights are ``basis (eigenvalues + alpha)^-1 left^T targets``, from the smaller of
    X^T X (basis: its eigenvectors) and X X^T (left: its eigenvectors).
    """

    def __init__(self, features: np.ndarray, targets: np.ndarray) -> None:
        self.center = features.mean(axis=0)
        # A feature that is constant in training gets no weight, whatever it does elsewhere.
        self.scale = np.where(np.ptp(features, axis=0) > 0, features.std(axis=0), 1)
        self.intercept = targets.mean(axis=0)
        self.targets = targets - self.intercept
        inputs = (features - self.center) / self.scale
        wide = inputs.shape[0] < inputs.shape[1]
        eigenvalues, vectors = np.linalg.eigh(inputs @ inputs.T if wide else inputs.T @ inputs)
        self.eigenvalues = np.maximum(eigenvalues, 0)
        self.left, self.basis = (vectors, inputs.T @ vectors) if wide else (inputs @ vectors, vectors)
        self.projected = self.left.T @ self.targets
        self.inputs_in_basis = inputs @ self.basis

    def predict(self, features: np.ndarray, alpha: float) -> np.ndarray:
        weights = self.basis / (self.eigenvalues + alpha) @ self.projected
        return self.intercept + (features - self.center) / self.scale @ weights

    def leave_one_out_error(self, alpha: float) -> float:
        """Squared error of training spots predicted from the others, features standardised on all: closed form."""
        shrunk = self.inputs_in_basis / (self.eigenvalues + alpha)
        residuals = self.targets - shrunk @ self.projected
        leverage = 1 / len(self.targets) + (shrunk * self.left).sum(axis=1)
        return float(((residuals / (1 - leverage)[:, None]) ** 2).sum())


def _leave_group_out_errors(features: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> np.ndarray:
    errors = np.zeros(len(ALPHAS))
    for group in np.unique(groups):
        out = groups == group
        ridge = _Ridge(features[~out], targets[~out])
        errors += [((ridge.predict(features[out], alpha) - targets[out]) ** 2).sum() for alpha in ALPHAS]
    return errors


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


def check_groups(groups: Sequence[Any] | np.ndarray, n_spots: int) -> np.ndarray:
    """Return groups as strings, one per spot and none missing, or raise ``ValueError``."""
    from pandas import isna

    groups = np.asarray(groups)
    if groups.shape != (n_spots,):
        raise ValueError(f"`groups` has shape {groups.shape}, ({n_spots},) is needed: one group per spot.")
    if isna(groups).any():
        raise ValueError(f"`groups` is missing for {int(isna(groups).sum())} spots: name them or leave them out.")
    return groups.astype(str)


def check_expression(expression: np.ndarray | sparse.spmatrix) -> None:
    if sparse.issparse(expression):
        if expression.format not in ("csr", "csc"):
            raise TypeError(f"`expression` is a sparse matrix in {expression.format} form: convert it with `.tocsr()`.")
    elif not isinstance(expression, np.ndarray) or expression.ndim != 2:
        raise TypeError("`expression` must be a matrix (spots x genes): a numpy array or a CSR or CSC matrix.")
