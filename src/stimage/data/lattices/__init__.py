"""Lattices: how the sites of a raster lie in the tissue. Each layout is one file."""

from stimage.data.lattices._lattice import ArraySites, Lattice, PlatformSpots
from stimage.data.lattices._registry import LATTICES, lattice_of

__all__ = ["LATTICES", "ArraySites", "Lattice", "PlatformSpots", "lattice_of"]
