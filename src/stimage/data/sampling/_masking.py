from __future__ import annotations

from typing import Literal

import numpy as np

Masking = Literal["site", "site_gene", "region", "mixed"]
MASKINGS: tuple[Masking, ...] = ("site", "site_gene", "region", "mixed")


def draw_hidden_sites(
    observed: np.ndarray,
    ratio: float,
    *,
    masking: Literal["site", "region"] = "site",
    rng: np.random.Generator,
) -> np.ndarray:
    """Choose which sites of a window are hidden from the model.

    Parameters
    ----------
    observed
        Boolean image of the window's sites that have data (rows x columns).
    ratio
        Share of the observed sites to hide; at least one is hidden and one stays visible.
    masking
        ``"site"`` hides single sites at random, ``"region"`` a contiguous rectangle of random shape and position. Where the
        rectangle holds no observed site or all of them, nothing could be predicted, and single sites are hidden instead;
        training warns when that is so in more than one of twenty windows.
    rng
        Source of randomness.

    Returns
    -------
    numpy.ndarray
        Boolean image (rows x columns) of hidden sites, all of them observed.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.data import draw_hidden_sites
    >>> hidden = draw_hidden_sites(np.ones((4, 4), dtype=bool), 0.25, rng=np.random.default_rng(0))
    >>> int(hidden.sum())
    4
    """
    n_observed = int(observed.sum())
    n_hidden = min(max(round(ratio * n_observed), 1), n_observed - 1)
    if masking == "site":
        keys = np.where(observed, rng.random(observed.shape), np.inf)
        hidden = np.zeros(observed.shape, dtype=bool)
        hidden.flat[np.argpartition(keys, n_hidden - 1, axis=None)[:n_hidden]] = True
        return hidden
    hidden = draw_rectangle(observed, ratio, rng=rng)
    if not hides_a_part(observed, hidden):
        return draw_hidden_sites(observed, ratio, masking="site", rng=rng)
    return hidden


def draw_rectangle(observed: np.ndarray, ratio: float, *, rng: np.random.Generator) -> np.ndarray:
    """Observed sites in a rectangle of a share of the window, of random shape and position (rows x columns)."""
    n_rows, n_cols = observed.shape
    area = ratio * n_rows * n_cols
    height = int(np.clip(round(np.sqrt(area * np.exp(rng.uniform(-0.7, 0.7)))), 1, n_rows))
    width = int(np.clip(round(area / height), 1, n_cols))
    top, left = rng.integers(n_rows - height + 1), rng.integers(n_cols - width + 1)
    hidden = np.zeros(observed.shape, dtype=bool)
    hidden[top : top + height, left : left + width] = True
    return hidden & observed


def hides_a_part(observed: np.ndarray, hidden: np.ndarray) -> bool:
    """Whether something is hidden and something left to predict it from."""
    return bool(0 < hidden.sum() < observed.sum())
