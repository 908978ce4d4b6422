from stimage.pp._genes import GenePool, select_genes
from stimage.pp._grid import compact_grid
from stimage.pp._niches import build_niches
from stimage.pp._spatialdata import from_spatialdata

__all__ = ["GenePool", "build_niches", "compact_grid", "from_spatialdata", "select_genes"]
