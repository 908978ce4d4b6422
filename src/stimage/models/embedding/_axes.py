from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stimage.data import Slide, principal_genes

N_AXES = 30
MOST_VARIANCE = 0.75
"""Quantile of the variances that genes are scaled down to on large slides, so that a contamination does not lead the axes."""
FEWEST_SITES = 1_000
"""Active sites that each slide must have for this: on a few hundred spots the genes that vary most are the informative ones."""


def own_axes(slides: Sequence[Slide]) -> np.ndarray:
    """Principal axes that slides are described on in an embedding.

    Parameters
    ----------
    slides
        Slides of one vocabulary and scale.

    Returns
    -------
    numpy.ndarray
        Axes (genes x at most 30), float32.
    """
    large = all(int(slide.active.sum()) >= FEWEST_SITES for slide in slides)
    return principal_genes(list(slides), N_AXES, most_variance=MOST_VARIANCE if large else 1.0)[0]
