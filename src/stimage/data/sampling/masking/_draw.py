from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stimage import _validate
from stimage.data.sampling.masking._registry import MASKINGS, Masking

_AT_ONCE = 1 << 17
"""Sites, or values, that are looked at together: few calls, and arrays that fit in a cache."""


class GeneratorRandom:
    """Random numbers for the masks of some windows, one after the other from a generator of numpy for each window."""

    def __init__(self, rngs: Sequence[np.random.Generator]) -> None:
        self.rngs = rngs

    def integers(self, stream: str, *shape: int) -> Tensor:
        """Uniform integers below 2^32, int64 (windows x shape)."""
        return (self.uniform(stream, *shape) * 2.0**32).long()

    def uniform(self, stream: str, *shape: int) -> Tensor:
        """Uniform numbers between 0 and 1, float64 (windows x shape)."""
        return torch.from_numpy(np.stack([rng.random(shape) for rng in self.rngs]))


def hide_in_windows(
    observed: np.ndarray,
    gene_valid: np.ndarray,
    ratio: float,
    *,
    masking: Masking,
    rngs: Sequence[np.random.Generator],
) -> np.ndarray:
    """What a rule hides in windows (windows x rows x columns): sites (windows x sites), or values (windows x sites x genes)."""
    rule = MASKINGS[masking]
    n_values = observed[0].size * (gene_valid.shape[1] if rule.hides_values else 1)
    step = max(1, _AT_ONCE // n_values)
    hidden = []
    for start in range(0, len(observed), step):
        some = slice(start, start + step)
        parts = torch.from_numpy(observed[some]), torch.from_numpy(gene_valid[some])
        hidden.append(rule.hide(*parts, ratio, GeneratorRandom(rngs[some])).flatten(1, 2).numpy())
    return np.concatenate(hidden)


def draw_hidden_sites(
    observed: np.ndarray, ratio: float, *, masking: Masking = "site", rng: np.random.Generator
) -> np.ndarray:
    """Choose which sites of a window are hidden from the model.

    Parameters
    ----------
    observed
        Boolean image of the window's sites that have data (rows x columns).
    ratio
        Share of the observed sites to hide; at least one is hidden and one stays visible.
    masking
        Key of :data:`MASKINGS`: ``"site"`` hides single sites at random, ``"region"`` a contiguous rectangle of random shape
        and position, ``"mixed"`` either. Where the rectangle holds no observed site or all of them, nothing could be
        predicted, and single sites are hidden instead; training warns when that is so in more than one of twenty windows.
    rng
        Source of randomness.

    Returns
    -------
    numpy.ndarray
        Boolean image (rows x columns) of hidden sites, all of them observed.

    Raises
    ------
    ValueError
        If the rule is not known or hides values instead of sites.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.data import draw_hidden_sites
    >>> hidden = draw_hidden_sites(np.ones((4, 4), dtype=bool), 0.25, rng=np.random.default_rng(0))
    >>> int(hidden.sum())
    4
    """
    _validate.check_choice("masking", masking, [name for name, rule in MASKINGS.items() if not rule.hides_values])
    no_genes = np.ones((1, 0), dtype=bool)
    return hide_in_windows(observed[None], no_genes, ratio, masking=masking, rngs=[rng]).reshape(observed.shape)
