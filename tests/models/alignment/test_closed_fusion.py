"""Fused vectors where no cross-scale loss trains a fusion: in closed form."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from checkpoints import edit_config
from safetensors.torch import load_file
from stained import TINY, aligner_of, tiny_encoder

from stimage.models import STAlign
from stimage.models.alignment._expression_head import PENALTIES
from stimage.modules import AlignerConfig

CLOSED = replace(TINY, weights=AlignerConfig().weights)


@pytest.fixture(scope="module")
def closed(stained_once):
    return aligner_of(stained_once, config=CLOSED)


@pytest.fixture(scope="module")
def stained_once():
    from stained import prepared, stained_tissue

    return prepared(stained_tissue())


def log_expression(adata, genes):
    """log1p of counts per 10,000, less its mean."""
    counts = adata.X.toarray().astype(np.float64)
    values = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))[:, adata.var_names.get_indexer(genes)]
    return values - values.mean(axis=0)


def ridge(inputs, targets, penalty):
    """What a ridge regression predicts, less its mean; penalties in mean variances of an input for all spots together."""
    x = inputs.astype(np.float64) - inputs.mean(axis=0)
    strength = penalty * (x**2).sum() / x.shape[1]
    return x @ np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ targets)


def test_written_out(closed, stained_once):
    """Principal components of spots and niches by a decomposition, and a ridge regression of them on the image."""
    expression = log_expression(stained_once, closed.genes)
    members = stained_once.obsp["niche_connectivities"].toarray() > 0
    niches = np.array([expression[of_niche].mean(axis=0) for of_niche in members])
    _, singular, axes = np.linalg.svd(expression, full_matrices=False)
    axes = axes[:16].T / np.sqrt((singular[:16] ** 2).mean() / len(expression))
    (slide,) = closed.paired.slides
    found = closed.get_latent_representation()
    assert found.dtype == np.float32
    assert found.shape == (stained_once.n_obs, 4 * 16)
    blocks = np.split(found.astype(np.float64), 4, axis=1)
    for values, image, (predicted, components) in zip(
        (expression, niches), (slide.spot_image, slide.niche_image), (blocks[:2], blocks[2:]), strict=True
    ):
        expected = values @ axes
        sign = np.sign((expected * components).sum(axis=0))
        np.testing.assert_allclose(components * sign, expected, atol=2e-3 * np.abs(expected).max())
        centred = predicted - predicted.mean(axis=0)
        errors = [np.abs(ridge(image, components, penalty) - centred).max() for penalty in PENALTIES]
        assert min(errors) < 1e-3 * np.abs(centred).max()


def test_training_changes_what_is_compared_and_not_what_is_fused(closed, stained_once):
    longer = aligner_of(stained_once, config=CLOSED, training={"max_epochs": 4, "plan_kwargs": {"learning_rate": 1e-2}})
    for modality in ("image", "gene"):
        first, second = (one.get_latent_representation(modality=modality) for one in (closed, longer))
        assert np.abs(first - second).max() > 1e-2
    np.testing.assert_array_equal(closed.get_latent_representation(), longer.get_latent_representation())


def test_levels_and_other_slides(closed, stained_once):
    spot, niche, both = (
        closed.get_latent_representation(stained_once, level=level) for level in ("spot", "niche", "both")
    )
    np.testing.assert_array_equal(both, np.hstack([spot, niche]))
    np.testing.assert_array_equal(both, closed.get_latent_representation(modality="fused"))
    order = np.random.default_rng(0).permutation(stained_once.n_obs)
    found = closed.get_latent_representation(stained_once[order].copy())
    np.testing.assert_allclose(found, both[order], atol=1e-4)


@pytest.mark.parametrize(
    "options", [{"spectral_start": False}, {"train_image_encoder": True}, {"niches": False, "spectral_start": False}]
)
def test_without_a_closed_form_vectors_stand_side_by_side(stained_once, options):
    model = aligner_of(stained_once, config=CLOSED, **options)
    assert model.fusion is None
    image, gene, fused = (
        model.get_latent_representation(modality=name, level="spot") for name in ("image", "gene", "fused")
    )
    np.testing.assert_array_equal(fused, np.hstack([image, gene]))


def test_without_niches(stained_once, closed):
    model = aligner_of(stained_once, config=CLOSED, niches=False)
    expected = closed.get_latent_representation(level="spot")
    np.testing.assert_allclose(model.get_latent_representation(), expected, atol=1e-5)


def test_saved(closed, stained_once, tmp_path):
    closed.save(tmp_path / "model")
    names = load_file(tmp_path / "model" / "model.safetensors")
    assert {name for name in names if name.startswith("fusion.")} == {
        f"fusion.{level}_{part}" for level in ("spot", "niche") for part in ("image", "genes")
    }
    loaded = STAlign.load(tmp_path / "model", image_encoder=tiny_encoder())
    assert loaded.model_id == closed.model_id
    np.testing.assert_array_equal(loaded.get_latent_representation(stained_once), closed.get_latent_representation())
    edit_config(tmp_path / "model", lambda document: document["config"].update(weights=[0.4, 0.3, 0.3], fusion=False))
    with pytest.raises(ValueError, match="fusion in closed form where vectors are fused otherwise"):
        STAlign.load(tmp_path / "model", image_encoder=tiny_encoder())


@pytest.mark.parametrize("name", ["fusion.spot_image", "fusion.niche_genes"])
def test_damaged(closed, monkeypatch, tmp_path, name):
    part = name.removeprefix("fusion.")
    maps = {key: values for key, values in closed.fusion.maps.items() if key != part}
    for changed in (maps, {**maps, part: closed.fusion.maps[part][:-1].copy()}):
        monkeypatch.setattr(closed, "fusion", replace(closed.fusion, maps=changed))
        closed.save(tmp_path / "model", overwrite=True)
        with pytest.raises(ValueError, match="damaged"):
            STAlign.load(tmp_path / "model", image_encoder=tiny_encoder())


def test_genes_alone_train_with_the_default_weights(stained_once):
    model = aligner_of(stained_once, image_encoder=None, config=CLOSED)
    loss, cross = (model.history[f"train_{name}"].to_numpy() for name in ("loss", "cross_loss"))
    np.testing.assert_allclose(loss, cross)
    assert loss[-1] < loss[0]
    assert model.fusion is None
    same = aligner_of(stained_once, image_encoder=None, config=replace(CLOSED, weights=(0.0, 0.0, 1.0)))
    pairs = zip(model.module.parameters(), same.module.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
