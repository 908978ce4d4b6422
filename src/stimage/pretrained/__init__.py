"""What ships with the package: checkpoints, each with its model card, and which genes vary in known tissues."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from stimage.pretrained._load import known_tissues, load, measures_enough
    from stimage.pretrained._tissues import KnownTissues, RecognisedTissue

# What a name needs is loaded when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_load": ["known_tissues", "load", "measures_enough"],
        "_tissues": ["KnownTissues", "RecognisedTissue"],
    },
)
