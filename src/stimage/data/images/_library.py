"""Entries of ``uns["spatial"]``: which images a slide has, at which scale, and whether these agree with its spots."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from stimage import _validate
from stimage._libraries import image_libraries, library_name
from stimage._paths import path_of

if TYPE_CHECKING:
    from anndata import AnnData

RENDERINGS = ("hires", "lowres")
"""Names of the images that an AnnData may hold, the finest first."""

_MARGIN = 0.01
"""How far spot centres may lie outside the image, as a share of its longer side."""

_SAME_SIZE = 0.05
"""How much the sizes that two images and their scale factors give to the full-resolution image may differ."""


@dataclass(frozen=True)
class ImageLibrary:
    """One entry of ``uns["spatial"]``.

    Parameters
    ----------
    name
        Its key.
    images, scalefactors, metadata
        Its parts; empty where it has none.
    """

    name: str
    images: Mapping[str, Any]
    scalefactors: Mapping[str, Any]
    metadata: Mapping[str, Any]

    @classmethod
    def from_anndata(cls, adata: AnnData, library_id: str | None) -> Self:
        """The library of a name; without one that which ``obs["library_id"]`` names, or the only one."""
        libraries = image_libraries(adata)
        if not libraries:
            raise KeyError(
                "No tissue image: adata.uns['spatial'][library] with 'images', 'scalefactors' or 'metadata' is needed, as "
                "`squidpy.read.visium` writes it."
            )
        if library_id is None:
            library_id = library_name(adata, None, only_slide=True)
            if library_id is None:
                raise KeyError(
                    f"adata.uns['spatial'] has {len(libraries)} libraries ({_validate.listing(libraries)}): pass "
                    "`library_id=`."
                )
        if library_id not in libraries:
            raise KeyError(
                f"`library_id`={library_id!r} is not in adata.uns['spatial'], which has {_validate.listing(libraries)}."
            )
        found = libraries[library_id]
        return cls(library_id, *(found.get(part) or {} for part in ("images", "scalefactors", "metadata")))

    def choose(self, resolution: str, image_dir: str | PathLike[str] | None) -> tuple[str, Any, float]:
        """Resolution, file or array, and scale of the image asked for."""
        path, tried = self._find_file(image_dir)
        if resolution == "auto":
            held = [name for name in RENDERINGS if name in self.images]
            if path is None and not held:
                raise KeyError(
                    f"adata.uns['spatial'][{self.name!r}] has no image: 'images' holds {_validate.listing(self.images)}, "
                    f"and {_not_found(tried)}"
                )
            resolution = "fullres" if path is not None else held[0]
            if path is None and tried:
                warnings.warn(
                    f"The small {resolution} image of {self.name!r} is used, for the file that it was made from is not "
                    f"there: {_not_found(tried)}",
                    stacklevel=3,
                )
        if resolution == "fullres":
            if path is None:
                raise FileNotFoundError(
                    f"No full-resolution image of {self.name!r}: {_not_found(tried)} Or use `resolution`='hires'."
                )
            return resolution, path, 1.0
        if resolution not in self.images:
            raise KeyError(
                f"`resolution`={resolution!r} is not in adata.uns['spatial'][{self.name!r}]['images'], which has "
                f"{_validate.listing(self.images)}."
            )
        return resolution, self.images[resolution], self._scale_factor(resolution)

    def check_sizes(self, resolution: str, size: tuple[int, int], scale: float) -> None:
        """Raise ``ValueError`` unless all images and their scale factors agree on the size of the full-resolution image."""
        implied = np.array(size) / scale
        for other in RENDERINGS:
            if other == resolution or other not in self.images or f"tissue_{other}_scalef" not in self.scalefactors:
                continue
            factor = self._scale_factor(other)
            height, width = np.shape(self.images[other])[:2]
            other_implied = np.array([width, height]) / factor
            if (np.abs(implied / other_implied - 1) > _SAME_SIZE).any():
                raise ValueError(
                    f"The images of {self.name!r} contradict one another: the {resolution} image, {size[0]} x {size[1]} "
                    f"pixels at scale {scale:g}, makes the full-resolution image {implied[0]:.0f} x {implied[1]:.0f}, the "
                    f"{other} image, {width} x {height} pixels at scale {factor:g}, makes it {other_implied[0]:.0f} x "
                    f"{other_implied[1]:.0f}. Correct the scale factors, use the file that adata.obsm['spatial'] was "
                    "measured on, or remove the image that is wrong."
                )

    def check_inside(self, resolution: str, size: tuple[int, int], scale: float, xy: np.ndarray) -> None:
        """Raise ``ValueError`` unless spot centres lie inside the image."""
        pixels = xy * scale
        margin = _MARGIN * max(size)
        outside = ((pixels < -margin) | (pixels > np.array(size) + margin)).any(axis=1)
        if outside.any():
            low, high = pixels.min(axis=0), pixels.max(axis=0)
            raise ValueError(
                f"{outside.sum()} of {len(xy)} spots lie outside the {resolution} image of {self.name!r}: at its scale of "
                f"{scale:g} they reach from ({low[0]:.0f}, {low[1]:.0f}) to ({high[0]:.0f}, {high[1]:.0f}), the image is "
                f"{size[0]} x {size[1]} pixels. Correct the scale factor, use the image that the coordinates were measured "
                "on, or take the spots of this slide only (`slide_key=`)."
            )

    def spots(self, adata: AnnData, slide_key: str | None) -> np.ndarray:
        """Which observations are of this slide (observations)."""
        if slide_key is None:
            return np.ones(adata.n_obs, dtype=bool)
        names, codes = _validate.slide_codes(adata, slide_key)
        if self.name not in names:
            raise KeyError(
                f"adata.obs[{slide_key!r}] (`slide_key`) has no slide {self.name!r} (`library_id`), it has "
                f"{_validate.listing(names)}: call libraries and slides the same."
            )
        return codes == names.index(self.name)

    def _find_file(self, image_dir: str | PathLike[str] | None) -> tuple[Path | None, list[Path]]:
        """The full-resolution image's file, and where it was looked for."""
        stored = self.metadata.get("source_image_path")
        if stored is None:
            return None, []
        stored = path_of(stored.decode() if isinstance(stored, bytes) else str(stored))
        folders = [] if image_dir is None else [path_of(image_dir) / stored, path_of(image_dir) / stored.name]
        tried = list(dict.fromkeys([*folders, stored]))
        return next((path for path in tried if path.is_file()), None), tried

    def _scale_factor(self, resolution: str) -> float:
        key = f"tissue_{resolution}_scalef"
        if key not in self.scalefactors:
            raise KeyError(
                f"adata.uns['spatial'][{self.name!r}]['scalefactors'] has no {key!r}, which the {resolution} image needs; "
                f"available: {_validate.listing(self.scalefactors)}."
            )
        where = f"adata.uns['spatial'][{self.name!r}]['scalefactors'][{key!r}]"
        return _validate.positive_number(where, self.scalefactors[key])


def _not_found(tried: list[Path]) -> str:
    if not tried:
        return "there is no metadata['source_image_path'] that names a file."
    return f"no file {' or '.join(repr(str(path)) for path in tried)}: pass its folder with `image_dir=`."
