import numpy as np
import pytest
import torch
from helpers import assert_unchanged

from stimage import datasets, pp
from stimage.models import STImage

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
    assert adapted.optimizer.learning_rate == pytest.approx(trained.optimizer.learning_rate / 3)
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
    before = trained.adapt(other, 1, learning_rate=1e-12, **QUICK).history["train_loss"].iloc[-1, 0]
    after = trained.adapt(other, 20, learning_rate=1e-3, **QUICK).history["train_loss"].iloc[-1, 0]
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
