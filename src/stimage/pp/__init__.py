from stimage.pp._aggregate import aggregate_sites
from stimage.pp._build_corpus import build_corpus
from stimage.pp._build_public_corpus import build_public_corpus
from stimage.pp._genes import GenePool, select_genes
from stimage.pp._grid import compact_grid
from stimage.pp._niches import build_niches
from stimage.pp._spatialdata import from_spatialdata

__all__ = [
    "GenePool",
    "aggregate_sites",
    "build_corpus",
    "build_niches",
    "build_public_corpus",
    "compact_grid",
    "from_spatialdata",
    "select_genes",
]
