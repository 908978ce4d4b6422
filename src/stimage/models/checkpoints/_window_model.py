"""What a checkpoint of a masked autoencoder holds, beside what every model has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from stimage import _validate
from stimage.data import SampleUnit, WindowSpec
from stimage.models._options import check_sample
from stimage.models.checkpoints._config import DamagedError, StoredConfig, accepted
from stimage.models.checkpoints._weights import check_prefixes, check_readout, load_module, tensors_under
from stimage.models.embedding._readout import Readout
from stimage.models.embedding._units import build_module
from stimage.modules import AutoencoderConfig
from stimage.train import OptimizerConfig

LARGEST_WINDOW = 4096
PARTS: Mapping[str, type] = {
    "spec": WindowSpec,
    "unit": SampleUnit,
    "autoencoder": AutoencoderConfig,
    "optimizer": OptimizerConfig,
}
"""Configurations that make a model what it is, beside its weights."""


def tensors_of(module: nn.Module, readout: Readout | None) -> dict[str, torch.Tensor]:
    """All that was learned, by its name in a checkpoint."""
    tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    parts = {} if readout is None else readout.tensors()
    return tensors | {f"readout.{name}": torch.from_numpy(part) for name, part in parts.items()}


def restored(stored: StoredConfig, weights: dict[str, torch.Tensor], n_genes: int) -> dict[str, Any]:
    """Attributes of the model; raise ``DamagedError`` if config and weights are not of one."""
    found: dict[str, Any] = {name: stored.dataclass(name, kind) for name, kind in PARTS.items()}
    found |= {"target_sum": stored.get("target_sum", float), "is_trained": stored.get("is_trained", bool)}
    found |= {"n_tokens_seen": stored.n_tokens_seen(), "history": stored.history()}
    spec, unit, sizes = found["spec"], found["unit"], found["autoencoder"]
    accepted(check_sample, spec, unit)
    accepted(_validate.check_range, "target_sum", found["target_sum"], 0, math.inf)
    if spec.window > LARGEST_WINDOW:
        raise DamagedError(f"`window` must be at most {LARGEST_WINDOW}, found {spec.window}")
    check_prefixes(weights, ("module.", "readout."))
    found["module"] = load_module(
        lambda: build_module(n_genes, sizes, unit),
        tensors_under(weights, "module."),
        n_blocks=sizes.n_layers + sizes.decoder_layers,
        widths=(sizes.dim, sizes.dim_feedforward, sizes.decoder_feedforward if sizes.decoder_layers else 0),
    ).eval()
    readout = tensors_under(weights, "readout.")
    if readout:
        check_readout(readout, n_genes)
    found["readout"] = Readout.from_tensors({name: part.numpy() for name, part in readout.items()}) if readout else None
    return found
