"""Where pixels of a slide come from: arrays in memory or on disk, and image files. Each is read by region."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from stimage._pixels import check_pixels, to_rgb
from stimage.data.images._blocks import BlockCache, read_blocks
from stimage.data.images._orientation import ORIENTATION_TAG
from stimage.data.images._protocol import ImageSource

_EXTRA = 'Install it with `pip install "stimage[image]"`.'
_ROWS_HASHED_TOGETHER = 1024
_pillow_limit = threading.RLock()


def load_library(name: str) -> ModuleType:
    """A library that only images need."""
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"Tissue images need the package {name.partition('.')[0]!r}. {_EXTRA}") from error


class ArraySource:
    """Levels held as arrays (rows x columns, with or without channels)."""

    def __init__(self, levels: Sequence[Any]) -> None:
        self.levels = [_Chunked(level) if hasattr(level, "dask") else level for level in levels]
        self.sizes = [(int(level.shape[1]), int(level.shape[0])) for level in self.levels]
        check_pixels(self.levels[0].shape, self.levels[0].dtype)

    def read(self, level: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        return to_rgb(self.levels[level][y0:y1, x0:x1])

    def hash_into(self, digest: Any) -> None:
        finest = self.levels[0]
        digest.update(f"{finest.shape} {finest.dtype}".encode())
        for start in range(0, finest.shape[0], _ROWS_HASHED_TOGETHER):
            rows = slice(start, min(start + _ROWS_HASHED_TOGETHER, finest.shape[0]))
            digest.update(np.ascontiguousarray(finest[rows, 0 : finest.shape[1]]))


class _Chunked:
    """An array of dask, whose chunks are computed when a region touches them."""

    def __init__(self, array: Any) -> None:
        array = array if array.ndim == 3 else array[:, :, None]
        self._array = array.rechunk({2: -1})
        self.shape, self.dtype = array.shape, array.dtype
        self._edges = [np.concatenate([[0], np.cumsum(chunks)[:-1]]) for chunks in self._array.chunks[:2]]
        self._cache = BlockCache()

    def __getitem__(self, index: tuple[slice, slice]) -> np.ndarray:
        rows, columns = index
        return read_blocks(columns.start, rows.start, columns.stop, rows.stop, *self._edges, self._block)

    def _block(self, down: int, across: int) -> np.ndarray:
        return self._cache.get((down, across), lambda: np.asarray(self._array.blocks[down, across]))


class PillowSource:
    """An image file that Pillow opens; decoded as a whole on first use and kept."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._open() as image:
            self.sizes = [image.size]
            # Pillow turns TIFF files by itself.
            self.orientation = None if image.format == "TIFF" else image.getexif().get(ORIENTATION_TAG)

    def read(self, level: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        image = self._image
        with _any_size():
            region = image.crop((x0, y0, x1, y1))
        if region.mode in ("P", "PA", "LA", "La", "RGBa"):
            region = region.convert("RGBA")
        elif region.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
            region = region.convert("RGB")
        return to_rgb(np.asarray(region))

    def hash_into(self, digest: Any) -> None:
        hash_file(self.path, digest)

    @cached_property
    def _image(self) -> Any:
        image = self._open()
        try:
            image.load()
        except (OSError, SyntaxError) as error:
            raise ValueError(f"The image {str(self.path)!r} cannot be decoded, it may be cut off: {error}.") from error
        return image

    def _open(self) -> Any:
        pillow = load_library("PIL.Image")
        try:
            with _any_size():
                return pillow.open(self.path)
        except pillow.UnidentifiedImageError as error:
            raise ValueError(f"{str(self.path)!r} is not an image that Pillow or tifffile can open.") from error

    def __reduce__(self) -> tuple[type[PillowSource], tuple[Path]]:
        return PillowSource, (self.path,)  # other processes decode the file themselves


def hash_file(path: Path, digest: Any) -> None:
    """Feed the bytes of a file to a hash."""
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)


def content_hash(source: ImageSource, *facts: object) -> str:
    """SHA-256 of an image and of facts about it."""
    digest = hashlib.sha256(repr(facts).encode())
    source.hash_into(digest)
    return digest.hexdigest()


@contextmanager
def _any_size() -> Iterator[None]:
    """Without Pillow's limit of pixels, which slides exceed; it is back in force afterwards."""
    pillow = load_library("PIL.Image")
    with _pillow_limit:
        limit, pillow.MAX_IMAGE_PIXELS = pillow.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            pillow.MAX_IMAGE_PIXELS = limit
