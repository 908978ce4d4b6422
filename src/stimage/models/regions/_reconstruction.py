"""Predicting hidden sites of a slide with a masked autoencoder."""

from __future__ import annotations

import numpy as np

from stimage import _validate
from stimage.data import SampleUnit, Slide, WindowSpec
from stimage.models._options import check_hides_sites
from stimage.models.embedding._inference import reconstruct_slide, uncentred
from stimage.models.embedding._units import reconstruct_from_nearest
from stimage.models.regions._calibration import RegionPredictor
from stimage.modules import MaskedAutoencoder, SpotAutoencoder

LARGEST_REGION_WINDOW = 40
"""Rows and columns up to which a hidden region and its surroundings are one window."""


def check_filling(spec: WindowSpec, unit: SampleUnit, *, context: object, interval: object, seed: object) -> None:
    """Raise ``ValueError`` unless a model that was trained on such samples can fill in hidden sites in this way."""
    if unit.kind.has_windows:
        check_hides_sites(spec, "Reconstruction", "train with another `masking`")
    if unit.name == "slice":
        raise ValueError(
            "A model of `unit='slice'` cannot fill in hidden sites, whose macro-domains are not known: train with "
            "`unit='patch'` or `unit='neighborhood'`."
        )
    _validate.check_positive("context", context)
    _validate.check_seed(seed)
    if interval is not None:
        _validate.check_range("interval", interval, 0, 1)


def region_predictor(
    module: MaskedAutoencoder | SpotAutoencoder,
    spec: WindowSpec,
    unit: SampleUnit,
    scaled: Slide,
    *,
    context: int,
    batch_size: int,
) -> RegionPredictor:
    """What predicts the expression of hidden sites of one slide.

    Parameters
    ----------
    module
        The module, in evaluation mode.
    spec, unit
        What it was trained on.
    scaled
        The slide on the module's scale, all of it visible: calibration asks for many regions of the same slide.
    context
        Sites of surroundings on every side of the hidden sites.
    batch_size
        Windows in a forward pass.

    Returns
    -------
    RegionPredictor
        From the slide and its hidden sites to their expression on the slide's scale (hidden sites x genes).
    """

    def predict(slide: Slide, hidden: np.ndarray) -> np.ndarray:
        visible = scaled.hide(slide.library_size == 0)
        if unit.kind.has_windows:
            tile_size = max(spec.window + 2 * context, LARGEST_REGION_WINDOW)
            centred = reconstruct_slide(
                module, visible, hidden, context=context, tile_size=tile_size, batch_size=batch_size
            )
        else:
            centred = reconstruct_from_nearest(module, visible, unit, hidden, chunk=batch_size * spec.window**2)
        return uncentred(centred, visible.hide(hidden), slide.hide(hidden))

    return predict
