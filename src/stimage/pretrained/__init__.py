"""Checkpoints that ship with the package, each with its model card."""

from stimage.pretrained._load import load, measures_enough

__all__ = ["load", "measures_enough"]
