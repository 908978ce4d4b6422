from __future__ import annotations

from stimage import _validate
from stimage.data.sampling.units._kind import SampleKind, SampleUnit, Unit
from stimage.data.sampling.units._neighborhood import NeighborhoodUnit
from stimage.data.sampling.units._patch import PatchUnit
from stimage.data.sampling.units._slice import SliceUnit
from stimage.data.sampling.units._spot import SpotUnit

UNITS: dict[Unit, SampleKind] = {
    "spot": SpotUnit(),
    "neighborhood": NeighborhoodUnit(),
    "slice": SliceUnit(),
    "patch": PatchUnit(),
}
"""Sample units by name. A new one is a file with a class like :class:`SampleKind` and a line here."""


def kind_of(unit: SampleUnit) -> SampleKind:
    """The kind of a unit; raise ``ValueError`` for one that is not known."""
    _validate.check_choice("unit", unit.name, UNITS)
    return UNITS[unit.name]
