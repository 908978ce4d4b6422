from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

N_COMPONENTS = 15
N_CODES = (4, 7, 10, 14)
N_STARTS = 6
N_DIMENSIONS = 30


@dataclass
class Mixture:
    """A Gaussian mixture with one covariance matrix for all codes: what its posterior needs, and no more."""

    whitening: np.ndarray
    """Turns centred components into coordinates in which every code is round (components x components)."""
    means: np.ndarray
    """Centres of the codes in these coordinates (codes x components)."""
    log_weights: np.ndarray
    """Logarithm of the share of each code (codes)."""

    def posterior(self, components: np.ndarray) -> np.ndarray:
        """Probability of each code (sites x codes)."""
        # Squared distances to the codes less what all codes share: no array of sites x codes x components.
        means = self.means.astype(np.float64)
        score = (components @ self.whitening) @ means.T + self.log_weights - 0.5 * (means**2).sum(axis=1)
        score = np.exp(score - score.max(axis=1, keepdims=True))
        return score / score.sum(axis=1, keepdims=True)


@dataclass
class Codebook:
    """Recurring neighbourhoods of the training slides, and how much like each of them a site is.

    Several Gaussian mixtures, with different numbers of codes and starts, are fitted to each of several views of the
    sites. Their posteriors side by side, of which the principal components are kept, are close for two sites when most
    mixtures put them together, so that no single mixture's accidents decide.

    Parameters
    ----------
    tensors
        Arrays by name, as :meth:`fit` made them.
    """

    tensors: dict[str, np.ndarray]

    @classmethod
    def fit(cls, views: list[np.ndarray], *, seed: int) -> Self:
        """Fit a codebook.

        Parameters
        ----------
        views
            Views of the same sites (each sites x dim).
        seed
            Seed of the mixtures' starts.

        Returns
        -------
        Codebook
            The codebook.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        tensors, posteriors = {}, []
        for number, view in enumerate(views):
            view = view.astype(np.float64)
            pca = _principal_components(view, N_COMPONENTS)
            components = pca.transform(view)
            tensors[f"{number}.mean"], tensors[f"{number}.axes"] = pca.mean_, pca.components_
            for n_codes in N_CODES:
                for start in range(N_STARTS):
                    mixture = GaussianMixture(
                        max(min(n_codes, len(view) // 8), 1),
                        covariance_type="tied",
                        max_iter=60,
                        random_state=seed + start,
                    )
                    with warnings.catch_warnings():
                        # Where a mixture stops matters little: many are combined.
                        warnings.simplefilter("ignore", ConvergenceWarning)
                        mixture.fit(components)
                    whitening = mixture.precisions_cholesky_
                    fitted = Mixture(whitening, mixture.means_ @ whitening, np.log(mixture.weights_))
                    key = f"{number}.{n_codes}.{start}"
                    tensors |= {f"{key}.{field}": value for field, value in vars(fitted).items()}
                    posteriors.append(fitted.posterior(components))
        codes = np.hstack(posteriors)
        pca = _principal_components(codes, N_DIMENSIONS)
        spread = np.sqrt(pca.explained_variance_.sum())
        # Sites that no mixture tells apart have no codes: rounding errors must not be scaled up to some.
        tensors["mean"], tensors["axes"] = pca.mean_, pca.components_ / spread if spread > 1e-6 else 0 * pca.components_
        return cls({name: np.asarray(value, dtype=np.float32) for name, value in tensors.items()})

    def __call__(self, views: list[np.ndarray]) -> np.ndarray:
        """Codes of sites.

        Parameters
        ----------
        views
            The same views as in :meth:`fit`, of any sites.

        Returns
        -------
        numpy.ndarray
            Codes (sites x 30 at most), of unit total variance on the sites of the fit.
        """
        posteriors = []
        for number, view in enumerate(views):
            components = (view - self.tensors[f"{number}.mean"]) @ self.tensors[f"{number}.axes"].T
            components = components.astype(np.float64)
            for n_codes in N_CODES:
                for start in range(N_STARTS):
                    key = f"{number}.{n_codes}.{start}"
                    mixture = Mixture(*(self.tensors[f"{key}.{f}"] for f in ("whitening", "means", "log_weights")))
                    posteriors.append(mixture.posterior(components).astype(np.float32))
        return ((np.hstack(posteriors) - self.tensors["mean"]) @ self.tensors["axes"].T).astype(np.float32)


def _principal_components(values: np.ndarray, n_components: int) -> PCA:
    """Principal components of sites (sites x dim), fewer when there are few sites."""
    from sklearn.decomposition import PCA

    n_components = min(n_components, *(max(n - 1, 1) for n in values.shape))
    with np.errstate(invalid="ignore"):  # shares of a variance of zero, which are not used
        return PCA(n_components, svd_solver="full").fit(values)
