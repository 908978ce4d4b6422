from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from stimage.models._mixture import Mixture

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

N_COMPONENTS = 15
N_CODES = (4, 7, 10, 14)
N_STARTS = 6
N_DIMENSIONS = 30
N_STEPS = 60
"""Where a mixture stops matters little: many are combined."""


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
        tensors, posteriors = {}, []
        for number, view in enumerate(views):
            view = view.astype(np.float64)
            pca = _principal_components(view, N_COMPONENTS)
            components = pca.transform(view)
            tensors[f"{number}.mean"], tensors[f"{number}.axes"] = pca.mean_, pca.components_
            for n_codes in N_CODES:
                for start in range(N_STARTS):
                    n_found = max(min(n_codes, len(view) // 8), 1)
                    fitted = Mixture.fit(components, n_found, max_iter=N_STEPS, seed=seed + start)
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
    # With many sites the covariance matrix has the same components, and is far quicker to take apart.
    solver = "covariance_eigh" if len(values) >= 4 * values.shape[1] else "full"
    with np.errstate(invalid="ignore"):  # shares of a variance of zero, which are not used
        return PCA(n_components, svd_solver=solver).fit(values)
