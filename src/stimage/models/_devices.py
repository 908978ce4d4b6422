"""Where a model runs: the device that was asked for, and moving modules there and back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from stimage import _validate

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")


def find_device(accelerator: str = "auto", device: int | str = "auto", *modules: nn.Module | None) -> torch.device:
    """The device that was asked for.

    Parameters
    ----------
    accelerator
        ``"auto"``: a GPU if there is one, as in training; or ``"cpu"``, ``"gpu"``, ``"cuda"`` or ``"mps"``.
    device
        Number of the device among those of the accelerator. With ``"auto"`` modules that are on such a device stay there;
        otherwise it is the current one, which is the first unless a training on several devices chose another.
    modules
        What is to run there.

    Returns
    -------
    torch.device
        The device.

    Raises
    ------
    TypeError, ValueError
        If there is no such device. The error says what is available.
    """
    _validate.check_choice("accelerator", accelerator, ACCELERATORS)
    found = available_devices()
    kinds = [name for name in found if name != "cpu"] if accelerator == "gpu" else [accelerator]
    if accelerator != "auto" and not set(kinds) & found.keys():
        raise ValueError(
            f"`accelerator`={accelerator!r}: PyTorch finds no such device here; available: {_validate.listing(found)}. Pass "
            "one of these, or leave it out."
        )
    index = _checked_index(device)
    if index is None:
        for module in modules:
            place = None if module is None else place_of(module)
            if place is not None and (place.type in kinds or (accelerator == "auto" and place.type != "cpu")):
                return place
    kind = next(iter(found)) if accelerator == "auto" else kinds[0]
    if index is not None and index >= len(found[kind]):
        raise ValueError(
            f"`device`={device!r}: there is no {kind!r} device of this number; available: "
            f"{_validate.listing([str(place) for place in found[kind]])}."
        )
    if index is None:
        index = torch.cuda.current_device() if kind == "cuda" else 0
    return found[kind][index]


def available_devices() -> dict[str, list[torch.device]]:
    """Devices of each kind that PyTorch can use here, GPUs first."""
    n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = {
        "cuda": [torch.device("cuda", number) for number in range(n_cuda)],
        "mps": [torch.device("mps")] if torch.backends.mps.is_available() else [],
        "cpu": [torch.device("cpu")],
    }
    return {kind: devices for kind, devices in found.items() if devices}


def trainer_devices(accelerator: str, device: int | str) -> dict[str, Any]:
    """The same choice in the words of Lightning's trainer: one device, or ``"auto"``."""
    on_cpu = find_device(accelerator, device).type == "cpu"
    return {"accelerator": accelerator, "devices": "auto" if on_cpu or device == "auto" else [int(device)]}


@contextmanager
def on_device(device: torch.device, *modules: nn.Module | None) -> Iterator[None]:
    """Run modules on a device, without gradients; afterwards they are where they were, after an error too.

    On CUDA matrix products are in bfloat16, where the GPU computes with it; elsewhere nothing is rounded. What is on the
    device already is not moved, so that calls within a call cost nothing.

    Parameters
    ----------
    device
        The device, see :func:`find_device`.
    modules
        The modules; one may come several times, and those that there are not are ``None``.
    """
    moved: list[tuple[nn.Module, torch.device]] = []
    try:
        # Parameters that are moved must not become tensors that can never be trained again.
        with torch.inference_mode(False):
            for module in modules:
                place = None if module is None else place_of(module)
                if place is not None and place != device:
                    moved.append((module, place))
                    module.to(device)
        with torch.inference_mode(), _half_precision(device):
            yield
    finally:
        with torch.inference_mode(False):
            for module, place in moved:
                module.to(place)


def is_half_precision(device: torch.device) -> bool:
    """Whether matrix products on a device are in 16 bits now."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


@contextmanager
def _half_precision(device: torch.device) -> Iterator[None]:
    """bfloat16 for matrix products on CUDA devices that have it; elsewhere things stay as they are."""
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        with torch.autocast("cuda", torch.bfloat16):
            yield
    else:
        yield


def place_of(module: nn.Module) -> torch.device | None:
    """The device of a module; ``None`` for one without parameters."""
    first = next(module.parameters(), None)
    return None if first is None else first.device


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """Values of a tensor on any device, in single precision: numpy has no bfloat16."""
    return tensor.float().cpu().numpy()


def _checked_index(device: int | str) -> int | None:
    """Number of a device, ``None`` for ``"auto"``; raise for anything else."""
    if isinstance(device, str):
        if device == "auto":
            return None
        if not (device.isascii() and device.isdigit()):
            raise ValueError(f"`device` must be 'auto' or the number of a device, found {device!r}.")
        return int(device)
    _validate.check_positive("device", device, smallest=0)
    return int(device)
