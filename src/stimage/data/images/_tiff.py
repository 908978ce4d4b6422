from __future__ import annotations

import math
import re
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stimage._pixels import to_rgb
from stimage.data.images._blocks import BlockCache, read_blocks
from stimage.data.images._orientation import ORIENTATION_TAG, UprightSource, upright
from stimage.data.images._protocol import ImageSource
from stimage.data.images._sources import ArraySource, hash_file, load_library

_JPEG = {6, 7, 34892, 33007}  # compressions whose tiles need tables of the page
_YCBCR, _RGB, _BLACK_IS_ZERO, _WHITE_IS_ZERO = 6, 2, 1, 0
_CHANNELS = (1, 3, 4)
_LARGEST_VALUE_TAG = 281
_UNSPECIFIED, _PREMULTIPLIED = 0, 1
"""What a channel beside the colours may be; 2 is transparency."""


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


@dataclass(frozen=True)
class _Values:
    """What decoded values mean.

    Parameters
    ----------
    bits
        Bits of a value, which may be fewer than those of its type.
    inverted
        Whether 0 is white.
    extra
        Kind of a fourth channel; None without.
    """

    bits: int
    inverted: bool
    extra: int | None

    def to_rgb(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels (rows x columns x channels) as uint8 RGB."""
        if pixels.dtype == np.uint16 and self.bits < 16:
            pixels = (pixels.astype(np.uint32) * 65535 // (2**self.bits - 1)).astype(np.uint16)
        elif pixels.dtype == np.uint8 and 1 < self.bits < 8:
            pixels = (pixels.astype(np.uint16) * 255 // (2**self.bits - 1)).astype(np.uint8)
        if self.extra == _UNSPECIFIED:
            pixels = pixels[:, :, :3]
        elif self.extra == _PREMULTIPLIED:
            opaque = np.ones_like(pixels[:, :, :1]) * (1 if pixels.dtype.kind == "f" else np.iinfo(pixels.dtype).max)
            pixels = np.minimum(pixels[:, :, :3], pixels[:, :, 3:]) + (opaque - pixels[:, :, 3:])
        rgb = to_rgb(pixels)
        return 255 - rgb if self.inverted else rgb


class TiffSource:
    """A TIFF file (also BigTIFF, OME-TIFF, SVS), read by tile or strip at the resolutions it has.

    Bytes are mapped, not read through a file handle, so that worker processes may share it. tifffile's ``aszarr`` reads regions
    as well, but needs zarr and decodes a tile anew for every patch that touches it.
    """

    def __init__(self, path: Path, levels: list[list[_Page]], sizes: list[tuple[int, int]], values: _Values) -> None:
        self.path = path
        self.sizes = sizes
        self._levels = levels
        self._values = values
        self._file = np.memmap(path, mode="r", dtype=np.uint8)
        self._cache = BlockCache()

    @classmethod
    def open(cls, path: Path) -> ImageSource | None:
        """The largest image of a file; None if its colours are ones that Pillow knows better, such as a palette."""
        tifffile = load_library("tifffile")
        try:
            with tifffile.TiffFile(path) as file:
                if not file.series:
                    raise tifffile.TiffFileError("it holds no image")
                series = max(file.series, key=lambda series: math.prod(series.shape))
                keyframe = _keyframe(path, series)
                colors, compression = keyframe.photometric, keyframe.compression
                known = (_BLACK_IS_ZERO, _WHITE_IS_ZERO, _RGB)
                if colors not in known and not (colors == _YCBCR and compression in _JPEG):
                    return None
                axes = _check_axes(path, series)
                values = _values(path, keyframe, axes)
                tag = keyframe.tags.get(ORIENTATION_TAG)
                if _is_elsewhere(path, file, series):
                    source = _Decoded([_channels_last(level.asarray(), axes) for level in series.levels], values)
                else:
                    pages = [[_page(page) for page in level.pages] for level in series.levels]
                    sizes = [(level.keyframe.imagewidth, level.keyframe.imagelength) for level in series.levels]
                    _check_whole(path, pages)
                    source = cls(path, pages, sizes, values)
        except (tifffile.TiffFileError, struct.error, IndexError, AttributeError) as error:
            raise ValueError(
                f"The image {str(path)!r} is not a valid TIFF file, it may be cut off: {error}."
            ) from error
        return upright(source, None if tag is None else tag.value)

    def read(self, level: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        planes = [
            plane for number in range(len(self._levels[level])) for plane in self._planes(level, number, x0, y0, x1, y1)
        ]
        return self._values.to_rgb(np.concatenate(planes, axis=2))

    def hash_into(self, digest: Any) -> None:
        hash_file(self.path, digest)

    def __reduce__(self) -> tuple[Any, tuple[Path]]:
        return _stored, (self.path,)

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


def _stored(path: Path) -> ImageSource | None:
    """A file's image as it is stored, in another process."""
    source = TiffSource.open(path)
    return source.stored if isinstance(source, UprightSource) else source


class _Decoded(ArraySource):
    """Levels that were decoded as a whole, for their planes are not pages of one file."""

    def __init__(self, levels: list[np.ndarray], values: _Values) -> None:
        super().__init__(levels)
        self._values = values

    def read(self, level: int, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
        return self._values.to_rgb(self.levels[level][y0:y1, x0:x1])


def _keyframe(path: Path, series: Any) -> Any:
    """First page of a series that is there; raise where pages are in files that are not."""
    missing = sum(page is None for level in series.levels for page in level.pages)
    if missing:
        raise ValueError(
            f"The image {str(path)!r} is one of several files, and {missing} of its planes are not there: put the other files "
            "beside it."
        )
    return series.keyframe


def _is_elsewhere(path: Path, file: Any, series: Any) -> bool:
    """Whether planes are in other files, or follow one another behind a single page, as ImageJ writes large stacks."""
    levels = [list(level.pages) for level in series.levels]
    other_file = any(page.parent is not file for pages in levels for page in pages)
    return other_file or any(
        sum(page.size for page in pages) != math.prod(level.shape)
        for pages, level in zip(levels, series.levels, strict=True)
    )


def _check_whole(path: Path, levels: list[list[_Page]]) -> None:
    """Raise if tiles or strips would lie behind the end of the file."""
    size = path.stat().st_size
    for pages in levels:
        for page in pages:
            ends = np.array(page.offsets, dtype=np.int64) + np.array(page.byte_counts, dtype=np.int64)
            end = int(ends.max(initial=0))
            if page.whole is not None:
                offset, dtype, shape = page.whole
                end = max(end, offset + math.prod(shape) * dtype.itemsize)
            if end > size:
                raise ValueError(
                    f"The image {str(path)!r} is cut off: it has {size} bytes, and its tiles reach to byte {end}. Copy the "
                    "file again."
                )


def _values(path: Path, keyframe: Any, axes: str) -> _Values:
    """What the values of a page mean; warn of a channel that is none of colour."""
    extra = None
    if keyframe.photometric == _RGB and keyframe.samplesperpixel == 4:
        extra = int(keyframe.extrasamples[0]) if keyframe.extrasamples else _UNSPECIFIED
        if extra == _UNSPECIFIED:
            warnings.warn(
                f"The image {str(path)!r} has a fourth channel that is not marked as transparency: it is left out.",
                UserWarning,
                stacklevel=6,
            )
    return _Values(_significant_bits(keyframe), keyframe.photometric == _WHITE_IS_ZERO, extra)


def _significant_bits(keyframe: Any) -> int:
    """Bits that values use: of the samples, or fewer where OME metadata or the largest sample value say so."""
    bits = keyframe.bitspersample
    description = keyframe.parent.ome_metadata if keyframe.parent.is_ome else None
    said = re.search(r'SignificantBits="(\d+)"', description or "")
    if said is not None:
        return min(bits, int(said[1]))
    largest = keyframe.tags.get(_LARGEST_VALUE_TAG)
    if bits == 16 and largest is not None:
        value = int(np.max(largest.value))
        if 255 < value < 65535 and (value & (value + 1)) == 0:  # all ones: a range, and not the brightest pixel
            return value.bit_length()
    return bits


def _channels_last(pixels: np.ndarray, axes: str) -> np.ndarray:
    pixels = pixels.reshape([length for length in pixels.shape if length > 1]) if pixels.ndim > 3 else pixels
    return np.moveaxis(pixels, 0, -1) if axes[0] in "CS" else pixels


def _check_axes(path: Path, series: Any) -> str:
    """Axes of an image, without those of length one; raise unless it is greyscale, RGB or RGBA in one plane."""
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
    if n_channels == 4 and series.keyframe.photometric != _RGB:
        raise ValueError(
            f"The image {str(path)!r} has four channels that are not marked as RGB and transparency, as fluorescence has: "
            "write the tissue image to a file of its own, with `photometric='rgb'`."
        )
    return axes


def _page(page: Any) -> _Page:
    keyframe = page.keyframe
    options: dict[str, Any] = {}
    if keyframe.compression in _JPEG:
        options = {"jpegtables": page.jpegtables, "jpegheader": keyframe.jpegheader}
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
