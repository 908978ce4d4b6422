"""User-facing models, after the manner of scvi-tools."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from stimage.models._options import TrainingOptions
    from stimage.models._smoothed_pca import SmoothedPCA
    from stimage.models._stalign import STAlign
    from stimage.models._stimage import STImage
    from stimage.models.alignment._image_features import PatchSpec
    from stimage.models.regions._region import RegionResult

# What a name needs is loaded when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "alignment._image_features": ["PatchSpec"],
        "_options": ["TrainingOptions"],
        "_smoothed_pca": ["SmoothedPCA"],
        "_stalign": ["STAlign"],
        "_stimage": ["STImage"],
        "regions._region": ["RegionResult"],
    },
)
