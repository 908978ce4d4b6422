from __future__ import annotations

from stimage.data.sampling.units._kind import UNITS
from stimage.data.sampling.units._neighborhood import NeighborhoodUnit
from stimage.data.sampling.units._patch import PatchUnit
from stimage.data.sampling.units._slice import SliceUnit
from stimage.data.sampling.units._spot import SpotUnit

UNITS |= {
    "spot": SpotUnit(),
    "neighborhood": NeighborhoodUnit(),
    "slice": SliceUnit(),
    "patch": PatchUnit(),
}
