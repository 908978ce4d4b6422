from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stimage.data.sampling.masking import Masking
from stimage.modules import AutoencoderConfig
from stimage.train import OptimizerConfig

Preset = Literal["default", "paper"]


@dataclass(frozen=True)
class PresetConfig:
    """What a preset decides: sizes, optimisation and what is hidden."""

    autoencoder: AutoencoderConfig
    optimizer: OptimizerConfig
    masking: Masking
    mask_ratio: float
    spectral_start: bool
    target_sum: float
    """Counts per spot before the logarithm."""


PRESETS: dict[str, PresetConfig] = {
    "default": PresetConfig(
        autoencoder=AutoencoderConfig(),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        masking="site",
        mask_ratio=0.75,
        spectral_start=True,
        target_sum=1e3,
    ),
    # The learning rate is not legible in the text available to us; 1e-4 is usual for a model of this size.
    "paper": PresetConfig(
        autoencoder=AutoencoderConfig(
            dim=256,
            n_layers=6,
            n_heads=8,
            dim_feedforward=1024,
            decoder_layers=2,
            decoder_feedforward=512,
            relative_error=False,
        ),
        optimizer=OptimizerConfig(learning_rate=1e-4),
        masking="site",
        mask_ratio=0.3,
        spectral_start=False,
        target_sum=1e4,
    ),
}
