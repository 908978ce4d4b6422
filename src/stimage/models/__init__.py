"""User-facing models, after the manner of scvi-tools."""

from stimage.models._stimage import STImage

__all__ = ["STImage"]
