from __future__ import annotations

import torch
from torch import Tensor

from stimage.data.sampling.masking._rule import MaskingRule, MaskRandom, number_hidden, single_sites


class SiteMasking(MaskingRule):
    """Single sites at random."""

    name = "site"
    may_miss = False

    def draw(self, observed: Tensor, ratio: float, random: MaskRandom) -> Tensor:
        return single_sites(observed, ratio, random)

    def limits(self, window: int, ratio: float) -> tuple[int, int]:
        n_observed = torch.arange(2, window**2 + 1)
        n_hidden = number_hidden(n_observed, ratio)
        return int((n_observed - n_hidden).max()), int(n_hidden.max())
