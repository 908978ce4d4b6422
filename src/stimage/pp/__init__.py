from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from stimage.pp._aggregate import aggregate_sites
    from stimage.pp._genes import GenePool, select_genes
    from stimage.pp._niches import build_niches
    from stimage.pp._spatialdata import from_spatialdata
    from stimage.pp.corpus._build import build_corpus
    from stimage.pp.corpus._build_pairs import build_pairs
    from stimage.pp.corpus._build_public import build_public_corpus
    from stimage.pp.grid._compact_grid import compact_grid

# What a name needs is loaded when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_aggregate": ["aggregate_sites"],
        "_genes": ["GenePool", "select_genes"],
        "_niches": ["build_niches"],
        "_spatialdata": ["from_spatialdata"],
        "corpus._build": ["build_corpus"],
        "corpus._build_pairs": ["build_pairs"],
        "corpus._build_public": ["build_public_corpus"],
        "grid._compact_grid": ["compact_grid"],
    },
)
