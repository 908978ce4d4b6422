"""What benchmarks/gpu.py repeats or counts by formula, against where it comes from."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

from stimage.models._presets import PRESETS
from stimage.modules import AutoencoderConfig, MaskedAutoencoder

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def load(name):
    spec = spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def gpu():
    return load("gpu")


def test_presets_are_those_of_the_models(gpu):
    assert gpu.PRESETS == {name: (preset.autoencoder, preset.mask_ratio) for name, preset in PRESETS.items()}


@pytest.mark.parametrize("decoder_layers", [0, 2])
def test_operations_of_a_step(gpu, decoder_layers):
    training_step = load("training_step")
    config = AutoencoderConfig(
        dim=32, n_layers=2, n_heads=4, dim_feedforward=48, decoder_layers=decoder_layers, decoder_feedforward=40
    )
    slides, expression = gpu.simulated(300, 30, 20, torch.device("cpu"))
    spec = gpu.WindowSpec(window=6, n_genes=10, mask_ratio=0.4)
    windows = gpu.DeviceWindows(slides, spec, device="cpu", seed=0, expression=expression)
    module = MaskedAutoencoder(30, config)
    module.site_limits = gpu.site_limits(spec)
    assert module.site_limits == (22, 14)
    with training_step.Products(head_size=8) as products:
        module.loss(windows.batch(range(3))).backward()
    recorded = sum(count * training_step.operations(layouts) for (_, layouts), count in products.counts.items())
    assert gpu.step_operations(config, module.site_limits, 3, 10) == recorded
