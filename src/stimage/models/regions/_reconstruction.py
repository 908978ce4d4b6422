from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stimage import _validate
from stimage.data import Slide
from stimage.models.embedding._inference import reconstruct_slide, uncentred
from stimage.models.embedding._units import reconstruct_from_nearest
from stimage.models.regions._calibration import RegionPredictor, calibrated_reconstruction
from stimage.models.regions._region import RegionResult, reconstruct_region

if TYPE_CHECKING:
    from anndata import AnnData

LARGEST_REGION_WINDOW = 40
"""Rows and columns up to which a hidden region and its surroundings are one window."""


class ReconstructMixin:
    """Filling in hidden sites with a model that owns a module and a sample unit."""

    def reconstruct(
        self,
        slide: Slide,
        hidden: np.ndarray,
        *,
        context: int = 8,
        calibrated: bool = True,
        batch_size: int = 8,
        seed: int = 0,
    ) -> np.ndarray:
        """Expression of hidden sites of a slide, predicted from the sites around them.

        By default the prediction is calibrated on visible sites: up to sixteen regions of the same shape are hidden
        elsewhere on the slide, one after the other, and how well they are predicted says how far to trust the model and how
        far the mean of the nearest visible sites; see the user guide. No hidden value is used.

        With the units ``"spot"`` and ``"neighborhood"``, which know no hidden sites, the mean embedding of the 16 nearest
        visible sites is decoded; ``context`` plays no part.

        Parameters
        ----------
        slide
            The slide, over this model's genes.
        hidden
            Boolean mask over its sites.
        context
            Sites of surroundings on every side of the hidden sites.
        calibrated
            Calibrate the prediction, or return it as the model makes it.
        batch_size
            Windows in a forward pass.
        seed
            Seed of the regions that it is calibrated on.

        Returns
        -------
        numpy.ndarray
            log1p of counts per 10,000 (hidden sites x genes).
        """
        predict = self._predictor(slide, context, batch_size)
        return calibrated_reconstruction(predict, slide, hidden, seed=seed) if calibrated else predict(slide, hidden)

    def reconstruct_interval(
        self,
        slide: Slide,
        hidden: np.ndarray,
        *,
        interval: float = 0.9,
        context: int = 8,
        batch_size: int = 8,
        seed: int = 0,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Expression of hidden sites, with bounds between which it would be measured.

        The regions that :meth:`reconstruct` is calibrated on also tell how far what was measured lies from what is
        predicted: bounds are those of the shortest interval that holds the share of them, for each gene and level of
        predicted expression.

        Parameters
        ----------
        slide, hidden, context, batch_size, seed
            As in :meth:`reconstruct`.
        interval
            Share of measured values that intervals should hold.

        Returns
        -------
        tuple of numpy.ndarray
            Expression, lower and upper bounds: log1p of counts per 10,000 (hidden sites x genes each). Bounds are NaN for
            genes that the slide lacks, and where it has no room for a second such region.

        Raises
        ------
        ValueError
            If ``interval`` is not between 0 and 1.
        """
        _validate.check_range("interval", interval, 0, 1)
        predict = self._predictor(slide, context, batch_size)
        filled, lower, upper = calibrated_reconstruction(predict, slide, hidden, seed=seed, interval=interval)
        return filled, lower, upper

    def _predictor(self, slide: Slide, context: int, batch_size: int) -> RegionPredictor:
        self._check_reconstructs()
        # Scaled once: calibration asks for many regions of the same slide.
        scaled = slide.to_target_sum(self.target_sum)
        return partial(self._predict_hidden, scaled, context=context, batch_size=batch_size)

    def _predict_hidden(
        self, scaled: Slide, slide: Slide, hidden: np.ndarray, *, context: int, batch_size: int
    ) -> np.ndarray:
        """Expression of hidden sites on the slide's scale; ``scaled`` is the slide on the model's, all of it visible."""
        scaled = scaled.hide(slide.library_size == 0)
        if self.unit.name == "patch":
            tile_size = max(self.spec.window + 2 * context, LARGEST_REGION_WINDOW)
            centred = reconstruct_slide(
                self.module, scaled, hidden, context=context, tile_size=tile_size, batch_size=batch_size
            )
        else:
            chunk = batch_size * self.spec.window**2
            centred = reconstruct_from_nearest(self.module, scaled, self.unit, hidden, chunk=chunk)
        return uncentred(centred, scaled.hide(hidden), slide.hide(hidden))

    def reconstruct_region(
        self,
        adata: AnnData,
        *,
        region: str | Sequence[str] | np.ndarray | pd.Series | None = None,
        size: int | None = None,
        context: int = 8,
        interval: float | None = None,
        seed: int = 0,
    ) -> RegionResult:
        """Hide a region of an AnnData and fill it in, without writing to it.

        Parameters
        ----------
        adata
            AnnData after :func:`stimage.pp.compact_grid`.
        region, size, context, interval, seed
            As in :func:`stimage.tl.reconstruct_region`.

        Returns
        -------
        RegionResult
            Which observations were hidden, the expression and its errors.

        Raises
        ------
        KeyError
            If there is no grid, or ``region`` names what does not exist.
        ValueError
            If both or neither of ``region`` and ``size`` are given, or nothing or everything would be hidden.
        """
        self._check_reconstructs()
        return reconstruct_region(self, adata, region=region, size=size, context=context, interval=interval, seed=seed)

    def _check_reconstructs(self) -> None:
        if self.unit.name == "patch":
            self._check_hides_sites("Reconstruction", "train with another `masking`")
        if self.unit.name == "slice":
            raise ValueError(
                "A model of `unit='slice'` cannot fill in hidden sites, whose macro-domains are not known: train with "
                "`unit='patch'` or `unit='neighborhood'`."
            )
