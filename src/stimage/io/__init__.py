"""Readers of what people have: public collections, folders of instruments and AnnData of several conventions."""

from stimage.io._collections import list_slides
from stimage.io._read import read

__all__ = ["list_slides", "read"]
