"""Elements of SpatialData as arrays and coordinates, for preprocessing and for tissue images."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from stimage import _validate

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata import SpatialData

_CHANNELS = ("r", "g", "b", "a")
_SAME = 1e-3
"""How much the scales of both axes may differ, and how large a shear may be, relative to the scale."""


def load_spatialdata() -> ModuleType:
    """The package spatialdata, which is optional."""
    try:
        import spatialdata
    except ImportError as error:
        raise ImportError(
            "Reading SpatialData needs the package 'spatialdata'. Install it with `pip install \"stimage[spatialdata]\"`."
        ) from error
    return spatialdata


def check_spatialdata(sdata: object, coordinate_system: object) -> None:
    """Raise unless ``sdata`` is a SpatialData that knows a coordinate system."""
    if not isinstance(sdata, load_spatialdata().SpatialData):
        raise TypeError(f"`sdata` must be a SpatialData, found {type(sdata).__name__}.")
    _validate.check_text("coordinate_system", coordinate_system)
    if coordinate_system not in sdata.coordinate_systems:
        raise KeyError(
            f"`coordinate_system`={coordinate_system!r} is not in the SpatialData, which has "
            f"{_validate.listing(sdata.coordinate_systems, 30)}."
        )


@dataclass(frozen=True)
class ImageElement:
    """An image of SpatialData.

    Parameters
    ----------
    levels
        Dask arrays (rows x columns x channels), the finest first.
    scale
        Units of the coordinate system for each pixel of the finest level.
    origin
        Position of the upper left corner in the coordinate system.
    """

    levels: list[Any]
    scale: float
    origin: tuple[float, float]


def read_image_element(sdata: SpatialData, image: object, coordinate_system: str) -> ImageElement:
    """An image element, nothing of it loaded yet, and where it lies in a coordinate system."""
    check_spatialdata(sdata, coordinate_system)
    _validate.check_text("image", image)
    if image not in sdata.images:
        raise KeyError(f"`image`={image!r} is not an image of the SpatialData: {_validate.listing(sdata.images, 30)}.")
    element = sdata.images[image]
    levels = (
        [element] if not hasattr(element, "children") else [next(iter(level.values())) for level in element.values()]
    )
    if set(levels[0].dims) != {"c", "y", "x"}:
        raise ValueError(
            f"The image {image!r} must have the dimensions c, y and x, found {tuple(levels[0].dims)}: choose a plane first."
        )
    matrix = affine_matrix(sdata, image, coordinate_system)
    scale = matrix[0, 0]
    off = np.abs(matrix[:2, :2] - scale * np.eye(2)).max()
    if not scale > 0 or off > _SAME * scale:
        raise ValueError(
            f"The transformation of the image {image!r} to {coordinate_system!r} must be a scale, one for both axes, and a "
            f"translation, found {matrix[:2, :2].round(4).tolist()}: transform the image first "
            "(`spatialdata.transform`), or choose another `coordinate_system`."
        )
    return ImageElement([_with_channels_last(level) for level in levels], float(scale), tuple(matrix[:2, 2].tolist()))


def affine_matrix(sdata: SpatialData, element: str, coordinate_system: str) -> NDArray[np.float64]:
    """Map (3 x 3) from the x and y of an element to those of a coordinate system."""
    from spatialdata.transformations import get_transformation

    known = get_transformation(sdata[element], get_all=True)
    if coordinate_system not in known:
        raise KeyError(
            f"The element {element!r} has no transformation to `coordinate_system`={coordinate_system!r}; it has "
            f"{_validate.listing(known, 30)}."
        )
    return np.asarray(known[coordinate_system].to_affine_matrix(("x", "y"), ("x", "y")), dtype=np.float64)


def _with_channels_last(level: Any) -> Any:
    """Rows x columns x channels; red, green and blue in this order where they are named."""
    level = level.transpose("y", "x", "c")
    names = [str(name).lower() for name in level.coords["c"].values] if "c" in level.coords else []
    named = [name for name in _CHANNELS[: len(names)] if name in names]
    if len(names) in (3, 4) and len(named) == len(names):
        level = level.isel(c=[names.index(name) for name in named])
    return level.data
