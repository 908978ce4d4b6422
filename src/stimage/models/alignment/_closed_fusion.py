"""The maps that an aligner starts with, and the fused vectors that they give in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stimage.data import PairedSlide, principal_genes
from stimage.models.alignment._expression_head import ExpressionHead

N_COMPONENTS = 32
PARTS = ("image", "genes")
_BATCH_SIZE = 512
_SMALLEST_SPREAD = 1e-3


def closed_maps(
    slides: Sequence[PairedSlide], levels: Sequence[str], *, n_components: int, frozen_genes: bool
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Principal axes of expression, and the regression of components on the image.

    Parameters
    ----------
    slides
        Slides as the module sees them; measured spots are fitted.
    levels
        Levels that it sees.
    n_components
        Components at most.
    frozen_genes
        Whether spots come as vectors of a frozen encoder, which have no such components.

    Returns
    -------
    tuple
        Maps by the names of an alignment batch, as far as it has what they need (inputs x components), and the root of the
        typical over the own spread of each component (components).
    """
    axes, deviation = principal_genes([slide.slide for slide in slides], n_components)
    # With few spots the last directions have no spread but that of rounding.
    varies = deviation > _SMALLEST_SPREAD * deviation[0]
    axes, deviation = axes[:, varies], deviation[varies]
    typical = float(np.sqrt((deviation**2).mean()))
    axes = axes / typical
    measured = [np.flatnonzero(slide.measured) for slide in slides]
    image = slides[0].spot_image
    has_images = {"spot": image is not None and image.dtype != np.uint8, "niche": slides[0].niche_image is not None}
    maps = {}
    for level in levels:
        if level == "spot" and frozen_genes:
            continue
        maps[f"{level}_genes"] = axes
        if has_images[level]:
            # One slide after the other: on disk there may be more than fit into memory.
            batches = (slide.batch(spots) for slide, spots in zip(slides, measured, strict=True))
            seen = ((batch[f"{level}_image"], batch[f"{level}_genes"] @ axes) for batch in batches)
            head = ExpressionHead.fit_slides(seen, list(map(len, measured)))
            maps[f"{level}_image"] = head.weights.astype(np.float32)
    return maps, np.sqrt(typical / deviation)


@dataclass(frozen=True)
class ClosedFusion:
    r"""Fused vectors in closed form: principal components of expression beside what the image says of them.

    With :math:`x` the centred log expression of a spot or of its niche, :math:`A` the principal axes of the expression of the
    training spots over their typical spread, and :math:`B` the ridge regression of :math:`A^\top x` on the components
    :math:`v` of the image features,

    .. math:: h = [\, B^\top v \;;\; A^\top x \,].

    No weight of the image is chosen: predicted components spread as far as the image tells expression.

    Parameters
    ----------
    maps
        :math:`A` and :math:`B` of each level, by the names of an alignment batch (inputs x components).
    """

    maps: dict[str, np.ndarray]

    @classmethod
    def of(cls, maps: dict[str, np.ndarray], levels: Sequence[str]) -> ClosedFusion | None:
        """The fusion by some maps, or None unless there are those of image and genes at all levels."""
        names = [f"{level}_{part}" for level in levels for part in PARTS]
        return cls({name: maps[name] for name in names}) if maps.keys() >= set(names) else None

    def __call__(self, slides: Sequence[PairedSlide], levels: Sequence[str]) -> np.ndarray:
        """Fused vectors of the spots of slides, slide after slide (spots x dimensions), level beside level, float32."""
        names = [f"{level}_{part}" for level in levels for part in PARTS]
        rows = []
        for slide in slides:
            for start in range(0, slide.n_spots, _BATCH_SIZE):
                batch = slide.batch(np.arange(start, min(start + _BATCH_SIZE, slide.n_spots)))
                rows.append(np.concatenate([batch[name] @ self.maps[name] for name in names], axis=1))
        return np.concatenate(rows).astype(np.float32)
