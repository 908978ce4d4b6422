"""Tools: AnnData in, model call, AnnData out."""

from stimage.tl._align import align
from stimage.tl._annotate import annotate
from stimage.tl._domains import domains
from stimage.tl._embed import embed
from stimage.tl._fill_holes import fill_holes
from stimage.tl._predict_expression import predict_expression
from stimage.tl._pretrain import pretrain
from stimage.tl._reconstruct_region import reconstruct_region

__all__ = [
    "align",
    "annotate",
    "domains",
    "embed",
    "fill_holes",
    "predict_expression",
    "pretrain",
    "reconstruct_region",
]
