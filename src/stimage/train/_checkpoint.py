from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError

from stimage._files import sha256_of, written_whole
from stimage._paths import path_of

if TYPE_CHECKING:
    import torch

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
FORMAT_VERSION = 1


def save_checkpoint(
    directory: str | Path,
    *,
    kind: str,
    weights: dict[str, torch.Tensor] | dict[str, np.ndarray],
    config: dict[str, Any],
) -> None:
    """Write a model as safetensors and JSON; nothing is pickled.

    Each file is written under a temporary name and moved into place, the JSON last: it holds the checksum of the
    weights, so that a directory is either whole or refused.

    Parameters
    ----------
    directory
        Where to write; made when absent.
    kind
        Name of the model class.
    weights
        State dict, or arrays of a model that needs no torch.
    config
        JSON-compatible description of the model.

    Examples
    --------
    >>> import tempfile, torch
    >>> from stimage.train import load_checkpoint, save_checkpoint
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     save_checkpoint(directory, kind="Example", weights={"w": torch.ones(2)}, config={"genes": ["A", "B"]})
    ...     weights, config = load_checkpoint(directory, kind="Example")
    >>> weights["w"], config["genes"]
    (tensor([1., 1.]), ['A', 'B'])
    """
    directory = path_of(directory)
    directory.mkdir(parents=True, exist_ok=True)
    with written_whole(directory / WEIGHTS, directory / CONFIG) as (weights_file, config_file):
        _write_weights(weights, weights_file)
        document = {
            "kind": kind,
            "format_version": FORMAT_VERSION,
            "weights_sha256": sha256_of(weights_file),
            **config,
        }
        config_file.write_text(json.dumps(document, indent=1, sort_keys=True))
        # safetensors writes files that only their owner can read, whatever the user's settings are.
        shutil.copymode(config_file, weights_file)


def load_checkpoint(
    directory: str | Path, *, kind: str, arrays: bool = False
) -> tuple[dict[str, torch.Tensor] | dict[str, np.ndarray], dict[str, Any]]:
    """Read what :func:`save_checkpoint` wrote.

    Parameters
    ----------
    directory
        The checkpoint.
    kind
        Name of the model class that it must be of.
    arrays
        Read weights as arrays of numpy, without torch.

    Returns
    -------
    tuple
        Weights and config.

    Raises
    ------
    FileNotFoundError
        If the directory has no checkpoint.
    ValueError
        If it is of another kind or a newer version, truncated or altered.

    Examples
    --------
    >>> from stimage.train import load_checkpoint
    >>> load_checkpoint("nowhere", kind="STImage")
    Traceback (most recent call last):
    FileNotFoundError: No checkpoint in 'nowhere': it has no config.json.
    """
    directory = path_of(directory)
    for name in (CONFIG, WEIGHTS):
        if not (directory / name).is_file():
            raise FileNotFoundError(f"No checkpoint in {str(directory)!r}: it has no {name}.")
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Checkpoint {str(directory)!r} is damaged: {CONFIG} is not JSON ({error}).") from error
    if not isinstance(config, dict) or config.get("kind") != kind:
        found = config.get("kind") if isinstance(config, dict) else type(config).__name__
        raise ValueError(
            f"Checkpoint {str(directory)!r} is of kind {found!r:.50}, not {kind!r}: load it with that class."
        )
    if config.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"Checkpoint {str(directory)!r} has format version {config.get('format_version')!r:.50}, this version of "
            f"stimage reads {FORMAT_VERSION}: update stimage."
        )
    if sha256_of(directory / WEIGHTS) != config.get("weights_sha256"):
        raise ValueError(
            f"Checkpoint {str(directory)!r} is truncated or altered: the checksum of {WEIGHTS} does not match {CONFIG}."
        )
    try:
        if arrays:
            from safetensors.numpy import load_file
        else:
            from safetensors.torch import load_file
        return load_file(directory / WEIGHTS), config
    except SafetensorError as error:
        raise ValueError(f"Checkpoint {str(directory)!r} is damaged: {WEIGHTS} cannot be read ({error}).") from error


def _write_weights(weights: dict[str, torch.Tensor] | dict[str, np.ndarray], path: Path) -> None:
    if all(isinstance(value, np.ndarray) for value in weights.values()):
        from safetensors.numpy import save_file

        save_file({name: np.ascontiguousarray(array) for name, array in weights.items()}, path)
        return
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, path)
