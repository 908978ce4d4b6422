from __future__ import annotations

from stimage.data.sampling._windows import WindowSpec
from stimage.data.sampling.masking import MASKINGS


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
    return MASKINGS[spec.masking].limits(spec.window, spec.mask_ratio)
