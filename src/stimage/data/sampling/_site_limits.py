from __future__ import annotations

import numpy as np

from stimage.data.sampling._windows import WindowSpec


def site_limits(spec: WindowSpec) -> tuple[int, int]:
    """Most visible and most hidden sites that a window can have.

    Parameters
    ----------
    spec
        How windows are cut.

    Returns
    -------
    tuple of int
        Bounds on the visible and on the hidden sites of any window, for
        :attr:`stimage.modules.MaskedAutoencoder.site_limits`.

    Examples
    --------
    >>> from stimage.data import WindowSpec, site_limits
    >>> site_limits(WindowSpec(window=16, mask_ratio=0.75))
    (64, 192)
    """
    n_sites = spec.window**2
    if spec.masking == "site_gene":
        return n_sites, n_sites
    observed = np.arange(2, n_sites + 1)

    def single(ratio: float) -> np.ndarray:
        return np.clip(np.round(ratio * observed), 1, observed - 1).astype(int)

    if spec.masking == "site":
        hidden = single(spec.mask_ratio)
        return int((observed - hidden).max()), int(hidden.max())
    # A region may lie where little tissue is: no more than one site is sure to be hidden.
    ratio = spec.mask_ratio / 2 if spec.masking == "mixed" else spec.mask_ratio
    area = ratio * n_sites
    shortest, tallest = (int(np.clip(np.round(np.sqrt(area * np.exp(sign * 0.7))), 1, spec.window)) for sign in (-1, 1))
    heights = np.arange(shortest, tallest + 1)
    largest = int((heights * np.clip(np.round(area / heights), 1, spec.window)).max())
    return n_sites - 1, max(largest, int(single(spec.mask_ratio).max()))
