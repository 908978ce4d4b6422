import math

import lightning
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from stimage.modules import AlignerConfig, AlignmentBatch, SpotNicheAligner
from stimage.train import AlignmentOptimizerConfig, AlignmentPlan
from stimage.train._fit import fit

N_PAIRS = 32
SMALL = {"dim": 16, "n_tokens": 2, "n_fused": 12, "n_layers": 1, "n_heads": 2, "dropout": 0.0}
ALL_LOSSES = {"weights": (0.4, 0.3, 0.3)}
SIZES = {"n_spot_image": 20, "n_niche_image": 20, "n_spot_genes": 30, "n_niche_genes": 30}


@pytest.fixture
def module():
    torch.manual_seed(0)
    return SpotNicheAligner(AlignerConfig(**SMALL, **ALL_LOSSES, learn_temperature=True), **SIZES)


def pairs(*parts):
    """Random pairs: nothing but memory tells which image belongs to which genes."""
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.randn(N_PAIRS, size, generator=generator) for name, size in SIZES.items()}
    return AlignmentBatch(**{name.removeprefix("n_"): value for name, value in values.items()})._replace(
        slide=torch.zeros(N_PAIRS, dtype=torch.long)
    )


def batches(batch, n_batches, batch_size, by_name=False):
    def pick(rows):
        parts = {name: None if part is None else part[rows] for name, part in batch._asdict().items()}
        return parts if by_name else AlignmentBatch(**parts)

    rows = [i % N_PAIRS for i in range(n_batches * batch_size)]
    return DataLoader(rows, batch_size=batch_size, collate_fn=pick)


class Data(lightning.LightningDataModule):
    def __init__(self, batch, *, n_batches, batch_size=16, by_name=False):
        super().__init__()
        self.sizes = (batch, n_batches, batch_size, by_name)

    def train_dataloader(self):
        return batches(*self.sizes)


class RecordingPlan(AlignmentPlan):
    """Notes what the optimiser's groups hold when it has stepped."""

    def configure_optimizers(self):
        parts = super().configure_optimizers()
        self.steps = []
        parts["optimizer"].register_step_post_hook(
            lambda optimizer, *_: self.steps.append([(g["lr"], g["weight_decay"]) for g in optimizer.param_groups])
        )
        return parts


OPTIONS = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False}


@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_schedules_of_a_training(module, warmup):
    config = AlignmentOptimizerConfig(learning_rate=0.02, weight_decay=(0.1, 0.7), warmup=warmup)
    plan = RecordingPlan(module, config, n_steps=40)
    fit(plan, Data(pairs(), n_batches=10), max_epochs=4, check_val_every_n_epoch=None, log_every_n_steps=1, **OPTIONS)
    rates, decays = np.array(plan.steps).transpose(2, 0, 1)
    np.testing.assert_array_equal(rates[:, 0], rates[:, 1])
    n_warmup = round(40 * warmup)
    np.testing.assert_allclose(rates[:n_warmup, 0], 0.02 * np.arange(1, n_warmup + 1) / max(n_warmup, 1))
    progress = np.arange(40 - n_warmup) / (40 - n_warmup)
    np.testing.assert_allclose(rates[n_warmup:, 0], 0.02 * np.cos(np.pi * progress / 2) ** 2)
    assert not decays[:, 1].any()
    np.testing.assert_allclose(decays[:, 0], 0.7 - 0.6 * np.cos(np.pi * np.arange(40) / 80) ** 2)
    assert decays[[0, 20], 0] == pytest.approx([0.1, 0.4])


def test_weight_decay_of_the_paper(module):
    plan = AlignmentPlan(module, AlignmentOptimizerConfig(), n_steps=1000)
    found = [plan.weight_decay_at(step) for step in (0, 250, 500, 1000, 1200)]
    assert found == pytest.approx([0.04, 0.22 - 0.18 * math.sqrt(0.5), 0.22, 0.4, 0.4])


def test_weight_decay_is_for_matrices(module):
    module.niche.fusion.requires_grad_(False)
    groups = (
        AlignmentPlan(module, AlignmentOptimizerConfig(), n_steps=5).configure_optimizers()["optimizer"].param_groups
    )
    decayed, plain = ({id(parameter) for parameter in group["params"]} for group in groups)
    assert [group["decays"] for group in groups] == [True, False]
    names = {name: id(parameter) for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert not decayed & plain
    assert decayed | plain == set(names.values())
    assert not [name for name in names if name.startswith("niche.fusion")]
    # Layer norms are the only weights with one dimension, the temperature has none.
    norms = {f"{name}.weight" for name, part in module.named_modules() if isinstance(part, torch.nn.LayerNorm)}
    without = {name for name in names if name.endswith("bias")} | norms | {"temperature.log_value"}
    assert {name for name, key in names.items() if key in plain} == without


@pytest.mark.parametrize("by_name", [False, True])
def test_losses_and_number_of_spots_are_logged(module, by_name):
    plan = AlignmentPlan(module, AlignmentOptimizerConfig(learning_rate=1e-30), n_steps=6)
    history, n_spots, _ = fit(
        plan,
        Data(pairs(), n_batches=2, by_name=by_name),
        max_epochs=3,
        check_val_every_n_epoch=None,
        log_every_n_steps=1,
        **OPTIONS,
    )
    terms = ("loss", "spot_loss", "niche_loss", "cross_loss")
    assert set(history) == {f"train_{term}" for term in terms}
    assert n_spots == 3 * N_PAIRS
    # Nothing was learned, so that each is the mean over the two halves.
    losses = [module.loss(batch) for batch in batches(pairs(), 2, 16)]
    for term in terms:
        expected = np.mean([half[term].item() for half in losses])
        np.testing.assert_allclose(history[f"train_{term}"].to_numpy().ravel(), expected, rtol=1e-5)


@pytest.mark.parametrize("genes_only", [False, True])
def test_random_pairs_are_learned(module, genes_only):
    data = pairs()
    if genes_only:
        data = data._replace(spot_image=None, niche_image=None)
        torch.manual_seed(0)
        module = SpotNicheAligner(AlignerConfig(**SMALL), n_spot_genes=30, n_niche_genes=30)
    config, n_steps = AlignmentOptimizerConfig(learning_rate=5e-3), 100
    history, *_ = fit(
        AlignmentPlan(module, config, n_steps=n_steps),
        Data(data, n_batches=20, batch_size=N_PAIRS),
        max_epochs=n_steps // 20,
        check_val_every_n_epoch=None,
        log_every_n_steps=20,
        **OPTIONS,
    )
    vectors = module.eval()(data)
    if genes_only:
        compared = [(vectors.spot.gene, vectors.niche.gene)]
    else:
        compared = [(level.image, level.gene) for level in (vectors.spot, vectors.niche)]
        compared.append((vectors.spot.fused, vectors.niche.fused))
    for queries, keys in compared:
        similarity = torch.nn.functional.cosine_similarity(queries[:, None], keys[None], dim=2)
        assert similarity.argmax(dim=1).tolist() == list(range(N_PAIRS))
    assert history["train_loss"].to_numpy()[-1] < 0.5 * history["train_loss"].to_numpy()[0]
