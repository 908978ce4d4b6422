"""Expression from what the image says of spots: by regression, or by the training spots that are most similar."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from stimage import _validate
from stimage.data import PairedSlide
from stimage.models._devices import place_of, to_numpy
from stimage.models.alignment._expression_head import ExpressionHead
from stimage.models.alignment._image_basis import ImageBasis
from stimage.models.alignment._module import donors_of, levels_of, vectors
from stimage.modules import AlignerConfig, AlignmentBatch, SpotNicheAligner

if TYPE_CHECKING:
    from stimage.models._stalign import STAlign

PredictionMethod = Literal["regression", "retrieval"]
MOST_SPOTS = 50_000
"""Spots that the regression of expression is fitted on: of a few hundred inputs, more say nothing new."""
Images = dict[str, np.ndarray]
"""What an aligner sees of the images of spots and niches, by the names of an alignment batch."""
Predictor = Callable[[Images], np.ndarray]
"""Expression (spots x genes) from images."""
_BATCH_SIZE = 512


def check_prediction(model: STAlign, *, method: Any, n_neighbors: Any) -> None:
    """Raise ``TypeError`` or ``ValueError`` for options that an aligner cannot predict with."""
    _validate.check_choice("method", method, get_args(PredictionMethod))
    _validate.check_positive("n_neighbors", n_neighbors)
    if model.image_encoder is None:
        raise ValueError("This model was built without images (`image_encoder=None`): it cannot predict from them.")
    if model.head is None:
        raise ValueError("This model was not trained: call `train` first.")
    if method == "retrieval" and model.paired is None:
        raise ValueError(
            "`method='retrieval'` averages training spots, and this model was loaded without any: pass `data` to "
            "`STAlign.load`, or `method='regression'`."
        )


def n_head_inputs(config: AlignerConfig, basis: ImageBasis | None, *, niches: bool, trained_encoder: bool) -> int:
    """How many numbers the regression of expression sees of a spot, see :func:`head_inputs`."""
    if trained_encoder:
        return config.dim * len(levels_of(niches))
    seen_twice = basis.spot_context or not niches
    return basis.n_spot_image + (0 if seen_twice else basis.n_niche_image)


def images_of(slide: PairedSlide) -> Images:
    """What an aligner sees of the images of a slide."""
    parts = {"spot_image": slide.spot_image, "niche_image": slide.niche_image}
    return {name: values for name, values in parts.items() if values is not None}


def head_inputs(module: SpotNicheAligner, images: Images, *, spot_context: bool) -> np.ndarray:
    """What the regression of expression sees of spots (spots x inputs).

    These are the components of the image features of spot and niche. Image vectors were aligned with the expression of the
    training slides and say less of another patient; only where pixels are trained on there is nothing else.
    """
    if images["spot_image"].dtype == np.uint8:
        levels = levels_of("niche_image" in images)
        return np.concatenate([_image_vectors(module, images, level) for level in levels], axis=1)
    return images["spot_image"] if spot_context else np.concatenate(list(images.values()), axis=1)


def head_spots(measured: list[np.ndarray]) -> list[np.ndarray]:
    """Measured spots of each slide that the regression is fitted on: all, or a random part of more than 50,000."""
    slides = [np.flatnonzero(of_slide) for of_slide in measured]
    ends = np.cumsum([len(spots) for spots in slides])
    if ends[-1] <= MOST_SPOTS:
        return slides
    kept = np.zeros(ends[-1], dtype=bool)
    kept[np.random.default_rng(0).permutation(ends[-1])[:MOST_SPOTS]] = True
    return [spots[part] for spots, part in zip(slides, np.split(kept, ends[:-1]), strict=True)]


def fit_head(module: SpotNicheAligner, slides: list[PairedSlide], *, spot_context: bool) -> ExpressionHead:
    """Regression from images to expression, fitted on the measured spots of slides."""
    chosen = head_spots([slide.measured for slide in slides])

    def seen(slide: PairedSlide, spots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        images = {name: values[spots] for name, values in images_of(slide).items()}
        expression = slide.slide.expression[slide.slide.site_of_observation[spots]].toarray()
        return head_inputs(module, images, spot_context=spot_context), expression

    return ExpressionHead.fit_slides(map(seen, slides, chosen), list(map(len, chosen)), donors=donors_of(slides))


def predictor_of(model: STAlign, method: PredictionMethod, n_neighbors: int) -> Predictor:
    """How an aligner predicts: see :meth:`stimage.models.STAlign.predict_expression`. Nothing is below 0."""
    if method == "retrieval":
        predict = _retrieval(model.module, model.paired.slides, n_neighbors)
        return lambda images: np.maximum(predict(images), 0)
    options = {"spot_context": model.spot_context}
    return lambda images: np.maximum(model.head(head_inputs(model.module, images, **options)), 0)


def _retrieval(module: SpotNicheAligner, training: list[PairedSlide], n_neighbors: int) -> Predictor:
    """Mean expression of the training spots whose gene vectors are nearest to the image vector of the spot."""
    from sklearn.neighbors import NearestNeighbors

    measured = np.concatenate([slide.measured for slide in training])
    keys = vectors(module, training, "gene")[measured]
    expression = _expression(training)
    number = min(n_neighbors, len(keys))
    finder = NearestNeighbors(n_neighbors=number, metric="cosine", algorithm="brute").fit(keys)
    return lambda images: finder.kneighbors_graph(_image_vectors(module, images, "spot")) @ expression / number


@torch.no_grad()
def _image_vectors(module: SpotNicheAligner, images: Images, level: str) -> np.ndarray:
    """Aligned image vectors of spots or niches (spots x dim)."""
    module.eval()
    place, name = place_of(module), f"{level}_image"
    rows = [np.zeros((0, module.config.dim), dtype=np.float32)]
    for start in range(0, len(images[name]), _BATCH_SIZE):
        part = torch.as_tensor(images[name][start : start + _BATCH_SIZE], device=place)
        rows.append(to_numpy(module.embed(AlignmentBatch(**{name: part}), level, "image")))
    return np.concatenate(rows)


def _expression(slides: list[PairedSlide]) -> np.ndarray:
    """Expression of the measured spots (spots x genes)."""
    parts = [part.slide.expression[part.slide.site_of_observation][part.measured].toarray() for part in slides]
    return np.concatenate(parts)
