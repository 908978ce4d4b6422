from __future__ import annotations

import torch
from torch import Tensor


def jitter_stain(pixels: Tensor, strength: float) -> Tensor:
    """Stain patches a little more or less, each by its own random factors: augmentation for an encoder that is trained.

    The optical density of each colour of a patch is multiplied by a factor drawn evenly from ``1 - strength`` to
    ``1 + strength``, as if stain were that much thicker. White stays white.

    Parameters
    ----------
    pixels
        Patches (n x height x width x 3), ``uint8``.
    strength
        Largest relative change; 0 for none.

    Returns
    -------
    Tensor
        Patches of the same shape and type.

    Raises
    ------
    ValueError
        If ``strength`` is negative or above 1.

    Examples
    --------
    >>> import torch
    >>> from stimage.modules import jitter_stain
    >>> jitter_stain(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8), 0.2).min().item()
    255

    References
    ----------
    Tellez et al. 2018, Whole-Slide Mitosis Detection in H&E Breast Histology Using PHH3 as a Reference.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"`strength` must be between 0 and 1, found {strength}.")
    density = -torch.log((pixels.float() + 1) / 256)
    factors = 1 + strength * (2 * torch.rand(len(pixels), 1, 1, 3, device=pixels.device) - 1)
    return (256 * torch.exp(-density * factors) - 1).round().clamp(0, 255).to(torch.uint8)
