from __future__ import annotations

from typing import TYPE_CHECKING

from stimage import _validate
from stimage.modules._image_encoder_configs import ImageEncoderConfig
from stimage.modules._image_encoders._layouts import LAYOUTS
from stimage.modules._image_encoders._published import PUBLISHED
from stimage.modules._image_encoders._published_clip import PUBLISHED_CLIP

if TYPE_CHECKING:
    import pandas as pd

TIMM = "timm:"

IMAGE_ENCODERS: dict[str, ImageEncoderConfig] = {config.name: config for config in (*PUBLISHED, *PUBLISHED_CLIP)}
"""Known image encoders by name; ``"timm:<model>"`` names any other model of timm."""

_COLUMNS = (
    "width",
    "input_size",
    "patch_size",
    "microns_per_pixel",
    "mean",
    "std",
    "licence",
    "commercial",
    "gated",
    "allow_download",
    "weights",
)


def image_encoders() -> pd.DataFrame:
    """What is known of each image encoder that can be loaded by name.

    Returns
    -------
    pandas.DataFrame
        A row for each name in :data:`IMAGE_ENCODERS`: ``width`` of the features; ``input_size``, side of the square that it
        sees, and ``patch_size``, of the patches that a transformer divides it into, in pixels; ``microns_per_pixel`` that it
        was trained at; ``mean`` and ``std`` of its normalisation; ``licence`` of the published weights, whether it allows
        ``commercial`` use and whether weights are ``gated``; whether ``allow_download=True`` can fetch them; and which file
        the ``weights`` are. What is not known is ``None``.

    Examples
    --------
    >>> from stimage.modules import image_encoders
    >>> image_encoders().loc["uni", ["width", "patch_size", "licence", "commercial"]].tolist()
    [1024, 16, 'CC-BY-NC-ND-4.0', False]
    """
    import pandas as pd

    rows = []
    for config in IMAGE_ENCODERS.values():
        facts = {"allow_download": config.timm_hub, "weights": config.expected_file or None}
        rows.append([facts[column] if column in facts else getattr(config, column) for column in _COLUMNS])
    return pd.DataFrame(rows, index=pd.Index(IMAGE_ENCODERS, name="name"), columns=_COLUMNS, dtype=object)


def register_image_encoder(config: ImageEncoderConfig, *, overwrite: bool = False) -> None:
    """Add an image encoder of your own to those that can be loaded by name.

    Parameters
    ----------
    config
        How it is built and what it wants to see, with ``build`` where it is no model of timm. The name holds in this
        process: register it again before loading an aligner that was trained with it.
    overwrite
        Replace the encoder of this name.

    Raises
    ------
    TypeError
        If ``config`` is something else.
    ValueError
        If the name is taken or cannot be one, or a part of the configuration cannot be right.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from stimage.modules import ImageEncoderConfig, load_image_encoder, register_image_encoder
    >>> def build():
    ...     torch.manual_seed(0)
    ...     return nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> register_image_encoder(ImageEncoderConfig("mine", 8, "two layers", build=build, input_size=32), overwrite=True)
    >>> load_image_encoder("mine")(torch.zeros(2, 50, 50, 3, dtype=torch.uint8)).shape
    torch.Size([2, 8])
    """
    if not isinstance(config, ImageEncoderConfig):
        raise TypeError(f"`config` must be a stimage.modules.ImageEncoderConfig, found {type(config).__name__}.")
    _validate.check_text("config.name", config.name)
    if config.name.startswith(TIMM):
        raise ValueError(f"`config.name`={config.name!r}: names that start with {TIMM!r} are models of timm.")
    if config.name in IMAGE_ENCODERS and not overwrite:
        raise ValueError(f"`config.name`={config.name!r} is taken: choose another, or pass `overwrite=True`.")
    _validate.check_positive("config.width", config.width)
    _validate.check_positive("config.input_size", config.input_size)
    _validate.check_choice("config.layout", config.layout, tuple(LAYOUTS))
    for name in ("mean", "std"):
        values = getattr(config, name)
        if len(values) != 3 or (name == "std" and min(values) <= 0):
            raise ValueError(f"`config.{name}` must be three numbers, those of `std` above 0, found {values!r}.")
    IMAGE_ENCODERS[config.name] = config
