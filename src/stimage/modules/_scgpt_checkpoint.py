"""scGPT's published checkpoint layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from stimage import _validate
from stimage._paths import path_of
from stimage.modules._weights import read_weights

SPECIAL_TOKENS = ("<pad>", "<cls>", "<eoc>")
# Training and generation need these, the vector of a cell does not.
IGNORED_PREFIXES = (
    "batch_encoder.",
    "cls_decoder.",
    "decoder.",
    "flag_encoder.",
    "grad_reverse_discriminator.",
    "mvc_decoder.",
)
EXPECTED = "the file that args.json and vocab.json came with"

_SIZES = {"dim": "embsize", "n_heads": "nheads", "dim_feedforward": "d_hid", "n_layers": "nlayers"}
_SUPPORTED = {"input_emb_style": "continuous", "pre_norm": False, "pad_token": "<pad>"}


def read_checkpoint(directory: str | Path) -> tuple[dict[str, int], dict[str, Any], dict[str, Tensor], Path]:
    """Read ``args.json``, ``vocab.json`` and the weights of scGPT.

    Parameters
    ----------
    directory
        The folder.

    Returns
    -------
    tuple
        The vocabulary with all special tokens, the other arguments of :class:`stimage.modules.ScGPTEncoder`, its tensors
        with the names of PyTorch's attention, and the file they came from.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If one is damaged, or describes another kind of model.
    """
    _validate.check_path("directory", directory)
    folder = path_of(directory)
    weights = next(
        (folder / name for name in ("model.safetensors", "best_model.pt") if (folder / name).is_file()), None
    )
    missing = [name for name in ("args.json", "vocab.json") if not (folder / name).is_file()]
    missing += [] if weights else ["best_model.pt (or model.safetensors)"]
    if missing:
        raise FileNotFoundError(
            f"`directory`={str(directory)!r} is no scGPT checkpoint, it lacks {_validate.listing(missing)}."
        )
    arguments = _arguments(_read_json(folder / "args.json"))
    vocabulary = _vocabulary(_read_json(folder / "vocab.json"))
    state = read_weights(weights, expected=EXPECTED, parameter="directory")
    return vocabulary, arguments, _own_tensors(state), weights


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`directory`: {str(path)!r} is not JSON ({error}): it is truncated or altered.") from error
    if not isinstance(document, dict):
        raise ValueError(f"`directory`: {str(path)!r} must hold an object, found {type(document).__name__}.")
    return document


def _arguments(document: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the encoder from ``args.json``."""
    sizes = {name: document.get(key) for name, key in _SIZES.items()}
    wrong = [_SIZES[name] for name, size in sizes.items() if not isinstance(size, int) or size < 1]
    if wrong or sizes["dim"] % sizes["n_heads"]:
        found = {key: document.get(key) for key in _SIZES.values()}
        raise ValueError(
            f"`directory`: args.json must give whole numbers for {_validate.listing(_SIZES.values())}, the first a "
            f"multiple of the second, found {found}."
        )
    for key, supported in _SUPPORTED.items():
        if document.get(key, supported) != supported:
            raise ValueError(
                f"`directory`: args.json has {key}={document[key]!r}, only {supported!r} is supported: this is another "
                "kind of scGPT model."
            )
    return {**sizes, "pad_value": float(document.get("pad_value", -2))}


def _vocabulary(document: dict[str, Any]) -> dict[str, int]:
    """The vocabulary with all special tokens."""
    indices = list(document.values())
    if any(type(index) is not int for index in indices) or sorted(indices) != list(range(len(indices))):
        raise ValueError(
            f"`directory`: vocab.json must map {len(document)} names to the whole numbers from 0 to {len(document) - 1}, "
            "each once: it is truncated or altered."
        )
    for token in SPECIAL_TOKENS:
        document.setdefault(token, len(document))
    return document


def _own_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the encoder, with the names of PyTorch's attention."""
    renamed = {}
    for name, tensor in state.items():
        if not name.startswith(IGNORED_PREFIXES):
            # Of flash-attention, the second inside a wrapper that newer versions of scGPT put around it.
            name = name.replace(".self_attn._impl.", ".self_attn.").replace(".self_attn.Wqkv.", ".self_attn.in_proj_")
            renamed[name] = tensor
    return renamed
