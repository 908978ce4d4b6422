from __future__ import annotations

from stimage.data.sampling.units._kind import SampleKind


class PatchUnit(SampleKind):
    """A window of the raster (the paper, Eq. 8)."""

    name = "patch"
    has_windows = True
