"""Images that are stored turned or mirrored, with a tag that says how they are meant to be seen."""

from __future__ import annotations

from typing import Any

import numpy as np

from stimage.data.images._protocol import ImageSource

ORIENTATION_TAG = 274
_TURNS = {
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}
"""Of each orientation but 1: whether rows and columns are exchanged, and whether stored rows and columns run backwards."""


class UprightSource:
    """An image as its orientation tag means it, as viewers and Pillow show it; coordinates are of this one."""

    def __init__(self, stored: ImageSource, orientation: int) -> None:
        self.stored, self.orientation = stored, orientation
        self._exchanged, self._rows_backwards, self._columns_backwards = _TURNS[orientation]
        self.sizes = [size[::-1] if self._exchanged else size for size in stored.sizes]

    def read(self, level: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        width, height = self.stored.sizes[level]
        if self._exchanged:
            x0, y0, x1, y1 = y0, x0, y1, x1
        if self._rows_backwards:
            y0, y1 = height - y1, height - y0
        if self._columns_backwards:
            x0, x1 = width - x1, width - x0
        region = self.stored.read(level, x0, y0, x1, y1)
        region = region[:: -1 if self._rows_backwards else 1, :: -1 if self._columns_backwards else 1]
        return np.ascontiguousarray(region.swapaxes(0, 1) if self._exchanged else region)

    def hash_into(self, digest: Any) -> None:
        digest.update(f"orientation {self.orientation}".encode())
        self.stored.hash_into(digest)


def upright(stored: ImageSource, orientation: Any) -> ImageSource:
    """The image as its orientation tag means it; tags that mean nothing are those of an upright image."""
    return UprightSource(stored, orientation) if orientation in _TURNS else stored
