import math

import numpy as np
import pytest
import torch

from stimage.modules import AutoencoderConfig, MaskedAutoencoder
from stimage.train import MaskedTrainingPlan, OptimizerConfig


@pytest.fixture
def module():
    return MaskedAutoencoder(6, AutoencoderConfig(dim=8, n_layers=1, n_heads=2, dim_feedforward=8, decoder_layers=1))


def learning_rates(plan):
    """Learning rate of each step of the training."""
    parts = plan.configure_optimizers()
    optimizer, schedule = parts["optimizer"], parts["lr_scheduler"]["scheduler"]
    assert parts["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in range(plan.n_steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    last = [group["lr"] for group in optimizer.param_groups]
    return np.array(rates), np.array(last)


@pytest.mark.parametrize(("n_steps", "warmup"), [(200, 0.1), (40, 0.5), (50, 0.0), (1, 0.05)])
def test_warm_up_then_cosine_to_zero(module, n_steps, warmup):
    config = OptimizerConfig(learning_rate=0.02, warmup=warmup)
    rates, last = learning_rates(MaskedTrainingPlan(module, config, n_steps=n_steps))
    np.testing.assert_array_equal(rates[:, 0], rates[:, 1])
    rates = rates[:, 0]
    n_warmup = max(round(warmup * n_steps), 1)
    np.testing.assert_allclose(rates[:n_warmup], 0.02 * np.arange(1, n_warmup + 1) / n_warmup)
    progress = np.arange(n_steps - n_warmup) / max(n_steps - n_warmup, 1)
    np.testing.assert_allclose(rates[n_warmup:], [0.02 * (1 + math.cos(math.pi * p)) / 2 for p in progress], atol=1e-12)
    assert rates.max() == pytest.approx(0.02)
    assert 0 < rates.min()
    if n_steps > 1:
        np.testing.assert_allclose(last, 0, atol=1e-12)


def test_weight_decay_is_for_matrices(module):
    groups = (
        MaskedTrainingPlan(module, OptimizerConfig(weight_decay=0.3), n_steps=5)
        .configure_optimizers()["optimizer"]
        .param_groups
    )
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    names = {name: decay.pop(id(parameter)) for name, parameter in module.named_parameters()}
    assert not decay
    decayed = {name for name, value in names.items() if value == 0.3}
    assert set(names.values()) == {0.0, 0.3}
    assert "encoder.blocks.0.attention.projection.weight" in decayed
    assert "genes.output_projection.weight" in decayed
    plain = ("bias", "norm.weight", "embedding", "mask_token", "log_sharpness")
    assert not [name for name in decayed if name.endswith(plain)]
    assert not [name for name in names if name not in decayed and not name.endswith(plain)]


def test_gradient_is_clipped_to_a_norm():
    plan = MaskedTrainingPlan(MaskedAutoencoder(10, AutoencoderConfig(dim=8, n_heads=2)), OptimizerConfig(), n_steps=1)
    for parameter in plan.parameters():
        parameter.grad = torch.ones_like(parameter)
    plan.configure_gradient_clipping(plan.configure_optimizers()["optimizer"], gradient_clip_val=0.5)
    gradient = torch.cat([parameter.grad.flatten() for parameter in plan.parameters()])
    torch.testing.assert_close(gradient, torch.full_like(gradient, 0.5 * len(gradient) ** -0.5))
