from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Pooling = Literal["model", "class", "class+patches", "map"]


@dataclass(frozen=True)
class ImageEncoderConfig:
    """How an image encoder is built, what it wants to see, and where its weights come from.

    What describes the weights (from ``weights`` on, except ``layout`` and ``ignored``) does not change features and is no
    part of ``repr``, which features are kept under.

    Parameters
    ----------
    name
        Name in :data:`IMAGE_ENCODERS`.
    width
        Length of the features.
    architecture
        ``"efficientnet-lite0"``, ``"resnet50"``, ``"conch"``, ``"ctranspath"``, or the name of a model of timm; any name
        with ``build``.
    arguments
        Passed to ``timm.create_model``; ``mlp_layer`` names a class of ``timm.layers``.
    pooling
        ``"model"``: the model gives one vector; ``"class"``: the class token; ``"class+patches"``: the class token
        beside the mean of the patch tokens; ``"map"``: the mean of a feature map.
    input_size
        Side of the square that the model sees, in pixels.
    resize
        Length of the shorter side before the central square is cut out; ``input_size`` when not given.
    mean, std
        Of red, green and blue between 0 and 1, for normalisation.
    layout
        Under which names the file holds its tensors: ``"timm"``, as the network here; ``"dinov2"``: DINOv2's own, or those
        of the transformers library; ``"vit"`` and ``"clip"``: those of the transformers library; ``"open_clip"``, with the
        file's ``open_clip_config.json`` beside it; ``"swin"``: those of timm before 0.9.
    ignored
        Prefixes of tensors in the file that features do not need.
    file_grid
        Whether the file says how many patches its positions are for.
    build
        Makes the network, for encoders of your own. Without ``weights`` and ``hub`` it brings its weights, too.
    weights
        The published file, for those that are not on the Hugging Face hub.
    hub
        ``"owner/name"`` on the Hugging Face hub.
    timm_hub
        Whether timm can load it from there by itself.
    patch_size
        Side of the patches that a transformer divides the square into, in pixels; ``None`` for other networks.
    microns_per_pixel
        Resolution that the encoder was trained at, when its authors name one.
    licence
        Licence of the published weights; ``None`` where we found none.
    commercial
        Whether that licence allows commercial use; ``None`` where we do not know.
    gated
        Whether terms must be accepted where the weights are published; ``None`` where we do not know.

    Examples
    --------
    >>> from stimage.modules import IMAGE_ENCODERS
    >>> uni = IMAGE_ENCODERS["uni"]
    >>> uni.width, uni.input_size, uni.hub
    (1024, 224, 'MahmoodLab/UNI')
    """

    name: str
    width: int
    architecture: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    pooling: Pooling = "model"
    input_size: int = 224
    resize: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    layout: str = "timm"
    ignored: tuple[str, ...] = ()
    file_grid: bool = field(default=False, repr=False)
    build: Callable[[], nn.Module] | None = field(default=None, repr=False)
    weights: str = field(default="", repr=False)
    hub: str = field(default="", repr=False)
    timm_hub: bool = field(default=False, repr=False)
    patch_size: int | None = field(default=None, repr=False)
    microns_per_pixel: float | None = field(default=None, repr=False)
    licence: str | None = field(default=None, repr=False)
    commercial: bool | None = field(default=None, repr=False)
    gated: bool | None = field(default=None, repr=False)

    @property
    def expected_file(self) -> str:
        """The published file in words, for messages."""
        if self.hub:
            file = "its pytorch_model.bin or model.safetensors"
            if self.layout == "open_clip":
                file = "its open_clip_pytorch_model.bin, with open_clip_config.json beside it"
            return f"the weights of {self.hub!r} ({file})" + (f", or {self.weights}" if self.weights else "")
        return self.weights
