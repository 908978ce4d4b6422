from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from stimage import _validate
from stimage._paths import path_of

FORMATS = (".safetensors", ".pt", ".pth", ".bin", ".torch", ".ckpt", ".pth.tar")
PREFIXES = ("module.", "model.", "backbone.", "encoder.")
"""What training puts before the names of the tensors of a network."""


def read_weights(path: str | Path, *, expected: str, parameter: str = "weights") -> dict[str, Tensor]:
    """Read a state dict from a file that someone else wrote; nothing but tensors is unpickled.

    Parameters
    ----------
    path
        A ``.safetensors`` file, or one that ``torch.save`` wrote: a state dict, or a checkpoint of training with one.
    expected
        The published file that is meant, for messages.
    parameter
        Name of the parameter that the path came from, for messages.

    Returns
    -------
    dict of str to Tensor
        The tensors by name, on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is of another format, truncated, or holds anything but tensors; or several state dicts.
    """
    _validate.check_path(parameter, path)
    path = path_of(path)
    if not path.is_file():
        raise FileNotFoundError(f"`{parameter}`={str(path)!r} is not a file: pass the path of {expected}.")
    if not path.name.endswith(FORMATS):
        raise ValueError(f"`{parameter}`={str(path)!r} ends in none of {_validate.listing(FORMATS)}: pass {expected}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, LookupError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise ValueError(
            f"`{parameter}`={str(path)!r} cannot be read as tensors alone: it is truncated, of another format, or holds "
            f"pickled objects, which are never loaded ({reason}). Pass {expected}."
        ) from error
    if isinstance(state, Mapping) and not _is_state(state):
        inside = {str(key): value for key, value in state.items() if _is_state(value)}
        if len(inside) > 1:
            raise ValueError(
                f"`{parameter}`={str(path)!r} holds several state dicts ({_validate.listing(inside)}): save the one that "
                f"is meant to a file of its own. Needed is {expected}."
            )
        state = next(iter(inside.values()), state)
    if not _is_state(state):
        found = f"a {type(state).__name__}"
        if isinstance(state, Mapping):
            found = f"{type(state).__name__} with {_validate.listing(state, 4)}"
        raise ValueError(
            f"`{parameter}`={str(path)!r} is not a state dict of tensors (found {found}): pass {expected}, or save the "
            "state dict in it to a file of its own."
        )
    return dict(state)


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(part, Tensor) for part in value.values())


def without_prefix(state: Mapping[str, Tensor], own: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Take off what training put before the names of tensors.

    Parameters
    ----------
    state
        Tensors by name.
    own
        Tensors of the network that is meant. Without it, a prefix is taken off only where all names have it; with it, also
        where the names that have it are all of the network's, so that heads beside it are left out.

    Returns
    -------
    dict of str to Tensor
        The tensors.
    """
    state = dict(state)
    for _ in PREFIXES:
        for prefix in PREFIXES:
            inside = {name.removeprefix(prefix): part for name, part in state.items() if name.startswith(prefix)}
            complete = own is not None and inside and set(own) - set(state) and set(own) <= set(inside)
            if inside and (len(inside) == len(state) or complete):
                state = inside
    return state


def load_strictly(
    module: nn.Module, state: Mapping[str, Tensor], *, source: str | Path, expected: str, parameter: str = "weights"
) -> None:
    """Load a state dict whose names and shapes must all be those of the module.

    Parameters
    ----------
    module
        What to load into.
    state
        Tensors by name. The counters of batches that batch normalisation keeps may be missing, as in old files.
    source, expected, parameter
        The file, the published file that is meant, and the parameter that the path came from, for messages.

    Raises
    ------
    ValueError
        If names are missing or unexpected, shapes differ, or values are NaN or infinite.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name}: {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if missing or unexpected or shapes:
        raise ValueError(
            f"`{parameter}`={str(source)!r} does not fit: {len(missing)} tensors are missing "
            f"({_validate.listing(missing, 3)}), {len(unexpected)} are unexpected ({_validate.listing(unexpected, 3)}), "
            f"{len(shapes)} have another shape ({_validate.listing(shapes, 3)}). Pass {expected}."
        )
    bad = [name for name, part in state.items() if part.is_floating_point() and not torch.isfinite(part).all()]
    if bad:
        raise ValueError(
            f"`{parameter}`={str(source)!r} holds NaN or infinite values in {len(bad)} tensors ({_validate.listing(bad, 3)}): "
            f"the file is damaged, or training went wrong. Pass {expected}."
        )
    module.load_state_dict({name: state.get(name, tensor) for name, tensor in own.items()})
