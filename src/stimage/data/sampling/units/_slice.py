from __future__ import annotations

import numpy as np

from stimage.data.sampling.units._kind import SampleKind, SampleUnit
from stimage.data.slides._macro_domains import macro_domains
from stimage.data.slides._slide import Slide


class SliceUnit(SampleKind):
    """A slide in macro-domains (the paper, Eq. 4): those of the slide, represented by the spots that were drawn."""

    name = "slice"

    def prepare(self, slide: Slide, unit: SampleUnit, *, seed: int) -> np.ndarray:
        return macro_domains(slide, unit.n_macro_domains, seed=seed)

    def groups(self, sites: np.ndarray, prepared: np.ndarray) -> np.ndarray:
        return np.where(sites >= 0, prepared[sites], 0)
