from __future__ import annotations

import torch
from torch import Tensor

from stimage.data.sampling.masking._region import RegionMasking
from stimage.data.sampling.masking._rule import MaskingRule, MaskRandom
from stimage.data.sampling.masking._site import SiteMasking


class MixedMasking(MaskingRule):
    """Single sites in two of three windows, and a region of half the share in the third."""

    name = "mixed"
    may_miss = False

    def parts(self, ratio: float) -> list[tuple[float, MaskingRule, float]]:
        return [(2 / 3, SiteMasking(), ratio), (1 / 3, RegionMasking(), ratio / 2)]

    def draw(self, observed: Tensor, ratio: float, random: MaskRandom) -> Tensor:
        (share, single, of_single), (_, region, of_region) = self.parts(ratio)
        no_genes = observed.new_empty((len(observed), 0))
        by_site = (random.uniform("kind") < share)[:, None, None]
        hidden = [
            rule.hide(observed, no_genes, part, random) for rule, part in ((single, of_single), (region, of_region))
        ]
        return torch.where(by_site, *hidden)

    def limits(self, window: int, ratio: float) -> tuple[int, int]:
        visible, hidden = zip(*(rule.limits(window, part) for _, rule, part in self.parts(ratio)), strict=True)
        return max(visible), max(hidden)
