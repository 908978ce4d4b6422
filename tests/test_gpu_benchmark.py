"""What benchmarks/gpu.py counts, against products that were recorded one by one."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch
from slides import random_slide

from stimage.data import DeviceWindows, WindowSpec, site_limits
from stimage.modules import AutoencoderConfig, MaskedAutoencoder

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def load(name):
    spec = spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("decoder_layers", [0, 2])
def test_operations_of_a_step(decoder_layers):
    gpu, training_step = load("gpu"), load("training_step")
    config = AutoencoderConfig(
        dim=32, n_layers=2, n_heads=4, dim_feedforward=48, decoder_layers=decoder_layers, decoder_feedforward=40
    )
    spec = WindowSpec(window=6, n_genes=10, mask_ratio=0.4)
    windows = DeviceWindows([random_slide(20, 20, n_genes=30, seed=0)], spec, device="cpu", seed=0)
    module = MaskedAutoencoder(30, config)
    module.site_limits = site_limits(spec)
    batch = windows.batch(range(3))
    # Heads of 8 with 4 numbers for the place of a site: what kernels work with.
    with training_step.Products(head_size=12) as products:
        module.loss(batch).backward()
    module.zero_grad()
    recorded = sum(count * training_step.operations(layouts) for (_, layouts), count in products.counts.items())
    counted = gpu.operations_of_step(module, batch)
    assert counted == recorded
    assert gpu.operations_of_step(module, windows.batch(range(6))) == 2 * counted
    assert all(parameter.grad is None for parameter in module.parameters())


def test_steps_on_a_clock(monkeypatch):
    """Time of a step that is known, whatever the first ones take."""
    gpu = load("gpu")
    now = iter([10.0, 16.0])
    monkeypatch.setattr(gpu.time, "perf_counter", lambda: next(now))

    class Trainer:
        num_training_batches = 5

    clock = gpu.Clock(n_first=2)
    for _ in range(5):
        clock.on_train_batch_end(Trainer())
    assert clock.seconds == pytest.approx(2.0)


def test_simulated_slides_share_no_expression():
    corpus = load("gpu").simulated(500, 20, 14)
    assert sum(slide.n_sites for slide in corpus) >= 500
    assert len({id(slide.expression) for slide in corpus}) == len(corpus) > 1
    assert torch.tensor([slide.active.all() for slide in corpus]).all()
