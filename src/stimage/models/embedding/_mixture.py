from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Self

import numpy as np

TOLERANCE = 1e-3
"""Rise of the mean log-likelihood below which fitting stops."""
RIDGE = 1e-6
"""Added to the variances, so that a covariance matrix can be inverted."""


@dataclass
class Mixture:
    """A Gaussian mixture with one covariance matrix for all codes: what its posterior needs, and no more."""

    whitening: np.ndarray
    """Turns centred components into coordinates in which every code is round (components x components)."""
    means: np.ndarray
    """Centres of the codes in these coordinates (codes x components)."""
    log_weights: np.ndarray
    """Logarithm of the share of each code (codes)."""

    @classmethod
    def fit(cls, points: np.ndarray, n_codes: int, *, max_iter: int, seed: int) -> Self:
        """Fit a mixture by expectation maximisation from clusters of k-means.

        The steps are those of :class:`sklearn.mixture.GaussianMixture` with tied covariance. What all codes share is
        computed once a step here, and what does not change once, which takes a fraction of the time.

        Parameters
        ----------
        points
            Points, in double precision (points x components).
        n_codes
            Number of codes.
        max_iter
            Largest number of steps.
        seed
            Seed of k-means.

        Returns
        -------
        Mixture
            The mixture.
        """
        from sklearn.cluster import KMeans
        from sklearn.exceptions import ConvergenceWarning

        with warnings.catch_warnings():
            # Points that are all alike are one cluster, however many were asked for.
            warnings.simplefilter("ignore", ConvergenceWarning)
            labels = KMeans(n_codes, n_init=1, random_state=seed).fit(points).labels_
        products = points.T @ points
        mixture = cls._from_posterior(points, np.eye(n_codes)[labels], products)
        likelihood = -np.inf
        for _ in range(max_iter):
            score = mixture._score(points)
            largest = score.max(axis=1, keepdims=True)
            posterior = np.exp(score - largest)
            norms = posterior.sum(axis=1, keepdims=True)
            posterior /= norms
            # Less what a posterior does not depend on: the points' own lengths and a constant.
            lengths = np.einsum("ij,ij->", mixture.whitening @ mixture.whitening.T, products) / len(points)
            volume = np.log(np.diag(mixture.whitening)).sum()
            before, likelihood = likelihood, float((np.log(norms) + largest).mean()) + volume - 0.5 * lengths
            mixture = cls._from_posterior(points, posterior, products)
            if abs(likelihood - before) < TOLERANCE:
                break
        return mixture

    @classmethod
    def _from_posterior(cls, points: np.ndarray, posterior: np.ndarray, products: np.ndarray) -> Self:
        """The likeliest mixture when each point is divided among the codes like this (points x codes)."""
        from scipy.linalg import solve_triangular

        counts = posterior.sum(axis=0) + 10 * np.finfo(np.float64).eps
        means = posterior.T @ points / counts[:, None]
        covariance = (products - (counts * means.T) @ means) / counts.sum()
        covariance.flat[:: len(covariance) + 1] += RIDGE
        triangle = np.linalg.cholesky(covariance)
        whitening = solve_triangular(triangle, np.eye(len(covariance)), lower=True).T
        return cls(whitening, means @ whitening, np.log(counts / counts.sum()))

    def _score(self, points: np.ndarray) -> np.ndarray:
        """Log-density of each code (points x codes), less what all codes share."""
        # No array of points x codes x components, and one product for all codes.
        means = self.means.astype(np.float64)
        return points @ (self.whitening @ means.T) + (self.log_weights - 0.5 * (means**2).sum(axis=1))

    def posterior(self, points: np.ndarray) -> np.ndarray:
        """Probability of each code (points x codes)."""
        score = self._score(points)
        score = np.exp(score - score.max(axis=1, keepdims=True))
        return score / score.sum(axis=1, keepdims=True)
