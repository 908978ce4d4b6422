"""Data sets: simulated tissue with known domains, and public slides."""

from ._public import public_slide
from ._simulate import simulate_tissue

__all__ = ["public_slide", "simulate_tissue"]
