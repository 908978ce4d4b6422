from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from stimage._pixels import to_rgb
from stimage.data._image_blocks import BlockCache, read_blocks
from stimage.data._image_sources import hash_file, load_library

_JPEG = {6, 7, 34892, 33007}  # compressions whose tiles need tables of the page
_YCBCR, _RGB, _BLACK_IS_ZERO = 6, 2, 1
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class _Page:
    """One page: a whole level, or one channel of it.

    Parameters
    ----------
    decode
        Function of tifffile that decodes a segment (tile or strip).
    options
        What it needs beside bytes and number.
    offsets, byte_counts
        Where each segment is in the file.
    row_edges, column_edges
        First row and column of the segments.
    n_planes
        Planes that are stored one after the other; 1 when channels lie side by side in each pixel.
    dtype
        Type of a decoded value.
    whole
        Byte offset, type and shape (planes x rows x columns x channels) of a page that is stored as it is; else None.
    """

    decode: Any
    options: dict[str, Any]
    offsets: tuple[int, ...]
    byte_counts: tuple[int, ...]
    row_edges: np.ndarray
    column_edges: np.ndarray
    n_planes: int
    dtype: np.dtype
    whole: tuple[int, np.dtype, tuple[int, ...]] | None


class TiffSource:
    """A TIFF file (also BigTIFF, OME-TIFF, SVS), read by tile or strip at the resolutions it has.

    Bytes are mapped, not read through a file handle, so that worker processes may share it.
    """

    def __init__(self, path: Path, levels: list[list[_Page]], sizes: list[tuple[int, int]]) -> None:
        self.path = path
        self.sizes = sizes
        self._levels = levels
        self._file = np.memmap(path, mode="r", dtype=np.uint8)
        self._cache = BlockCache()

    @classmethod
    def open(cls, path: Path) -> Self | None:
        """The largest image of a file; None if its colours are ones that Pillow knows better, such as a palette."""
        tifffile = load_library("tifffile")
        try:
            with tifffile.TiffFile(path) as file:
                series = max(file.series, key=lambda series: series.keyframe.imagewidth * series.keyframe.imagelength)
                colors, compression = series.keyframe.photometric, series.keyframe.compression
                if colors not in (_BLACK_IS_ZERO, _RGB) and not (colors == _YCBCR and compression in _JPEG):
                    return None
                _check_axes(path, series)
                pages = [[_page(page) for page in level.pages] for level in series.levels]
                sizes = [(level.keyframe.imagewidth, level.keyframe.imagelength) for level in series.levels]
        except tifffile.TiffFileError as error:
            raise ValueError(
                f"The image {str(path)!r} is not a valid TIFF file, it may be cut off: {error}."
            ) from error
        return cls(path, pages, sizes)

    def read(self, level: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        planes = [
            plane for number in range(len(self._levels[level])) for plane in self._planes(level, number, x0, y0, x1, y1)
        ]
        return to_rgb(np.concatenate(planes, axis=2))

    def hash_into(self, digest: Any) -> None:
        hash_file(self.path, digest)

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return TiffSource.open, (self.path,)

    def _planes(self, level: int, number: int, x0: int, y0: int, x1: int, y1: int) -> list[np.ndarray]:
        """Region (rows x columns x channels) of each plane of a page."""
        page = self._levels[level][number]
        if page.whole is not None:
            offset, dtype, shape = page.whole
            image = np.ndarray(shape, dtype, buffer=self._file, offset=offset)[:, y0:y1, x0:x1]
            return list(image.astype(dtype.newbyteorder("="), copy=False))
        return [
            read_blocks(x0, y0, x1, y1, page.row_edges, page.column_edges, self._blocks(level, number, plane))
            for plane in range(page.n_planes)
        ]

    def _blocks(self, level: int, number: int, plane: int) -> Callable[[int, int], np.ndarray]:
        """What reads a tile or strip of a plane."""
        page = self._levels[level][number]
        n_down, n_across = len(page.row_edges), len(page.column_edges)

        def block(down: int, across: int) -> np.ndarray:
            index = (plane * n_down + down) * n_across + across
            return self._cache.get((level, number, index), lambda: self._decode(page, index))

        return block

    def _decode(self, page: _Page, index: int) -> np.ndarray:
        start, count = page.offsets[index], page.byte_counts[index]
        data = self._file[start : start + count].tobytes() if count else None
        try:
            segment, _, shape = page.decode(data, index, **page.options)
        except Exception as error:  # codecs raise errors of their own types
            if "imagecodecs" in str(error):
                load_library("imagecodecs")
            raise ValueError(f"The image {str(self.path)!r} cannot be decoded, it may be damaged: {error}.") from error
        if segment is None:  # a tile that the scanner left out shows no tissue, so it is white
            white = np.iinfo(page.dtype).max if page.dtype.kind in "iu" else 1
            return np.full(shape[1:], white, page.dtype)
        return segment[0]


def _check_axes(path: Path, series: Any) -> None:
    shape = [
        (axis, length) for axis, length in zip(series.axes, series.shape, strict=True) if length > 1 or axis in "YX"
    ]
    axes = "".join(axis for axis, _ in shape)
    n_channels = dict(shape).get(axes.strip("YX"), 1)
    if axes not in ("YX", "YXS", "SYX", "CYX", "YXC") or n_channels not in _CHANNELS:
        raise ValueError(
            f"The image {str(path)!r} must be greyscale, RGB or RGBA in one plane, found axes {series.axes} of shape "
            f"{series.shape}: write the tissue image to a file of its own."
        )


def _page(page: Any) -> _Page:
    keyframe = page.keyframe
    options: dict[str, Any] = {"_fullsize": False}
    if keyframe.compression in _JPEG:
        options |= {"jpegtables": page.jpegtables, "jpegheader": keyframe.jpegheader}
    n_planes, _, n_rows, n_columns, n_channels = keyframe.shaped
    length, width = (
        (keyframe.tilelength, keyframe.tilewidth) if keyframe.is_tiled else (keyframe.rowsperstrip, n_columns)
    )
    whole = None
    if keyframe.is_memmappable:
        dtype = keyframe.dtype.newbyteorder(keyframe.parent.byteorder)
        whole = (page.dataoffsets[0], dtype, (n_planes, n_rows, n_columns, n_channels))
    return _Page(
        decode=keyframe.decode,
        options=options,
        offsets=tuple(page.dataoffsets),
        byte_counts=tuple(page.databytecounts),
        row_edges=np.arange(0, n_rows, length),
        column_edges=np.arange(0, n_columns, width),
        n_planes=n_planes,
        dtype=keyframe.dtype,
        whole=whole,
    )
