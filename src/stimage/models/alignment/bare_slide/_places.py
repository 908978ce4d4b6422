"""Expression of a slide that is nothing but an image: no spots, no counts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stimage._settings import progress
from stimage.data import SlideImage, square_boxes
from stimage.data.sampling._paired_slide import standardised_by
from stimage.models._devices import find_device, on_device
from stimage.models.alignment._image_features import encoded, patch_colours
from stimage.models.alignment._prediction import predictor_of
from stimage.models.alignment._setup import SPOT_PIXELS
from stimage.models.alignment.bare_slide._tissue_mask import TissueMask, find_tissue
from stimage.modules import ImageEncoder

if TYPE_CHECKING:
    from stimage.models._stalign import STAlign
    from stimage.models.alignment._prediction import PredictionMethod

_TILE = 2048
"""Side of the part of the image that is worked on at a time, in pixels."""
_BATCH_SIZE = 16
_GPU_BATCH_SIZE = 128
_SMALLEST_SHARE = 0.5
"""Tissue in the cell of a place that is predicted."""
_MOST_PLACES = 5_000_000


@dataclass(frozen=True)
class TissueLattice:
    """Places on the tissue of an image, a square lattice.

    Parameters
    ----------
    centres
        x and y of each place in pixels of the image (places x 2).
    sites
        Row and column of each place (places x 2).
    share
        Share of tissue in the cell of each place (places).
    pitch
        Distance between neighbouring places in pixels of the image.
    tissue
        Where the tissue is.
    """

    centres: np.ndarray
    sites: np.ndarray
    share: np.ndarray
    pitch: float
    tissue: TissueMask


def tissue_lattice(image: SlideImage, pitch: float, *, everywhere: bool) -> TissueLattice:
    """Places ``pitch`` pixels apart on the tissue of an image, in the order of tiles and of rows in them.

    Raises
    ------
    ValueError
        If there is no tissue, or there are far too many or fewer than two places.
    """
    width, height = image.size
    columns, rows = int(width // pitch), int(height // pitch)
    if rows * columns > _MOST_PLACES:
        raise ValueError(
            f"`pitch` is {pitch:.3g} pixels, which makes {rows * columns:,} places in an image of {width} x {height} pixels: "
            "choose a larger one, and check `micrometres_per_pixel`."
        )
    if rows * columns < 2:
        raise ValueError(
            f"`pitch` is {pitch:.4g} pixels, and the image has {width} x {height}: choose a smaller one, and check "
            "`micrometres_per_pixel`."
        )
    tissue = find_tissue(image, pitch, everywhere=everywhere)
    row, column = np.divmod(np.arange(rows * columns), columns)
    # The lattice lies in the middle of the image.
    start = (np.array([width, height]) - np.array([columns, rows]) * pitch) / 2
    centres = start + (np.column_stack([column, row]) + 0.5) * pitch
    share = tissue.share(centres, pitch)
    kept = np.flatnonzero(share >= _SMALLEST_SHARE)
    if len(kept) < 2:
        raise ValueError(
            f"Tissue covers {tissue.mask.mean():.1%} of `image`, too little for two places that are {pitch:.4g} pixels apart: "
            "choose a smaller `pitch`, or `tissue='all'`."
        )
    tiles = (centres[kept] // _TILE).astype(int)
    kept = kept[np.lexsort([column[kept], row[kept], tiles[:, 0], tiles[:, 1]])]
    return TissueLattice(centres[kept], np.column_stack([row, column])[kept], share[kept], pitch, tissue)


class _Scratch:
    """Values of many places in a file: a whole slide's features need not fit into memory."""

    def __init__(self, n_rows: int, part: np.ndarray) -> None:
        self._file = tempfile.TemporaryFile(prefix="stimage-")
        self.values = np.memmap(self._file, dtype=part.dtype, mode="w+", shape=(n_rows, *part.shape[1:]))
        self._n = 0
        self._mean = np.zeros(part.shape[1:])
        self._squares = np.zeros(part.shape[1:])

    def append(self, part: np.ndarray) -> None:
        """Add values, and keep count of mean and spread (Chan et al. 1979)."""
        self.values[self._n : self._n + len(part)] = part
        n = self._n + len(part)
        if part.dtype != np.uint8:
            mean = part.mean(axis=0, dtype=np.float64)
            squares = np.square(part - mean).sum(axis=0)
            difference = mean - self._mean
            self._squares += squares + difference**2 * (self._n * len(part) / n)
            self._mean += difference * (len(part) / n)
        self._n = n

    def standardised(self, rows: slice) -> np.ndarray:
        """Values less their mean and over their spread; pixels as they are."""
        part = np.array(self.values[rows])
        if part.dtype == np.uint8:
            return part
        return standardised_by(part, self._mean, np.sqrt(self._squares / self._n))


def predict_places(
    model: STAlign,
    image: SlideImage,
    lattice: TissueLattice,
    spot_distance: float,
    *,
    method: PredictionMethod,
    n_neighbors: int,
    accelerator: str = "auto",
    device: int | str = "auto",
) -> np.ndarray:
    """Expression of places from the image.

    Features are standardised over the places, as those of spots are over a slide.

    Parameters
    ----------
    model
        A trained aligner with images.
    image, lattice
        The image and places on it.
    spot_distance
        Distance between spots of the training slides in pixels of this image: patches are as large on the tissue as there.
    method, n_neighbors, accelerator, device
        As in :meth:`STAlign.predict_expression`.

    Returns
    -------
    numpy.ndarray
        log1p of counts per 10,000 (places x genes), float32.
    """
    n_places = len(lattice.centres)
    place = find_device(accelerator, device, model.module)
    batch_size = _BATCH_SIZE if place.type == "cpu" else _GPU_BATCH_SIZE
    batches = [slice(start, min(start + batch_size, n_places)) for start in range(0, n_places, batch_size)]
    kept: dict[str, _Scratch] = {}
    predicted = np.empty((n_places, len(model.genes)), dtype=np.float32)
    with on_device(place, model.module, model.image_encoder, model.niche_image_encoder):
        for rows in progress(batches, "Image of the slide"):
            for name, values in _seen(model, image, lattice.centres[rows], spot_distance):
                if name not in kept:
                    kept[name] = _Scratch(n_places, values)
                kept[name].append(values)
        predict = predictor_of(model, method, n_neighbors)
        for rows in batches:
            images = {name: scratch.standardised(rows) for name, scratch in kept.items()}
            predicted[rows] = predict(images if model.basis is None else {**images, **model.basis.components(images)})
    return predicted


def _seen(
    model: STAlign, image: SlideImage, centres: np.ndarray, spot_distance: float
) -> Iterator[tuple[str, np.ndarray]]:
    """What is seen of the image at some places, by the names of an alignment batch."""
    spots = model.patches.spot_boxes(centres, spot_distance)
    if model.train_image_encoder:
        yield "spot_image", image.patches(spots[0], SPOT_PIXELS)[0]
    else:
        yield "spot_image", _features(image, spots, model.image_encoder, centres)
    if model.niches:
        boxes = square_boxes(centres, model.patch_scale.niche_width * spot_distance)
        yield "niche_image", _features(image, model.patches.niche_boxes(boxes), model.niche_image_encoder, centres)


def _features(image: SlideImage, boxes: list[np.ndarray], encoder: ImageEncoder, centres: np.ndarray) -> np.ndarray:
    """Features of all kinds of patches, then their colours, side by side."""
    parts = [image.patches(part, encoder.config.input_size)[0] for part in boxes]
    features = [encoded(pixels, encoder) for pixels in parts]
    values = np.concatenate([*features, *(patch_colours(pixels) for pixels in parts)], axis=1)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise ValueError(
            f"The image encoder gives NaN or infinite features, e.g. at {centres[bad[0]].round().tolist()}: its weights are "
            "damaged or its precision is too low."
        )
    return values
