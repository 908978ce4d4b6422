from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from stimage.models.embedding._mixture import Mixture

if TYPE_CHECKING:
    from sklearn.decomposition import PCA

N_COMPONENTS = 15
N_CLUSTERS = (6, 12, 20)
N_STARTS = 3
N_CODES = 30
N_STEPS = 30
"""Where a mixture stops matters little: many are combined."""
MOST_SITES = 10_000
"""Sites that mixtures are fitted on; more of them, chosen at random, change little and cost time."""
_FEWEST_SITES = 8
"""Sites for each cluster of a mixture, at least."""


@dataclass
class NicheCodes:
    """Soft membership of a site in recurring kinds of niche.

    Gaussian mixtures with 6, 12 and 20 clusters, three starts each, are fitted to vectors that describe the niches of
    sites. The posteriors of all mixtures side by side, of which the principal components are kept, are close for two sites
    when most mixtures put them together, so that no single mixture's accidents decide.

    Parameters
    ----------
    tensors
        Arrays by name, as :meth:`fit` made them.
    """

    tensors: dict[str, np.ndarray]

    @classmethod
    def fit(cls, vectors: np.ndarray, *, seed: int = 0) -> Self:
        """Fit codes.

        Parameters
        ----------
        vectors
            Vectors of sites (sites x dimensions), of one or many slides.
        seed
            Seed of the mixtures' starts and of the choice of sites.

        Returns
        -------
        NicheCodes
            The codes.
        """
        if len(vectors) > MOST_SITES:
            vectors = vectors[np.sort(np.random.default_rng(seed).choice(len(vectors), MOST_SITES, replace=False))]
        vectors = vectors.astype(np.float64)
        pca = _principal_components(vectors, N_COMPONENTS)
        # Mixtures stop at fixed tolerances, so vectors of any scale are brought to one.
        axes = pca.components_ / (np.sqrt(pca.explained_variance_.sum()) or 1.0)
        components = (vectors - pca.mean_) @ axes.T
        tensors, posteriors = {"vectors.mean": pca.mean_, "vectors.axes": axes}, []
        for n_clusters in N_CLUSTERS:
            for start in range(N_STARTS):
                n_found = max(min(n_clusters, len(vectors) // _FEWEST_SITES), 1)
                mixture = Mixture.fit(components, n_found, max_iter=N_STEPS, seed=seed + start)
                tensors |= {f"{n_clusters}.{start}.{field}": value for field, value in vars(mixture).items()}
                posteriors.append(mixture.posterior(components))
        pca = _principal_components(np.hstack(posteriors), N_CODES)
        spread = np.sqrt(pca.explained_variance_.sum())
        # Sites that no mixture tells apart have no codes: rounding errors must not be scaled up to some.
        tensors["codes.axes"] = pca.components_ / spread if spread > 1e-6 else 0 * pca.components_
        tensors["codes.mean"] = pca.mean_
        return cls({name: np.asarray(value, dtype=np.float32) for name, value in tensors.items()})

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Codes of sites.

        Parameters
        ----------
        vectors
            Vectors of the kind that the codes were fitted to (sites x dimensions), of any sites.

        Returns
        -------
        numpy.ndarray
            Codes (sites x 30 at most), float32, of unit total variance on the sites of the fit.
        """
        components = ((vectors - self.tensors["vectors.mean"]) @ self.tensors["vectors.axes"].T).astype(np.float64)
        posteriors = [mixture.posterior(components).astype(np.float32) for mixture in self._mixtures()]
        return ((np.hstack(posteriors) - self.tensors["codes.mean"]) @ self.tensors["codes.axes"].T).astype(np.float32)

    def _mixtures(self) -> list[Mixture]:
        fields = ("whitening", "means", "log_weights")
        return [
            Mixture(*(self.tensors[f"{n_clusters}.{start}.{field}"] for field in fields))
            for n_clusters in N_CLUSTERS
            for start in range(N_STARTS)
        ]

    @property
    def n_codes(self) -> int:
        """Number of codes of a site."""
        return len(self.tensors["codes.axes"])


def _principal_components(values: np.ndarray, n_components: int) -> PCA:
    """Principal components of sites (sites x dimensions), fewer when there are few sites."""
    from sklearn.decomposition import PCA

    n_components = min(n_components, *(max(n - 1, 1) for n in values.shape))
    # With many sites the covariance matrix has the same components, and is far quicker to take apart.
    solver = "covariance_eigh" if len(values) >= 4 * values.shape[1] else "full"
    with np.errstate(invalid="ignore"):  # shares of a variance of zero are not used
        return PCA(n_components, svd_solver=solver).fit(values)
