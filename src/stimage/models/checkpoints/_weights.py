"""Reading the tensors of a checkpoint: those that its config calls for, before anything of their size is built."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from stimage import _validate
from stimage.models.checkpoints._config import DamagedError
from stimage.models.embedding._codes import N_CLUSTERS, N_STARTS

if TYPE_CHECKING:
    from torch import Tensor, nn

    Tensors = Mapping[str, Tensor] | Mapping[str, np.ndarray]


_LARGEST_FACTOR = 10
"""Of the widths of a readout; more than a fit chooses."""


def stored_tensors(tensors: Mapping[str, Any], *, half_precision: bool) -> dict[str, Any]:
    """Tensors as they are written: in half precision what belongs to a trained module."""
    halved = {name: tensor.half() for name, tensor in tensors.items() if half_precision and name.startswith("module.")}
    if half_precision and not halved:
        raise ValueError("`half_precision` is for weights that were trained, and this model has none: leave it out.")
    if not all(tensor.isfinite().all() for tensor in halved.values()):
        raise ValueError("`half_precision` holds numbers up to 65504, and some weights are larger: leave it out.")
    return {**tensors, **halved}


def loaded_tensors(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Stored tensors as a model has them that was loaded: in single precision again."""
    return {
        name: tensor.float() if _dtype_name(tensor.dtype) == "float16" else tensor for name, tensor in tensors.items()
    }


def tensors_under(weights: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def check_prefixes(weights: Iterable[str], prefixes: tuple[str, ...]) -> None:
    """Raise ``DamagedError`` for tensors that belong to none of the parts of a model."""
    others = [name for name in weights if not name.startswith(prefixes)]
    if others:
        raise DamagedError(f"there are tensors that no part of the model has ({_short(others)})")


def load_module(
    build: Callable[[], nn.Module], weights: dict[str, Tensor], *, n_blocks: int, widths: Iterable[int]
) -> nn.Module:
    """Build a module and load its weights.

    Parameters
    ----------
    build
        Builds the module as the config describes it.
    weights
        Its state dict.
    n_blocks
        Transformer blocks that the config asks for.
    widths
        Widths of layers that it asks for.

    Returns
    -------
    torch.nn.Module
        The module.

    Raises
    ------
    DamagedError
        If names, shapes or types differ, or values are not finite.
    """
    import torch

    # A config may ask for more than there is memory, or time to build it: it is compared with the file first.
    if n_blocks > len(weights):
        raise DamagedError(f"the config asks for {n_blocks} transformer blocks, and there are {len(weights)} tensors")
    n_values, widest = sum(tensor.numel() for tensor in weights.values()), max(widths)
    if widest > n_values:
        raise DamagedError(f"the config asks for layers {widest} wide, and there are {n_values} weights")
    with torch.device("meta"):
        expected = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in build().state_dict().items()}
    _check_names(expected, weights)
    for name, (shape, dtype) in expected.items():
        check_tensor(name, weights[name], shape, _dtype_name(dtype))
    with torch.random.fork_rng(devices=[]):
        module = build()
    module.load_state_dict(weights)
    return module


def check_shapes(shapes: Mapping[str, tuple[int, ...]], found: Tensors) -> None:
    """Raise ``DamagedError`` unless there are these tensors and no others, of single precision and finite."""
    _check_names(shapes, found)
    for name, shape in shapes.items():
        check_tensor(name, found[name], shape)


def check_tensor(name: str, tensor: Tensor | np.ndarray, shape: tuple[int, ...], dtype: str = "float32") -> None:
    """Raise ``DamagedError`` unless a tensor has a shape, a type and finite values; float16 may stand for float32."""
    if tuple(tensor.shape) != shape:
        raise DamagedError(f"tensor {name!r:.80} has shape {tuple(tensor.shape)} instead of {shape}")
    found = _dtype_name(tensor.dtype)
    if found != dtype and (found, dtype) != ("float16", "float32"):
        raise DamagedError(f"tensor {name!r:.80} has type {found} instead of {dtype}")
    finite = np.isfinite(tensor) if isinstance(tensor, np.ndarray) else tensor.isfinite()
    if not finite.all():
        raise DamagedError(f"tensor {name!r:.80} has NaN or infinite values")


def length(tensors: Tensors, name: str, axis: int = 0, *, ndim: int = 2) -> int:
    """Length of an axis of a tensor that says how large others must be."""
    if name not in tensors:
        raise DamagedError(f"1 tensors are missing ({name!r:.80})")
    if tensors[name].ndim != ndim:
        raise DamagedError(f"tensor {name!r:.80} has shape {tuple(tensors[name].shape)} instead of {ndim} axes")
    return int(tensors[name].shape[axis])


def code_shapes(tensors: Tensors, prefix: str, dim: int) -> dict[str, tuple[int, ...]]:
    """Shapes of niche codes of vectors with ``dim`` entries; raise ``DamagedError`` where they have no entries."""
    n_components, n_codes = (length(tensors, f"{prefix}{name}.axes") for name in ("vectors", "codes"))
    shapes: dict[str, tuple[int, ...]] = {}
    shapes |= {f"{prefix}vectors.mean": (dim,), f"{prefix}vectors.axes": (n_components, dim)}
    total = 0
    for mixture in (f"{prefix}{n_clusters}.{start}" for n_clusters in N_CLUSTERS for start in range(N_STARTS)):
        n_found = length(tensors, f"{mixture}.means")
        shapes[f"{mixture}.whitening"] = (n_components, n_components)
        shapes |= {f"{mixture}.means": (n_found, n_components), f"{mixture}.log_weights": (n_found,)}
        total += n_found
    shapes |= {f"{prefix}codes.mean": (total,), f"{prefix}codes.axes": (n_codes, total)}
    empty = [name for name, shape in shapes.items() if not prod(shape)]
    if empty:
        raise DamagedError(f"{len(empty)} tensors of the niche codes are empty ({_short(empty)})")
    return shapes


def check_readout(tensors: Tensors, n_genes: int) -> None:
    """Raise ``DamagedError`` unless tensors are a readout of expression of so many genes."""
    n_components = length(tensors, "axes", axis=1)
    shapes = {"axes": (n_genes, n_components), "scales": (2,)}
    shapes |= {"width_factor": (1,)} if "width_factor" in tensors else {}
    check_shapes({**shapes, **code_shapes(tensors, "codes.", n_components)}, tensors)
    if not (tensors["scales"] > 0).all():
        raise DamagedError("a scale of the readout is not above 0")
    if "width_factor" in tensors and not 1 <= tensors["width_factor"][0] <= _LARGEST_FACTOR:
        raise DamagedError("the width factor of the readout is out of range")


def _check_names(expected: Iterable[str], found: Iterable[str]) -> None:
    missing, unexpected = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    if missing or unexpected:
        raise DamagedError(
            f"{len(missing)} tensors are missing ({_short(missing)}), {len(unexpected)} are unexpected ({_short(unexpected)})"
        )


def _dtype_name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _short(names: list[str]) -> str:
    return _validate.listing((name[:80] for name in names), 3)


def tensors_id(tensors: Tensors, description: str = "") -> str:
    """Hash of tensors, their names and what they belong to, 16 hexadecimal digits."""
    digest = hashlib.sha256(description.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        array = tensor if isinstance(tensor, np.ndarray) else tensor.detach().cpu().numpy()
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]
