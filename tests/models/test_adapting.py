import copy

import numpy as np
import pytest
import torch
from helpers import assert_unchanged

from stimage import datasets, pp
from stimage.data import principal_genes
from stimage.models import STImage
from stimage.models._adapting import turn_genes_to
from stimage.models.embedding._inference import project

QUICK = {"accelerator": "cpu", "enable_progress_bar": False, "batch_size": 8, "windows_per_epoch": 16}


@pytest.fixture(scope="module")
def other():
    adata = datasets.simulate_tissue(n_rows=12, n_cols=12, n_genes=120, n_domains=3, seed=5)
    pp.compact_grid(adata)
    return adata


def weights(model: STImage) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def test_the_model_stays_as_it_is(trained, other):
    before, identity, slides = weights(trained), trained.model_id, trained.manifest["slides"].copy()
    optimizer, history = trained.optimizer, trained.history["train_loss"].copy()
    with assert_unchanged(other):
        adapted = trained.adapt(other, 2, **QUICK)
    assert trained.model_id == identity
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(trained).items())
    assert trained.manifest["slides"].equals(slides)
    assert "adapted_epochs" not in trained.manifest
    assert trained.optimizer == optimizer
    assert trained.history["train_loss"].equals(history)
    assert adapted.model_id != identity
    assert adapted.optimizer == optimizer
    assert len(adapted.history["train_loss"]) == 2


def test_adaptation_is_noted_and_deterministic(trained, other, tmp_path):
    first, again, another = (trained.adapt(other, 1, seed=seed, **QUICK) for seed in (3, 3, 4))
    assert first.model_id == again.model_id != another.model_id
    assert first.manifest["adapted_from"] == trained.model_id
    assert first.manifest["slides"]["counts_sha256"].nunique() == 2
    twice = first.adapt(other, 2, **QUICK)
    assert (twice.manifest["adapted_from"], twice.manifest["adapted_epochs"]) == (first.model_id, 3)
    twice.save(tmp_path)
    assert STImage.load(tmp_path).provenance(other)["adapted_epochs"] == 3


def test_genes_that_are_not_measured_keep_their_embeddings(trained, other):
    missing = np.isin(trained.genes, trained.genes[:20])
    adapted = trained.adapt(other[:, ~other.var_names.isin(trained.genes[:20])].copy(), 1, **QUICK)
    for name in ("genes.embedding", "genes.output_embedding"):
        same = (weights(adapted)[name] == weights(trained)[name]).all(dim=1).numpy()
        np.testing.assert_array_equal(same, missing)


def test_adaptation_fits_the_slide_better(trained, other):
    before = trained.adapt(other, 1, plan_kwargs={"learning_rate": 1e-12}, **QUICK).history["train_loss"].iloc[-1, 0]
    after = trained.adapt(other, 20, plan_kwargs={"learning_rate": 1e-3}, **QUICK).history["train_loss"].iloc[-1, 0]
    assert after < before


def test_a_slide_smaller_than_the_window(trained, other):
    small = other[(other.obs["array_row"] < 4) & (other.obs["array_col"] < 9)].copy()
    pp.compact_grid(small)
    assert max(small.uns["grid"]["slides"].loc["slide", ["n_rows", "n_cols"]]) < trained.spec.window
    adapted = trained.adapt(small, 1, **QUICK)
    assert np.isfinite(adapted.get_latent_representation(small)).all()


def test_bad_options(trained, other):
    with pytest.raises(ValueError, match="`max_epochs` must be at least 1"):
        trained.adapt(other, 0)
    with pytest.raises(ValueError, match="`seed` must be at least 0"):
        trained.adapt(other, 1, seed=-1)


def test_weights_in_half_precision(trained, tissue, tmp_path):
    trained.save(tmp_path / "full")
    trained.save(tmp_path / "half", half_precision=True)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("half", "full")]
    assert sizes[0] < 0.6 * sizes[1]
    loaded = STImage.load(tmp_path / "half")
    assert {tensor.dtype for tensor in weights(loaded).values()} == {torch.float32}
    expected, found = (model.get_latent_representation(tissue, mode="visible") for model in (trained, loaded))
    np.testing.assert_allclose(found, expected, atol=0.02 * expected.std())


def test_tokens_that_start_at_the_axes_of_the_slide_stay():
    adata = datasets.simulate_tissue(n_rows=20, n_cols=20, n_genes=300, seed=1)
    pp.compact_grid(adata)
    model = STImage(adata, window=8, n_pool_genes=200, n_genes=64)
    (slide,) = model.corpus
    before = project(model.module, slide).detach()
    turn_genes_to(model.module, [slide])
    torch.testing.assert_close(project(model.module, slide).detach(), before, rtol=1e-2, atol=1e-2)


def test_tokens_keep_their_orientation(trained, other):
    """Turned axes are closer to the tokens that the model is used to than the axes as they are."""
    corpus = trained._corpus_for(other)
    (slide,) = corpus
    module, fresh = copy.deepcopy(trained.module), copy.deepcopy(trained.module)
    axes, deviation = principal_genes(list(corpus), module.config.dim)
    fresh.genes.start_from_spectrum(torch.from_numpy(axes), torch.from_numpy(deviation))
    turn_genes_to(module, list(corpus))
    old, turned, plain = (project(part, slide).detach() for part in (trained.module, module, fresh))
    assert (turned - old).square().sum() < 0.9 * (plain - old).square().sum()
