from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from stimage.pp._aggregate import aggregate_sites
    from stimage.pp._build_corpus import build_corpus
    from stimage.pp._build_public_corpus import build_public_corpus
    from stimage.pp._genes import GenePool, select_genes
    from stimage.pp._grid import compact_grid
    from stimage.pp._niches import build_niches
    from stimage.pp._spatialdata import from_spatialdata

# What a name needs is loaded when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_aggregate": ["aggregate_sites"],
        "_build_corpus": ["build_corpus"],
        "_build_public_corpus": ["build_public_corpus"],
        "_genes": ["GenePool", "select_genes"],
        "_grid": ["compact_grid"],
        "_niches": ["build_niches"],
        "_spatialdata": ["from_spatialdata"],
    },
)
