from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from stimage.models.clustering._cluster import by_size
from stimage.models.clustering._kmeans import kmeans


def merged(vectors: np.ndarray, labels: np.ndarray, number: int) -> np.ndarray:
    """Coarser domains: pairs are joined that raise the sum of squares least (Ward), until there are so many.

    Parameters
    ----------
    vectors
        Components (observations x components).
    labels
        Domain of each observation, 0, 1, …
    number
        Domains that are left.

    Returns
    -------
    numpy.ndarray
        Coarser domain of each observation, every one a union of domains.
    """
    n_domains = labels.max() + 1
    sizes = np.bincount(labels, minlength=n_domains).astype(np.float64)
    centres = np.stack([vectors[labels == domain].mean(axis=0, dtype=np.float64) for domain in range(n_domains)])
    belongs = np.arange(n_domains)
    alive = list(range(n_domains))
    while len(alive) > number:
        cost, first, second = min(
            (sizes[a] * sizes[b] / (sizes[a] + sizes[b]) * np.square(centres[a] - centres[b]).sum(), a, b)
            for position, a in enumerate(alive)
            for b in alive[position + 1 :]
        )
        total = sizes[first] + sizes[second]
        centres[first] = (sizes[first] * centres[first] + sizes[second] * centres[second]) / total
        sizes[first] = total
        belongs[belongs == second] = first
        alive.remove(second)
    return np.searchsorted(alive, belongs)[labels]


def split(vectors: np.ndarray, labels: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Finer domains: the domain is halved by k-means whose halves lower the sum of squares most, until there are so many.

    Parameters
    ----------
    vectors, labels
        As for :func:`merged`.
    number
        Domains that are wanted.
    seed
        Seed of k-means.

    Returns
    -------
    numpy.ndarray
        Finer domain of each observation, every one within a domain; fewer than asked where vectors of a domain are alike.
    """
    labels = labels.copy()
    halves = {domain: _halved(vectors, labels == domain, seed) for domain in range(labels.max() + 1)}
    while labels.max() + 1 < number:
        domain = max(halves, key=lambda name: halves[name][0])
        gain, second = halves[domain]
        if gain <= 0:
            break
        new = labels.max() + 1
        labels[second] = new
        halves |= {part: _halved(vectors, labels == part, seed) for part in (domain, new)}
    return labels


def _halved(vectors: np.ndarray, members: np.ndarray, seed: int) -> tuple[float, np.ndarray]:
    """How much two halves of a domain lower its sum of squares, and the observations of the second half."""
    rows = np.flatnonzero(members)
    if len(rows) < 2:
        return 0.0, rows[:0]
    own = vectors[rows]
    second = kmeans(own, 2, seed) == 1
    if second.all() or not second.any():
        return 0.0, rows[:0]
    difference = own[second].mean(axis=0) - own[~second].mean(axis=0)
    gain = second.sum() * (~second).sum() / len(rows) * float(np.square(difference).sum())
    return gain, rows[second]


def nested_labels(vectors: np.ndarray, labels: np.ndarray, levels: Iterable[int], seed: int) -> dict[int, np.ndarray]:
    """Labels of coarser and finer levels that are nested in given ones, by their number of domains, the largest first.

    Parameters
    ----------
    vectors
        What was clustered (observations x components).
    labels
        Domain of each observation (observations).
    levels
        Numbers of domains: below that of ``labels`` domains are joined, above it they are divided.
    seed
        Seed of the division.

    Returns
    -------
    dict
        Labels (observations) of each level.
    """
    n_found = int(labels.max()) + 1
    return {
        level: by_size(merged(vectors, labels, level) if level <= n_found else split(vectors, labels, level, seed))
        for level in levels
    }
