"""Published image encoders: what each file holds and how its patches are prepared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_BIOPTIMUS = {"mean": (0.707223, 0.578729, 0.703617), "std": (0.211883, 0.230117, 0.177517)}
_HIBOU = {"mean": (0.7068, 0.5755, 0.722), "std": (0.195, 0.2316, 0.1816)}
_VIT = {"num_classes": 0, "img_size": 224, "dynamic_img_size": True}
_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}


@dataclass(frozen=True)
class ImageEncoderConfig:
    """How an image encoder is built, what it wants to see, and where its weights come from.

    Parameters
    ----------
    name
        Name in :data:`IMAGE_ENCODERS`.
    width
        Length of the features.
    architecture
        ``"efficientnet-lite0"``, ``"resnet50"``, ``"conch"``, or the name of a model of timm.
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
    weights
        The published file, for those that are not on the Hugging Face hub.
    hub
        ``"owner/name"`` on the Hugging Face hub.
    timm_hub
        Whether timm can load it from there by itself.
    layout
        ``"dinov2"``: the tensors of the file have DINOv2's names, or those of the transformers library.
    ignored
        Prefixes of tensors in the file that features do not need.
    microns_per_pixel
        Resolution that the encoder was trained at, when its authors name one.
    licence
        Licence of the published weights.

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
    pooling: Literal["model", "class", "class+patches", "map"] = "model"
    input_size: int = 224
    resize: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    weights: str = ""
    hub: str = ""
    timm_hub: bool = False
    layout: Literal["timm", "dinov2"] = "timm"
    ignored: tuple[str, ...] = ()
    microns_per_pixel: float | None = None
    licence: str = ""

    @property
    def expected_file(self) -> str:
        """The published file in words, for messages."""
        if self.hub:
            return f"the weights of {self.hub!r} (its pytorch_model.bin or model.safetensors)"
        return self.weights


_CONFIGS = (
    # The weights were converted from TensorFlow's, which were trained on (pixel - 127) / 128. On natural images that fits
    # the running statistics of the first layer; the ImageNet normalisation that the package's readme shows does not.
    ImageEncoderConfig(
        "efficientnet_lite0",
        1280,
        "efficientnet-lite0",
        pooling="map",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        weights="efficientnet-lite0-57934424.pth",
        ignored=("_fc.",),
        licence="Apache-2.0",
    ),
    ImageEncoderConfig(
        "resnet50", 2048, "resnet50", weights="a state dict of ResNet-50 with torchvision's names", ignored=("fc.",)
    ),
    ImageEncoderConfig(
        "uni",
        1024,
        "vit_large_patch16_224",
        {**_VIT, "init_values": 1e-5},
        hub="MahmoodLab/UNI",
        timm_hub=True,
        microns_per_pixel=0.5,
        licence="CC-BY-NC-ND-4.0",
    ),
    ImageEncoderConfig(
        "uni2-h",
        1536,
        "vit_giant_patch14_224",
        {
            **_VIT,
            **_SWIGLU,
            "depth": 24,
            "num_heads": 24,
            "embed_dim": 1536,
            "init_values": 1e-5,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "reg_tokens": 8,
        },
        hub="MahmoodLab/UNI2-h",
        timm_hub=True,
        licence="CC-BY-NC-ND-4.0",
    ),
    ImageEncoderConfig(
        "prov-gigapath",
        1536,
        "vit_giant_patch14_dinov2",
        {**_VIT, "patch_size": 16, "embed_dim": 1536, "depth": 40, "num_heads": 24, "mlp_ratio": 5.33334},
        resize=256,
        hub="prov-gigapath/prov-gigapath",
        timm_hub=True,
        microns_per_pixel=0.5,
        licence="Apache-2.0",
    ),
    *(
        ImageEncoderConfig(
            name.lower(),
            1536,
            "vit_giant_patch14_reg4_dinov2",
            {**_VIT, "global_pool": "token", "init_values": 1e-5},
            **_BIOPTIMUS,
            hub=f"bioptimus/{name}",
            timm_hub=True,
            microns_per_pixel=0.5,
            licence=licence,
        )
        for name, licence in (("H-optimus-0", "Apache-2.0"), ("H-optimus-1", "CC-BY-NC-ND-4.0"))
    ),
    *(
        ImageEncoderConfig(
            name.lower(),
            2560,
            "vit_huge_patch14_224",
            {**_VIT, **_SWIGLU, "init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "", **extra},
            pooling="class+patches",
            hub=f"paige-ai/{name}",
            timm_hub=True,
            microns_per_pixel=microns_per_pixel,
            licence=licence,
        )
        for name, extra, microns_per_pixel, licence in (
            ("Virchow", {}, 0.5, "Apache-2.0"),
            ("Virchow2", {"reg_tokens": 4}, None, "CC-BY-NC-ND-4.0"),
        )
    ),
    # 86 million parameters at width 768 leave only the hidden layers of DINOv2's gated feed-forward: 5.33334 x 768.
    ImageEncoderConfig(
        "h0-mini",
        768,
        "vit_base_patch14_reg4_dinov2",
        {**_VIT, **_SWIGLU, "init_values": 1e-5, "mlp_ratio": 5.33334, "global_pool": ""},
        pooling="class",
        **_BIOPTIMUS,
        hub="bioptimus/H0-mini",
        timm_hub=True,
        microns_per_pixel=0.5,
        licence="CC-BY-NC-ND-4.0",
    ),
    *(
        ImageEncoderConfig(
            f"hibou-{size.lower()}",
            width,
            architecture,
            {**_VIT, **_SWIGLU, "mlp_ratio": hidden / width},
            **_HIBOU,
            hub=f"histai/hibou-{size}",
            layout="dinov2",
            licence="Apache-2.0",
        )
        for size, width, architecture, hidden in (
            ("b", 768, "vit_base_patch14_reg4_dinov2", 4096),
            ("L", 1024, "vit_large_patch14_reg4_dinov2", 5472),
        )
    ),
    ImageEncoderConfig(
        "conch",
        512,
        "conch",
        {"num_classes": 0, "img_size": 448, "dynamic_img_size": True},
        input_size=448,
        **_CLIP,
        hub="MahmoodLab/CONCH",
        ignored=(
            "text.",
            "text_decoder.",
            "logit_scale",
            "visual.proj_contrast",
            "visual.attn_pool_caption.",
            "visual.ln_caption.",
        ),
        licence="CC-BY-NC-ND-4.0",
    ),
)

IMAGE_ENCODERS: dict[str, ImageEncoderConfig] = {config.name: config for config in _CONFIGS}
"""Known image encoders by name; ``"timm:<model>"`` names any other model of timm."""
