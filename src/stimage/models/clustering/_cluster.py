from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from stimage.models.clustering._components import components
from stimage.models.clustering._methods import METHODS
from stimage.models.clustering._number import agreement_of_halves, steady_number


@dataclass(frozen=True)
class Clustering:
    """Domains of observations.

    Parameters
    ----------
    labels
        Domain of each observation: 0 is the largest.
    vectors
        Components that were clustered (observations x components).
    curve
        Agreement of halves at each number of domains, where the number was estimated with it.
    """

    labels: np.ndarray
    vectors: np.ndarray
    curve: pd.DataFrame | None


def cluster(
    embedding: np.ndarray,
    n_domains: int | None,
    *,
    method: str = "kmeans",
    n_components: int = 15,
    positions: np.ndarray | None = None,
    slides: np.ndarray | None = None,
    seed: int = 0,
    show_progress: bool = True,
) -> Clustering:
    """Divide vectors into domains.

    Parameters
    ----------
    embedding
        Vectors (observations x dimensions).
    n_domains
        Number of domains; estimated when ``None``, see :func:`stimage.tl.domains`.
    method
        A key of ``METHODS``.
    n_components
        Principal components that are clustered.
    positions, slides
        Position (observations x 2) and slide of each observation, for halves of the tissue when the number is estimated.
    seed
        Seed of everything random.
    show_progress
        Show a progress bar while the number is estimated.

    Returns
    -------
    Clustering
        Domains, the largest first.
    """
    vectors = components(np.asarray(embedding), n_components)
    curve = None
    if n_domains is None and method != "leiden":
        slides = np.zeros(len(vectors), dtype=np.int64) if slides is None else slides
        curve = agreement_of_halves(vectors, positions, slides, seed, show_progress=show_progress)
        n_domains = steady_number(curve)
    return Clustering(by_size(METHODS[method](vectors, n_domains, seed)), vectors, curve)


def by_size(labels: np.ndarray) -> np.ndarray:
    """The same domains, numbered from the largest to the smallest."""
    _, labels, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    order = np.argsort(-sizes, kind="stable")
    return np.argsort(order)[labels]
