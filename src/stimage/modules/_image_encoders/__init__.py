"""Image encoders: what is published, how it is built, and how weights are read."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from stimage.modules._image_encoders._encoder import ImageEncoder
    from stimage.modules._image_encoders._load import load_image_encoder
    from stimage.modules._image_encoders._registry import IMAGE_ENCODERS, image_encoders, register_image_encoder

# What a name needs is loaded when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_encoder": ["ImageEncoder"],
        "_load": ["load_image_encoder"],
        "_registry": ["IMAGE_ENCODERS", "image_encoders", "register_image_encoder"],
    },
)
