"""Where an image of a slide shows tissue."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from stimage.data import SlideImage, square_boxes

_BLOCK = 64
_BLOCKS_READ = 64
_LARGEST_SIDE = 4096
"""Pixels of the overview that tissue is looked for in."""
_PALE = 0.12
"""Saturation that glass does not have: an image whose paler part has more shows tissue everywhere."""
_STAINED = 0.05
"""Saturation that some part of a stained slide has."""


@dataclass(frozen=True)
class TissueMask:
    """An overview of a slide and which of its pixels show tissue.

    Parameters
    ----------
    pixels
        The overview (rows x columns x 3, uint8).
    mask
        Whether a pixel shows tissue (rows x columns).
    scale
        Pixels of the overview for each one of the image.
    """

    pixels: np.ndarray
    mask: np.ndarray
    scale: float

    def share(self, centres: np.ndarray, width: float) -> np.ndarray:
        """Share of tissue in squares around positions (positions x 2, in pixels of the image)."""
        table = np.zeros((self.mask.shape[0] + 1, self.mask.shape[1] + 1))
        table[1:, 1:] = self.mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
        boxes = np.rint(square_boxes(centres, width) * self.scale).astype(int)
        limits = np.array([*self.mask.shape[::-1], *self.mask.shape[::-1]])
        x0, y0, x1, y1 = np.clip(boxes, 0, limits).T
        tissue = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
        return tissue / np.maximum((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]), 1)


def find_tissue(image: SlideImage, detail: float, *, everywhere: bool = False) -> TissueMask:
    """Find stained tissue: saturation above the threshold of Otsu, without specks and holes smaller than ``detail``.

    Parameters
    ----------
    image
        The image, read in blocks.
    detail
        Side of the smallest piece of tissue that counts, in pixels of the image.
    everywhere
        Take the whole image for tissue.

    Returns
    -------
    TissueMask
        The mask.

    Raises
    ------
    ValueError
        If nothing is stained.

    References
    ----------
    Otsu 1979, A threshold selection method from gray-level histograms.
    """
    from skimage.color import rgb2hsv
    from skimage.filters import gaussian, threshold_otsu

    width, height = image.size
    scale = min(1.0, 8 / detail, _LARGEST_SIDE / max(width, height))
    pixels = _overview(image, scale)
    if everywhere:
        return TissueMask(pixels, np.ones(pixels.shape[:2], dtype=bool), scale)
    saturation = np.empty(pixels.shape[:2], dtype=np.float32)
    for start in range(0, len(pixels), 256):  # in double precision a whole overview takes much room
        saturation[start : start + 256] = rgb2hsv(pixels[start : start + 256])[..., 1]
    # Black, as around scans and where glass was painted over, has any saturation and is no tissue.
    dark = pixels.max(axis=2) < 30
    saturation[dark] = 0
    saturation = gaussian(saturation, sigma=1)
    light = saturation[~dark]
    if not len(light) or np.quantile(light, 0.999) < _STAINED:
        raise ValueError(
            "No tissue was found in `image`: no part of it is stained. Is it the histology image? `tissue='all'` takes all "
            "of it."
        )
    threshold = threshold_otsu(light)
    paler = light[light <= threshold]
    mask = ~dark if np.median(paler) > _PALE else saturation > threshold
    smallest = max(int((detail * scale) ** 2), 1)
    mask = ~_without_specks(~_without_specks(mask, smallest), smallest)
    return TissueMask(pixels, mask & ~dark, scale)


def _without_specks(mask: np.ndarray, smallest: int) -> np.ndarray:
    """A mask without connected parts of fewer pixels."""
    parts, _ = ndimage.label(mask)
    large = np.bincount(parts.ravel()) >= smallest
    large[0] = False
    return large[parts]


def _overview(image: SlideImage, scale: float) -> np.ndarray:
    """The image at another scale, put together from blocks."""
    width, height = (max(round(side * scale), 1) for side in image.size)
    rows, columns = -(-height // _BLOCK), -(-width // _BLOCK)
    row, column = np.divmod(np.arange(rows * columns), columns)
    centres = (np.column_stack([column, row]) + 0.5) * _BLOCK / scale
    pixels = np.empty((rows * _BLOCK, columns * _BLOCK, 3), dtype=np.uint8)
    start = 0
    for blocks, _ in image.iter_patches(square_boxes(centres, _BLOCK / scale), _BLOCK, batch_size=_BLOCKS_READ):
        for block in blocks:
            y, x = row[start] * _BLOCK, column[start] * _BLOCK
            pixels[y : y + _BLOCK, x : x + _BLOCK] = block
            start += 1
    return pixels[:height, :width]
