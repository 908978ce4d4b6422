"""Data sets: simulated tissue with known domains, and public slides."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from ._public import public_slide
    from ._simulate import simulate_tissue

# What a name needs is loaded when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_public": ["public_slide"],
        "_simulate": ["simulate_tissue"],
    },
)
