"""How strongly the regression of expression is shrunk: by donors whom the aligner has not seen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from stimage.data import PairedSlide
from stimage.models._devices import on_device
from stimage.models.alignment._expression_head import PENALTIES, penalty_errors
from stimage.models.alignment._module import donors_of
from stimage.models.alignment._prediction import head_pairs
from stimage.modules import SpotNicheAligner
from stimage.train._fit import Fitted

MOST_FOLDS = 3
"""Aligners that are trained beside the one that is kept."""


def folds_of(donors: list[str], measured: list[int]) -> list[np.ndarray]:
    """Which slides to leave out together, at most three times.

    Parameters
    ----------
    donors
        Who each slide is from; with one donor, slides count as donors.
    measured
        Spots with counts of each slide; one without any is never left out.

    Returns
    -------
    list
        Positions of slides; empty for a single slide. All slides of a donor are left out together, and the folds have about
        as many spots each.
    """
    kept = [number for number, n_spots in enumerate(measured) if n_spots]
    names = [donors[number] for number in kept]
    if len(set(names)) == 1:
        names = [str(number) for number in kept]
    members: dict[str, list[int]] = {}
    for number, name in zip(kept, names, strict=True):
        members.setdefault(name, []).append(number)
    if len(members) < 2:
        return []
    folds: list[list[int]] = [[] for _ in range(min(MOST_FOLDS, len(members)))]
    sizes = [0] * len(folds)
    for slides in sorted(members.values(), key=lambda part: -sum(measured[number] for number in part)):
        smallest = int(np.argmin(sizes))
        folds[smallest] += slides
        sizes[smallest] += sum(measured[number] for number in slides)
    return [np.array(sorted(fold)) for fold in folds]


def unseen_penalty(
    slides: list[PairedSlide],
    start: Callable[[list[PairedSlide]], SpotNicheAligner],
    train: Callable[[SpotNicheAligner, list[PairedSlide]], Fitted],
    *,
    niches: bool,
) -> float | None:
    """The penalty that predicts slides best whose donors neither the regression nor its aligner has seen.

    For each fold an aligner is trained from its start without these donors. Genes and the axes of image features, which see
    no expression, are those of all slides.

    Parameters
    ----------
    slides
        Slides as the aligner sees them, with images.
    start
        Gives a module at its start for slides.
    train
        Trains a module on slides.
    niches
        Whether niches are seen.

    Returns
    -------
    float or None
        The penalty; ``None`` for a single slide, and where pixels are trained on, which would take too long.
    """
    folds = folds_of(donors_of(slides), [int(slide.measured.sum()) for slide in slides])
    if not folds or slides[0].spot_image.dtype == np.uint8:
        return None
    errors = np.zeros(len(PENALTIES))
    for left_out in folds:
        seen = [slide for number, slide in enumerate(slides) if number not in left_out]
        module = start(seen)
        fitted = train(module, seen)
        unseen = [slides[number] for number in left_out]
        with on_device(fitted.device, module):
            errors += penalty_errors(*(head_pairs(module, part, niches=niches) for part in (seen, unseen)))
    return float(PENALTIES[int(np.argmin(errors))])
