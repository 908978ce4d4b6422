"""Checkpoints that ship with the package, each with its model card."""

from stimage.pretrained._load import known_tissues, load, measures_enough

__all__ = ["known_tissues", "load", "measures_enough"]
