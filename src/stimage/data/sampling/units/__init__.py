"""Sample units: what one training sample is. Each unit is one file."""

from stimage.data.sampling.units._kind import NEIGHBOR_WEIGHTS, NeighborWeights, SampleKind, SampleUnit, Unit
from stimage.data.sampling.units._registry import UNITS
from stimage.data.sampling.units._spots import SpotDataset, SpotSample, SpotSampler

__all__ = [
    "NEIGHBOR_WEIGHTS",
    "UNITS",
    "NeighborWeights",
    "SampleKind",
    "SampleUnit",
    "SpotDataset",
    "SpotSample",
    "SpotSampler",
    "Unit",
]
