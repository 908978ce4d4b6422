"""Expression from what the image says of spots: by regression, or by the training spots that are most similar."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from stimage import _validate
from stimage.data import PairedSlide
from stimage.models.alignment._expression_head import ExpressionHead, Parts
from stimage.models.alignment._module import donors_of, levels_of, vectors
from stimage.modules import AlignerConfig, SpotNicheAligner

if TYPE_CHECKING:
    from stimage.models._stalign import STAlign

PredictionMethod = Literal["regression", "retrieval"]
MOST_SPOTS = 50_000
"""Spots that the regression of expression is fitted on: of a few hundred inputs, more say nothing new."""
Predictor = Callable[[dict[str, np.ndarray]], np.ndarray]
"""Expression (spots x genes) from image vectors by level (spots x dimensions)."""


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


def n_head_inputs(config: AlignerConfig, *, niches: bool) -> int:
    """What the regression of expression sees of a spot: image vectors of the spot, and of its niche."""
    return config.dim * len(levels_of(niches))


def image_vectors(
    module: SpotNicheAligner, slides: list[PairedSlide], *, niches: bool, chosen: list[np.ndarray] | None = None
) -> dict[str, np.ndarray]:
    """Image vectors of the spots of slides, or of those chosen of each, by level (spots x dimensions)."""
    return {level: vectors(module, slides, "image", level, chosen=chosen) for level in levels_of(niches)}


def head_pairs(module: SpotNicheAligner, slides: list[PairedSlide], *, niches: bool) -> Parts:
    """What the regression is fitted on: its inputs and the expression of measured spots of each slide."""
    pairs = []
    for slide, spots in zip(slides, head_spots([slide.measured for slide in slides]), strict=True):
        if len(spots):
            found = _side_by_side(image_vectors(module, [slide], niches=niches, chosen=[spots]))
        else:
            found = np.zeros((0, n_head_inputs(module.config, niches=niches)), dtype=np.float32)
        pairs.append((found, slide.slide.expression[slide.slide.site_of_observation[spots]].toarray()))
    return pairs


def head_spots(measured: list[np.ndarray]) -> list[np.ndarray]:
    """Measured spots of each slide that the regression is fitted on: all, or a random part of more than 50,000."""
    slides = [np.flatnonzero(of_slide) for of_slide in measured]
    ends = np.cumsum([len(spots) for spots in slides])
    if ends[-1] <= MOST_SPOTS:
        return slides
    kept = np.zeros(ends[-1], dtype=bool)
    kept[np.random.default_rng(0).permutation(ends[-1])[:MOST_SPOTS]] = True
    return [spots[part] for spots, part in zip(slides, np.split(kept, ends[:-1]), strict=True)]


def fit_head(
    module: SpotNicheAligner, slides: list[PairedSlide], *, niches: bool, penalty: float | None
) -> ExpressionHead:
    """Regression from image vectors to expression, fitted on the measured spots of slides."""
    inputs, expression = zip(*head_pairs(module, slides, niches=niches), strict=True)
    return ExpressionHead.fit(list(inputs), list(expression), donors=donors_of(slides), penalty=penalty)


def predictor_of(model: STAlign, method: PredictionMethod, n_neighbors: int) -> Predictor:
    """How an aligner predicts: see :meth:`stimage.models.STAlign.predict_expression`. Nothing is below 0."""
    if method == "regression":
        return lambda found: np.maximum(model.head(_side_by_side(found)), 0)
    predict = _retrieval(model.module, model.paired.slides, n_neighbors)
    return lambda found: np.maximum(predict(found), 0)


def _retrieval(module: SpotNicheAligner, training: list[PairedSlide], n_neighbors: int) -> Predictor:
    """Mean expression of the training spots whose gene vectors are nearest to the image vector of the spot."""
    from sklearn.neighbors import NearestNeighbors

    measured = np.concatenate([slide.measured for slide in training])
    keys = vectors(module, training, "gene")[measured]
    expression = _expression(training)
    number = min(n_neighbors, len(keys))
    finder = NearestNeighbors(n_neighbors=number, metric="cosine", algorithm="brute").fit(keys)
    return lambda found: finder.kneighbors_graph(found["spot"]) @ expression / number


def _side_by_side(vectors: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate(list(vectors.values()), axis=1)


def _expression(slides: list[PairedSlide]) -> np.ndarray:
    """Expression of the measured spots (spots x genes)."""
    parts = [part.slide.expression[part.slide.site_of_observation][part.measured].toarray() for part in slides]
    return np.concatenate(parts)
