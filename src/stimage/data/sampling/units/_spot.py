from __future__ import annotations

from stimage.data.sampling.units._kind import SampleKind


class SpotUnit(SampleKind):
    """A spot without context (the paper, Eq. 2)."""

    name = "spot"
