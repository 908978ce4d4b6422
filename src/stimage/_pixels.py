"""Pixels of any image as uint8 RGB. Apart from :mod:`stimage.data`, because preprocessing must not load torch."""

from __future__ import annotations

import numpy as np

_ROUNDING = 1e-3  # how far interpolation may have taken floating-point pixels out of [0, 1]


def to_rgb(pixels: np.ndarray) -> np.ndarray:
    """Pixels (rows x columns, with or without channels) as uint8 RGB.

    Greyscale is repeated, transparent pixels are blended with white, 16-bit values are divided by 257, floating-point
    ones in [0, 1] multiplied by 255.
    """
    pixels = np.asarray(pixels)
    check_pixels(pixels.shape, pixels.dtype)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.dtype.kind == "f":
        # Written so that NaN is out of range too.
        if pixels.size and not (pixels.min() >= -_ROUNDING and pixels.max() <= 1 + _ROUNDING):
            raise ValueError(
                f"A floating-point image must be in [0, 1], found {pixels.min():g} to {pixels.max():g}: divide it."
            )
        pixels = np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)
    elif pixels.dtype == np.uint16:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif pixels.dtype == bool:
        pixels = pixels * np.uint8(255)
    if pixels.shape[2] == 4:
        alpha = pixels[:, :, 3:].astype(np.uint32)
        blended = (pixels[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255
        return blended.astype(np.uint8)
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)


def check_pixels(shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Raise unless an array of this shape and type can be an image."""
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise ValueError(
            f"An image must be greyscale, RGB or RGBA (rows x columns x 1, 3 or 4), found shape {shape}: choose the "
            "channels to show first."
        )
    if dtype.kind != "f" and dtype not in (np.uint8, np.uint16, bool):
        raise TypeError(f"An image must be uint8, uint16, bool or floating-point in [0, 1], found {dtype}.")
