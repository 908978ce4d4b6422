"""Images that come in blocks: tiles or strips of a file, chunks of an array."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np

CACHE_BYTES = 256 << 20
"""Decoded blocks that an image keeps: patches of neighbouring spots share them."""


class BlockCache:
    """The blocks that were used last."""

    def __init__(self) -> None:
        self.blocks: OrderedDict[Hashable, np.ndarray] = OrderedDict()
        self.n_bytes = 0

    def get(self, key: Hashable, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """A block, decoded unless it is kept."""
        block = self.blocks.pop(key, None)
        if block is None:
            block = decode()
            self.n_bytes += block.nbytes
        self.blocks[key] = block
        while self.n_bytes > CACHE_BYTES and len(self.blocks) > 1:
            self.n_bytes -= self.blocks.popitem(last=False)[1].nbytes
        return block


def read_blocks(
    x0: int,
    y0: int,
    x1: int,
    y1: int,
    row_edges: np.ndarray,
    column_edges: np.ndarray,
    block: Callable[[int, int], np.ndarray],
) -> np.ndarray:
    """A region (rows x columns x channels) put together from the blocks it touches.

    ``row_edges`` and ``column_edges`` are where blocks start, in ascending order; ``block(down, across)`` is the block
    (rows x columns x channels) of these numbers.
    """
    region = None
    for down in _touched(y0, y1, row_edges):
        for across in _touched(x0, x1, column_edges):
            pixels = block(down, across)
            top, left = int(row_edges[down]), int(column_edges[across])
            from_y, from_x = max(y0, top), max(x0, left)
            part = pixels[from_y - top : y1 - top, from_x - left : x1 - left]
            if region is None:
                region = np.empty((y1 - y0, x1 - x0, part.shape[2]), part.dtype)
            region[from_y - y0 : from_y - y0 + part.shape[0], from_x - x0 : from_x - x0 + part.shape[1]] = part
    return region


def _touched(start: int, end: int, edges: np.ndarray) -> range:
    return range(int(np.searchsorted(edges, start, side="right")) - 1, int(np.searchsorted(edges, end, side="left")))
