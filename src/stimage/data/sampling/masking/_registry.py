from __future__ import annotations

from stimage.data.sampling.masking._mixed import MixedMasking
from stimage.data.sampling.masking._region import RegionMasking
from stimage.data.sampling.masking._rule import MaskingRule
from stimage.data.sampling.masking._site import SiteMasking
from stimage.data.sampling.masking._site_gene import SiteGeneMasking

Masking = str
"""Key of :data:`MASKINGS`."""

MASKINGS: dict[Masking, MaskingRule] = {
    "site": SiteMasking(),
    "site_gene": SiteGeneMasking(),
    "region": RegionMasking(),
    "mixed": MixedMasking(),
}
"""Masking rules by name. A new one is a file with a class like :class:`MaskingRule` and a line here."""
