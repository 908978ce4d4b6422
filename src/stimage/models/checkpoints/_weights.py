"""Reading the tensors of a checkpoint: those that its config calls for, before anything of their size is built."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from stimage import _validate
from stimage.models.embedding._codes import N_CLUSTERS, N_STARTS


def tensors_under(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def check_prefixes(weights: Iterable[str], prefixes: tuple[str, ...]) -> None:
    """Raise ``ValueError`` for tensors that belong to none of the parts of a model."""
    others = [name for name in weights if not name.startswith(prefixes)]
    if others:
        raise ValueError(f"there are tensors that no part of the model has ({_short(others)})")


def load_module(build: Callable[[], nn.Module], weights: dict[str, Tensor], *, n_blocks: int) -> nn.Module:
    """Build a module and load its weights.

    Parameters
    ----------
    build
        Builds the module as the config describes it.
    weights
        Its state dict.
    n_blocks
        Transformer blocks that the config asks for.

    Returns
    -------
    torch.nn.Module
        The module.

    Raises
    ------
    ValueError
        If names, shapes or types differ, or values are not finite.
    """
    # A config may ask for more than there is memory, or time to build it: it is compared with the file first.
    if n_blocks > len(weights):
        raise ValueError(f"the config asks for {n_blocks} transformer blocks, and there are {len(weights)} tensors")
    with torch.device("meta"):
        expected = build().state_dict()
    check_tensors(expected, weights)
    with torch.random.fork_rng(devices=[]):
        module = build()
    module.load_state_dict(weights)
    return module


def check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` unless tensors have the names, shapes and types that are expected, and finite values."""
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or unexpected:
        raise ValueError(
            f"{len(missing)} tensors are missing ({_short(missing)}), {len(unexpected)} are unexpected ({_short(unexpected)})"
        )
    for name, tensor in found.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape:
            raise ValueError(f"tensor {name!r:.80} has shape {tuple(tensor.shape)} instead of {tuple(wanted.shape)}")
        half = wanted.dtype == torch.float32 and tensor.dtype == torch.float16
        if tensor.dtype != wanted.dtype and not half:
            raise ValueError(f"tensor {name!r:.80} has type {tensor.dtype} instead of {wanted.dtype}")
        if not tensor.isfinite().all():
            raise ValueError(f"tensor {name!r:.80} has NaN or infinite values")


def of_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors without values, to compare others with."""
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def check_readout(tensors: Mapping[str, Tensor], dim: int) -> None:
    """Raise ``ValueError`` unless tensors are a readout of a model whose vectors have ``dim`` entries."""
    n_components, n_codes, total = len(tensors["codes.vectors.axes"]), len(tensors["codes.codes.axes"]), 0
    shapes: dict[str, tuple[int, ...]] = {"scale": (1,)}
    shapes |= {"codes.vectors.mean": (dim,), "codes.vectors.axes": (n_components, dim)}
    for mixture in (f"codes.{n_clusters}.{start}" for n_clusters in N_CLUSTERS for start in range(N_STARTS)):
        n_found = len(tensors[f"{mixture}.means"])
        shapes[f"{mixture}.whitening"] = (n_components, n_components)
        shapes |= {f"{mixture}.means": (n_found, n_components), f"{mixture}.log_weights": (n_found,)}
        total += n_found
    shapes |= {"codes.codes.mean": (total,), "codes.codes.axes": (n_codes, total)}
    empty = [name for name, shape in shapes.items() if 0 in shape]
    if empty:
        raise ValueError(f"{len(empty)} tensors of the readout are empty ({_short(empty)})")
    check_tensors(of_shapes(shapes), tensors)
    if tensors["scale"] <= 0:
        raise ValueError("the readout has a scale that is not above 0")


def _short(names: list[str]) -> str:
    return _validate.listing((name[:80] for name in names), 3)


def tensors_id(tensors: Mapping[str, Tensor], description: str = "") -> str:
    """Hash of tensors, their names and what they belong to, 16 hexadecimal digits."""
    digest = hashlib.sha256(description.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
