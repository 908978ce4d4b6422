from __future__ import annotations

from torch import Tensor

from stimage.data.sampling.masking._rule import MaskingRule, MaskRandom


class SiteGeneMasking(MaskingRule):
    """Single values at random: one gene of one site."""

    name = "site_gene"
    hides_values = True
    may_miss = False

    def draw(self, observed: Tensor, ratio: float, random: MaskRandom) -> Tensor:
        return observed

    def hide(self, observed: Tensor, gene_valid: Tensor, ratio: float, random: MaskRandom) -> Tensor:
        known = self.draw(observed, ratio, random)[..., None] & gene_valid[:, None, None]
        return known & (random.uniform("values", *known.shape[1:]) < ratio)

    def limits(self, window: int, ratio: float) -> tuple[int, int]:
        return window**2, window**2
