"""User-facing models, after the manner of scvi-tools."""

from stimage.models._image_features import PatchSpec
from stimage.models._region import RegionResult
from stimage.models._stalign import STAlign
from stimage.models._stimage import STImage

__all__ = ["PatchSpec", "RegionResult", "STAlign", "STImage"]
