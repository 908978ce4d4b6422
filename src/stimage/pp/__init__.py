from stimage.pp._genes import GenePool, select_genes
from stimage.pp._grid import compact_grid

__all__ = ["GenePool", "compact_grid", "select_genes"]
