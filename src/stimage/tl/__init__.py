"""Tools: AnnData in, model call, AnnData out."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from stimage.tl._align import align
    from stimage.tl._annotate import annotate
    from stimage.tl._domains import domains
    from stimage.tl._embed import embed
    from stimage.tl._fill_holes import fill_holes
    from stimage.tl._predict_expression import predict_expression
    from stimage.tl._pretrain import pretrain
    from stimage.tl._query import query
    from stimage.tl._reconstruct_region import reconstruct_region

# What a name needs is loaded when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_align": ["align"],
        "_annotate": ["annotate"],
        "_domains": ["domains"],
        "_embed": ["embed"],
        "_fill_holes": ["fill_holes"],
        "_predict_expression": ["predict_expression"],
        "_pretrain": ["pretrain"],
        "_query": ["query"],
        "_reconstruct_region": ["reconstruct_region"],
    },
)
