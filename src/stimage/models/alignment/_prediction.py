"""Expression from what the image says of spots: by regression, or by the training spots that are most similar."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from stimage import _validate
from stimage.data import PairedSlide
from stimage.models.alignment._expression_head import ExpressionHead
from stimage.models.alignment._image_basis import ImageBasis
from stimage.models.alignment._module import donors_of, levels_of, vectors
from stimage.modules import AlignerConfig, AlignmentBatch, SpotNicheAligner

if TYPE_CHECKING:
    from stimage.models._stalign import STAlign

PredictionMethod = Literal["regression", "retrieval"]
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


def fit_head(module: SpotNicheAligner, slides: list[PairedSlide], *, spot_context: bool) -> ExpressionHead:
    """Regression from images to expression, fitted on the measured spots of slides."""
    inputs = [head_inputs(module, images_of(slide), spot_context=spot_context)[slide.measured] for slide in slides]
    return ExpressionHead.fit(inputs, [_expression([slide]) for slide in slides], donors=donors_of(slides))


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
    device = next(module.parameters()).device
    name = f"{level}_image"
    rows = []
    for start in range(0, len(images[name]), _BATCH_SIZE):
        part = torch.from_numpy(images[name][start : start + _BATCH_SIZE]).to(device)
        rows.append(module.embed(AlignmentBatch(**{name: part}), level, "image").float().cpu().numpy())
    return np.concatenate(rows)


def _expression(slides: list[PairedSlide]) -> np.ndarray:
    """Expression of the measured spots (spots x genes)."""
    parts = [part.slide.expression[part.slide.site_of_observation][part.measured].toarray() for part in slides]
    return np.concatenate(parts)
