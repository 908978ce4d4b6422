"""Data sets: simulated tissue with known domains."""

from ._simulate import simulate_tissue

__all__ = ["simulate_tissue"]
