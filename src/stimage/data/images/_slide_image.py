from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from stimage import _keys, _validate
from stimage._paths import path_of
from stimage._spatialdata import read_image_element
from stimage.data.images._library import RENDERINGS, ImageLibrary
from stimage.data.images._open import open_image
from stimage.data.images._protocol import ImageSource
from stimage.data.images._sources import ArraySource, content_hash, load_library

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

Resolution = Literal["auto", "fullres", "hires", "lowres"]
_SUPPORT = 2.0
"""Reach of the bicubic filter in pixels of the smaller image."""


class SlideImage:
    """The histology image of one slide, from which patches are cut; read lazily.

    Boxes and positions are in pixels of the full-resolution image, x to the right and y down, as in
    ``obsm["spatial"]``; pixel i covers [i, i + 1). Whatever the image's own resolution, number of channels and type,
    patches are uint8 RGB: greyscale is repeated, transparent pixels are blended with white, 16-bit values divided by 257
    and floating-point ones, which must be in [0, 1], multiplied by 255. TIFF files are read by tile or strip at the
    resolution that a patch needs; other files are decoded as a whole on first use.

    Parameters
    ----------
    image
        Path of an image file; an array (rows x columns, greyscale, RGB or RGBA), also of dask; or a list of such arrays,
        which are the same image at falling resolutions.
    scale
        Pixels of the image for each full-resolution pixel.
    origin
        Position of the image's upper left corner in full-resolution pixels.

    Attributes
    ----------
    scale, origin
        As above.

    Examples
    --------
    >>> import numpy as np
    >>> import stimage as sti
    >>> pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    >>> image = sti.data.SlideImage(pixels, scale=0.1)
    >>> patches, padded = image.patches(sti.data.square_boxes(np.array([[300.0, 200.0], [0.0, 200.0]]), 80), size=32)
    >>> patches.shape, padded.tolist()
    ((2, 32, 32, 3), [0.0, 0.5])
    """

    def __init__(
        self,
        image: str | PathLike[str] | Any | Sequence[Any],
        *,
        scale: float = 1.0,
        origin: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        _validate.check_range("scale", scale, 0, np.inf)
        self._source = _open(image)
        self.scale = float(scale)
        self.origin = (float(origin[0]), float(origin[1]))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the image in its own pixels."""
        return self._source.sizes[0]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (64 hexadecimal digits) of the file or the array, with ``scale`` and ``origin``.

        Two images of one fingerprint give the same patches, so features computed from patches can be kept under it.
        """
        return content_hash(self._source, self.scale, self.origin)

    @classmethod
    def from_anndata(
        cls,
        adata: AnnData,
        *,
        library_id: str | None = None,
        image_dir: str | PathLike[str] | None = None,
        resolution: Resolution = "auto",
        slide_key: str | None = None,
        spatial_key: str = _keys.SPATIAL,
    ) -> Self:
        """The image of a library in ``uns["spatial"]``, checked against the positions of its spots.

        Parameters
        ----------
        adata
            AnnData with ``uns["spatial"][library]`` as scanpy and squidpy write it, and coordinates in ``obsm``.
        library_id
            Which library; may be left out if there is one.
        image_dir
            Folder of the image files. A file is looked for under the stored path in this folder and by its name alone.
        resolution
            ``"fullres"``: the file ``metadata["source_image_path"]``. ``"hires"``, ``"lowres"``: the array in
            ``images``, of ``scalefactors["tissue_hires_scalef"]`` or ``["tissue_lowres_scalef"]`` pixels for each
            full-resolution pixel. ``"auto"``: the first of these that is there.
        slide_key
            Column of ``adata.obs`` that says ``library_id`` for the spots of this image. ``None``: all are.
        spatial_key
            Key of ``adata.obsm`` with x and y in full-resolution pixels, shape (n_obs, 2).

        Returns
        -------
        SlideImage
            The image; nothing of a file is decoded yet.

        Raises
        ------
        FileNotFoundError
            If ``resolution="fullres"`` and the file is nowhere.
        KeyError
            If the library, an image, a scale factor or coordinates are absent.
        ValueError
            If a spot's centre lies outside the image by more than 1 % of its longer side, or the image's size contradicts
            that of the other images and their scale factors by more than 5 %.

        Warns
        -----
        UserWarning
            If ``metadata`` names a file that is not there and ``"auto"`` takes a smaller image.

        Examples
        --------
        >>> import numpy as np
        >>> import stimage as sti
        >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
        >>> adata.uns["spatial"] = {
        ...     "slide": {
        ...         "images": {"hires": np.zeros((250, 300, 3), dtype=np.uint8)},
        ...         "scalefactors": {"tissue_hires_scalef": 0.1},
        ...     }
        ... }
        >>> sti.data.SlideImage.from_anndata(adata).scale
        0.1
        """
        _validate.check_anndata(adata)
        _validate.check_choice("resolution", resolution, ("auto", "fullres", *RENDERINGS))
        if image_dir is not None:
            _validate.check_path("image_dir", image_dir)
        xy = _validate.check_spatial(adata, spatial_key)
        library = ImageLibrary.from_anndata(adata, library_id)
        spots = library.spots(adata, slide_key)
        resolution, source, scale = library.choose(resolution, image_dir)
        image = cls(source, scale=scale)
        library.check_sizes(resolution, image.size, scale)
        library.check_inside(resolution, image.size, scale, xy[spots])
        return image

    @classmethod
    def from_spatialdata(cls, sdata: SpatialData, image: str, *, coordinate_system: str = "global") -> Self:
        """An image element of a SpatialData; boxes and positions are in units of the coordinate system.

        Nothing is loaded before patches are cut, and then only the blocks that they touch, at the resolution they need.

        Parameters
        ----------
        sdata
            SpatialData with the image.
        image
            Name of an image element, of one or several resolutions. Its transformation to the coordinate system must be a
            scale, the same for both axes, and a translation; ``scale`` and ``origin`` come from it.
        coordinate_system
            Where boxes are given.

        Returns
        -------
        SlideImage
            The image.

        Raises
        ------
        ImportError
            If spatialdata is not installed.
        KeyError
            If the image or the coordinate system is absent.
        TypeError
            If ``sdata`` is not a SpatialData.
        ValueError
            If the image is rotated, sheared or flipped in the coordinate system, or has other than 1, 3 or 4 channels.

        Examples
        --------
        >>> import stimage as sti
        >>> from spatialdata.datasets import blobs
        >>> sti.data.SlideImage.from_spatialdata(blobs(), "blobs_multiscale_image").size
        (512, 512)
        """
        element = read_image_element(sdata, image, coordinate_system)
        return cls(element.levels, scale=1 / element.scale, origin=element.origin)

    def patches(self, boxes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Cut patches.

        Parameters
        ----------
        boxes
            x0, y0, x1, y1 of each patch in full-resolution pixels (patches x 4).
        size
            Side of a patch in pixels.

        Returns
        -------
        tuple
            Patches (patches x size x size x 3, uint8) and the share of each that lies outside the image (patches,
            float32), see :meth:`iter_patches`.

        Raises
        ------
        ValueError
            If boxes are not finite or empty.
        """
        batches = list(self.iter_patches(boxes, size))
        empty = [(np.empty((0, size, size, 3), np.uint8), np.empty(0, np.float32))]
        pixels, padded = zip(*(batches or empty), strict=True)
        return np.concatenate(pixels), np.concatenate(padded)

    def iter_patches(
        self, boxes: np.ndarray, size: int, *, batch_size: int = 64
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Cut patches, a batch at a time, so that those of a large slide need not fit into memory.

        A box is resized to a square by bicubic interpolation with antialiasing, so one that is not square is stretched.
        Of an image with several resolutions the coarsest that has at least ``size`` pixels in the box is read. What lies
        outside the image is white, as the empty glass around tissue is; no patch is left out.

        Parameters
        ----------
        boxes
            x0, y0, x1, y1 of each patch in full-resolution pixels (patches x 4).
        size
            Side of a patch in pixels.
        batch_size
            Patches in a batch; the last one may have fewer.

        Yields
        ------
        tuple
            Patches (batch x size x size x 3, uint8) and the share of each box that lies outside the image (batch,
            float32).

        Raises
        ------
        ValueError
            If boxes are not finite or empty.
        """
        boxes = _check_boxes(boxes)
        _validate.check_positive("size", size)
        _validate.check_positive("batch_size", batch_size)
        load_library("PIL.Image")
        return self._batches((boxes - np.tile(self.origin, 2)) * self.scale, size, batch_size)

    def _batches(self, boxes: np.ndarray, size: int, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start in range(0, len(boxes), batch_size):
            batch = boxes[start : start + batch_size]
            yield np.stack([self._patch(box, size) for box in batch]), _share_outside(batch, self.size)

    def _patch(self, box: np.ndarray, size: int) -> np.ndarray:
        """The patch of one box in pixels of the finest level."""
        pillow = load_library("PIL.Image")
        level, factor = self._level(box, size)
        box = box / factor
        width, height = self._source.sizes[level]
        # Beside the box, the pixels that the filter reaches from its border.
        reach = _SUPPORT * np.maximum((box[2:] - box[:2]) / size, 1) + 1
        x0, y0 = np.floor(box[:2] - reach).astype(int)
        x1, y1 = np.ceil(box[2:] + reach).astype(int)
        if x0 >= 0 and y0 >= 0 and x1 <= width and y1 <= height:
            region = self._source.read(level, x0, y0, x1, y1)
        else:
            region = np.full((y1 - y0, x1 - x0, 3), 255, dtype=np.uint8)
            from_x, from_y, to_x, to_y = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
            if from_x < to_x and from_y < to_y:
                part = self._source.read(level, from_x, from_y, to_x, to_y)
                region[from_y - y0 : to_y - y0, from_x - x0 : to_x - x0] = part
        resized = pillow.fromarray(region).resize(
            (size, size), pillow.Resampling.BICUBIC, box=tuple(box - np.array([x0, y0, x0, y0]))
        )
        return np.asarray(resized)

    def _level(self, box: np.ndarray, size: int) -> tuple[int, np.ndarray]:
        """The coarsest level that has enough pixels in a box, and how many pixels of the finest one of its is, per corner."""
        chosen, chosen_factor = 0, np.ones(2)
        for level, coarse in enumerate(self._source.sizes):
            factor = np.array([_reduction(*pair) for pair in zip(self.size, coarse, strict=True)])
            if (factor > chosen_factor).all() and ((box[2:] - box[:2]) / factor >= size).all():
                chosen, chosen_factor = level, factor
        return chosen, np.tile(chosen_factor, 2)


def square_boxes(centres: np.ndarray, width: float | np.ndarray) -> np.ndarray:
    """Squares around positions, such as the patches of spots.

    Parameters
    ----------
    centres
        x and y of each centre (boxes x 2).
    width
        Side of all squares, or of each (boxes).

    Returns
    -------
    numpy.ndarray
        x0, y0, x1, y1 of each square (boxes x 4), float64.

    Raises
    ------
    ValueError
        If the shapes do not fit, or a width is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> import stimage as sti
    >>> sti.data.square_boxes(np.array([[10.0, 20.0]]), 4).tolist()
    [[8.0, 18.0, 12.0, 22.0]]
    """
    centres, width = np.asarray(centres, dtype=np.float64), np.asarray(width, dtype=np.float64)
    if centres.ndim != 2 or centres.shape[1] != 2 or width.shape not in ((), (len(centres),)):
        raise ValueError(
            "`centres` must be boxes x 2 and `width` one number or one for each box, found shapes "
            f"{centres.shape} and {width.shape}."
        )
    if not (np.isfinite(width) & (width > 0)).all():
        raise ValueError(f"`width` must be positive and finite, found {width.min():g}.")
    half = np.broadcast_to(width / 2, len(centres))[:, None]
    return np.concatenate([centres - half, centres + half], axis=1)


def _open(image: Any) -> ImageSource:
    if isinstance(image, str | PathLike):
        path = path_of(image)
        if not path.is_file():
            raise FileNotFoundError(f"`image`={str(path)!r} is not a file: pass the path of an image.")
        return open_image(path)
    levels = list(image) if isinstance(image, list | tuple) else [image]
    if not levels or not all(hasattr(level, "shape") and len(level.shape) in (2, 3) for level in levels):
        raise TypeError(
            "`image` must be a path, an array (rows x columns, with or without channels) or a list of such arrays, found "
            f"{type(image).__name__}."
        )
    return ArraySource(levels)


def _reduction(fine: int, coarse: int) -> float:
    """Pixels of a fine level for each of a coarse one; whole where the difference is that of rounding a size."""
    factor = fine / coarse
    whole = round(factor)
    return whole if abs(fine / whole - coarse) < 1 else factor


def _check_boxes(boxes: np.ndarray) -> np.ndarray:
    boxes = np.asarray(boxes, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"`boxes` must have four columns (x0, y0, x1, y1), found shape {boxes.shape}.")
    bad = np.flatnonzero(~(np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)))
    if len(bad):
        raise ValueError(
            f"`boxes` must be finite with x0 < x1 and y0 < y1; {len(bad)} are not, e.g. number {bad[0]}: "
            f"{boxes[bad[0]].tolist()}."
        )
    return boxes


def _share_outside(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    inside = np.clip(np.minimum(boxes[:, 2:], size) - np.maximum(boxes[:, :2], 0), 0, None).prod(axis=1)
    return (1 - inside / (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)).astype(np.float32)
