"""Readers of what people have: public collections, folders of instruments and AnnData of several conventions."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from stimage.io._collections import list_slides
    from stimage.io._read import read

# What a name needs is loaded when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_collections": ["list_slides"],
        "_read": ["read"],
    },
)
