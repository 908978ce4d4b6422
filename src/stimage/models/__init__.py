"""User-facing models, after the manner of scvi-tools."""

from stimage.models._region import RegionResult
from stimage.models._stimage import STImage

__all__ = ["RegionResult", "STImage"]
