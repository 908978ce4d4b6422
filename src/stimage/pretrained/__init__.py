"""Checkpoints that ship with the package, each with its model card."""

from stimage.pretrained._load import load

__all__ = ["load"]
