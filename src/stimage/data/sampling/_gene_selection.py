from __future__ import annotations

from typing import Literal

import numpy as np

from stimage.data.sampling._kernels import draw_in_turn, smallest

GeneSelection = Literal["weighted", "hvg", "random"]
GENE_SELECTIONS: tuple[GeneSelection, ...] = ("weighted", "hvg", "random")
SMOOTHING = 1e-6
"""ε of Eq. 7: a gene that is constant in the window can still be drawn when too few others vary."""


def select_window_genes(
    variance: np.ndarray,
    n_genes: int,
    *,
    method: GeneSelection = "weighted",
    rng: np.random.Generator,
) -> np.ndarray:
    """Choose the genes (channels) of a window, without replacement.

    Parameters
    ----------
    variance
        Variance of each candidate gene over the window's sites (candidates).
    n_genes
        Number of genes to choose; all candidates are returned when there are no more.
    method
        ``"weighted"`` draws with probability proportional to variance + ε (the paper, Eq. 7), ``"hvg"`` takes the
        genes of highest variance, ``"random"`` draws uniformly.
    rng
        Source of randomness.

    Returns
    -------
    numpy.ndarray
        Sorted indices of the chosen genes.

    Raises
    ------
    ValueError
        If the method is not known.

    Notes
    -----
    Weighted drawing takes one gene after the other in proportion to the weights that remain. Taking the genes of highest
    ``log(v + ε)`` plus Gumbel noise has the same distribution and needs a random number for every candidate.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.data import select_window_genes
    >>> select_window_genes(np.array([0.1, 5.0, 2.0]), 2, method="hvg", rng=np.random.default_rng(0))
    array([1, 2])
    """
    if method not in GENE_SELECTIONS:
        raise ValueError(f"`method` is {method!r}; it must be one of {GENE_SELECTIONS}.")
    if n_genes >= len(variance):
        return np.arange(len(variance))
    if method == "random":
        return smallest(rng.random(len(variance)), n_genes)
    if method == "hvg":
        # Of equal variances the first count.
        return smallest(-variance.astype(np.float64), n_genes)
    return np.sort(draw_in_turn(np.add(variance, SMOOTHING, dtype=np.float64), rng.random(n_genes)))
