from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class ImageSource(Protocol):
    """An image, perhaps at several resolutions."""

    sizes: list[tuple[int, int]]
    """Width and height of each level, the finest first."""

    def read(self, level: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        """Region of a level (rows x columns x 3, uint8 RGB), which lies inside the image."""

    def hash_into(self, digest: Any) -> None:
        """Feed what identifies the image to a hash."""
