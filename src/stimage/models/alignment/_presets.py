"""What an aligner has where nothing else is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stimage.models.alignment._image_features import PatchSpec
from stimage.modules import AlignerConfig
from stimage.train import AlignmentOptimizerConfig

AlignerPreset = Literal["default", "paper"]


@dataclass(frozen=True)
class AlignerPresetConfig:
    """What a preset decides: the module and its losses, patches, start and optimisation."""

    config: AlignerConfig
    patches: PatchSpec
    spectral_start: bool
    optimizer: AlignmentOptimizerConfig


ALIGNER_PRESETS: dict[str, AlignerPresetConfig] = {
    # The paper's rate, for 1.3 million spots, takes the vectors of a few hundred further from their start than
    # domains can bear.
    "default": AlignerPresetConfig(
        config=AlignerConfig(),
        patches=PatchSpec(),
        spectral_start=True,
        optimizer=AlignmentOptimizerConfig(learning_rate=1e-4),
    ),
    # The temperature is that of the published code.
    "paper": AlignerPresetConfig(
        config=AlignerConfig(weights=(0.4, 0.3, 0.3), dropout=0.1, temperature=0.1),
        patches=PatchSpec(spot_widths=(1.0,), niche_widths=(1.0,)),
        spectral_start=False,
        optimizer=AlignmentOptimizerConfig(learning_rate=5e-4),
    ),
}
