"""Figures: domains, niches, reconstructed regions, training windows, losses, benchmarks and proportions. Each function returns the matplotlib figure."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from stimage.pl._alignment import alignment
    from stimage.pl._benchmark import benchmark
    from stimage.pl._domains import domains
    from stimage.pl._expression import expression
    from stimage.pl._niches import niches
    from stimage.pl._proportions import proportions
    from stimage.pl._region_error import region_error
    from stimage.pl._training import training
    from stimage.pl._windows import windows

# What a name needs is loaded when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_alignment": ["alignment"],
        "_benchmark": ["benchmark"],
        "_domains": ["domains"],
        "_expression": ["expression"],
        "_niches": ["niches"],
        "_proportions": ["proportions"],
        "_region_error": ["region_error"],
        "_training": ["training"],
        "_windows": ["windows"],
    },
)
