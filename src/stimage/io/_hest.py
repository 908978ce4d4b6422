"""HEST-1k: an h5ad for each sample, with its metadata as JSON and its image beside it.

``hest.HESTData`` reads the same files but needs OpenSlide and returns an object of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stimage import _keys
from stimage._libraries import image_libraries
from stimage.io._anndata import assemble, no_coordinates
from stimage.io._choice import Options, coordinates, has_array, raw_counts, say_what_was_taken
from stimage.io._note import add_note, library
from stimage.pp.grid._array_fit import array_is_true

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

_METADATA = ("metadata", "meta", ".")
_IMAGES = ("wsis", "image", ".")
_IMAGE_TYPES = (".tif", ".tiff", ".btf", ".jpg", ".jpeg", ".png")
_DOWNSCALED = "downscaled_fullres"
"""What HEST calls the smaller image in an AnnData."""
_MEANINGLESS = ("in_tissue",)
_MARGIN = 0.02
"""How far centres may lie outside of the image, as a share of its longer side."""


def is_hest(path: Path) -> bool:
    """Whether an h5ad has the JSON of HEST for it."""
    return path.suffix == ".h5ad" and path.is_file() and metadata_of(path) is not None


def files_of_hest(path: Path) -> list[Path]:
    """The h5ad and its metadata; the image is not part of a corpus."""
    return [path, metadata_of(path)]


def metadata_of(path: Path) -> Path | None:
    """The JSON of a sample, in the folder of a download or beside the h5ad."""
    return _beside(path, _METADATA, (".json",))


def read_metadata(path: Path) -> dict[str, Any]:
    """The JSON of a sample."""
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is no JSON ({error!s:.200}): download it again.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{str(path)!r} holds no metadata of a sample: download it again.")
    return found


def facts_of(metadata: Mapping[str, Any]) -> dict[str, str]:
    """What the metadata say of a sample, under our names. Patients are numbered anew in each study."""
    study, patient = _text(metadata.get("dataset_title")), _text(metadata.get("patient"))
    return {
        "species": _text(metadata.get("species")),
        "tissue": _text(metadata.get("organ")),
        "technology": _text(metadata.get("st_technology")),
        "study": study,
        "donor": f"{study}: {patient}" if patient and study else patient,
    }


def read_hest(path: Path, options: Options) -> AnnData:
    """Counts, pixels of the image, array positions where these agree with them, and the image."""
    from anndata import read_h5ad

    adata = read_h5ad(path)
    metadata = read_metadata(metadata_of(path))
    counts, var, where = raw_counts(adata, options.layer)
    xy, place = coordinates(adata)
    if xy is None:
        no_coordinates(adata)
    xy = xy[:, :2]
    image = _beside(path, _IMAGES, _IMAGE_TYPES)
    if image is not None:
        _check_inside(xy, image)
    say_what_was_taken(where, place, options)
    result = assemble(adata, counts, var)
    result.obsm[_keys.SPATIAL] = xy
    result.obs = result.obs.drop(columns=[column for column in _MEANINGLESS if column in result.obs])
    dropped = {}
    if has_array(result) and not array_is_true(result.obs[_keys.ARRAY_ROW], result.obs[_keys.ARRAY_COL], xy):
        result.obs = result.obs.drop(columns=[_keys.ARRAY_ROW, _keys.ARRAY_COL])
        dropped["array positions that contradict the pixels"] = result.n_obs
    entry = _library(adata, image, metadata, options.images)
    result.uns.pop(_keys.SPATIAL, None)
    result.uns[_keys.SPATIAL] = {path.stem: entry}
    add_note(
        result, format="HEST-1k", path=path, counts=where, coordinates=place, dropped=dropped, slide=path.stem,
        **facts_of(metadata),
    )  # fmt: skip
    return result


def _library(adata: AnnData, image: Path | None, metadata: Mapping[str, Any], load: bool) -> dict[str, Any]:
    """The library that HEST wrote under names that others know; else one made from the image file."""
    stored = next(iter(image_libraries(adata).values()), {})
    factors = dict(stored.get("scalefactors", {}))
    scale = factors.pop(f"tissue_{_DOWNSCALED}_scalef", None)
    pixels = stored.get("images", {}).get(_DOWNSCALED)
    has_rendering = pixels is not None and np.size(pixels) > 0 and scale is not None
    if "pixel_size_um_estimated" in metadata and not _is_nothing(metadata["pixel_size_um_estimated"]):
        factors.setdefault("microns_per_pixel", float(metadata["pixel_size_um_estimated"]))
    entry = library(image=image, load=load and not has_rendering, scalefactors=factors)
    if has_rendering and load:
        entry["images"]["hires"] = pixels
        entry["scalefactors"]["tissue_hires_scalef"] = float(scale)
    return entry


def _check_inside(xy: NDArray[np.float64], image: Path) -> None:
    """Raise unless the coordinates lie in the image; say so if they would with x and y exchanged."""
    from stimage.data.images._open import open_image

    size = np.array(open_image(image).sizes[0])
    margin = _MARGIN * size.max()

    def outside(points: NDArray[np.float64]) -> int:
        return int(((points < -margin) | (points > size + margin)).any(axis=1).sum())

    lost = outside(xy)
    if not lost:
        return
    advice = "pass the AnnData with coordinates in pixels of this image, or remove the image"
    if outside(xy[:, ::-1]) == 0:
        advice = (
            "with x and y exchanged all lie inside, so they are probably stored as y, x: exchange the columns and pass the "
            "AnnData"
        )
    raise ValueError(
        f"{lost} of {len(xy)} observations lie outside of the image {image.name!r} of {size[0]} x {size[1]} pixels (x up to "
        f"{xy[:, 0].max():.0f}, y up to {xy[:, 1].max():.0f}): {advice}."
    )


def _beside(path: Path, folders: tuple[str, ...], types: tuple[str, ...]) -> Path | None:
    places = [path.parent if folder == "." else path.parent.parent / folder for folder in folders]
    files = [place / f"{path.stem}{ending}" for place in places for ending in types]
    return next((file for file in files if file.is_file()), None)


def _is_nothing(value: object) -> bool:
    return value is None or (isinstance(value, float) and not np.isfinite(value))


def _text(value: object) -> str:
    return "" if _is_nothing(value) else str(value).strip()
