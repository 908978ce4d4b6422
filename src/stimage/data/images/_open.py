from __future__ import annotations

from pathlib import Path

from stimage.data.images._orientation import upright
from stimage.data.images._protocol import ImageSource
from stimage.data.images._sources import PillowSource
from stimage.data.images._tiff import TiffSource

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def open_image(path: Path) -> ImageSource:
    """The image in a file: TIFF by its first bytes, anything else by Pillow."""
    with path.open("rb") as file:
        start = file.read(4)
    if start in _TIFF_STARTS:
        source = TiffSource.open(path)
        if source is not None:
            return source
    source = PillowSource(path)
    return upright(source, source.orientation)
