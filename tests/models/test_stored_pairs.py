"""An aligner that is trained from a corpus on disk is the one that is trained in memory, up to 16 bits of the features."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from stained import QUIET, TINY, apart, stained_tissue, tiny_encoder

from stimage import pp, tl
from stimage.data import StoredPairs
from stimage.models import PatchSpec, STAlign
from stimage.models.alignment import _image_basis

TOLERANCE = 2e-3
"""Of weights and predictions: features are rounded to 11 bits, 5e-4 of their value."""
OF_LENGTH = 5e-3
"""How far a vector may lie from where it lies in memory, in its length."""


@pytest.fixture(scope="module")
def sections():
    """Two sections of different size, read from different donors."""
    found = apart(stained_tissue(12, 9, n_slides=2, seed=0, library_size=20_000.0))
    for adata, donor in zip(found, ["ann", "bob"], strict=True):
        adata.obs["donor"] = donor
    return [found[0], found[1][:60].copy()]


@pytest.fixture(scope="module")
def prepared_sections(sections):
    for adata in sections:
        pp.compact_grid(adata)
        pp.build_niches(adata)
        STAlign.setup_anndata(adata, donor_key="donor")
    return sections


@pytest.fixture(scope="module")
def folder(prepared_sections, tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "corpus"
    pp.build_corpus(prepared_sections, path, n_pool_genes=40, donor_key="donor")
    pp.build_pairs(prepared_sections, path, image_encoder=tiny_encoder())
    return path


def model_of(data, **options):
    """With few components of images: those of next to no spread may turn by what is rounded."""
    config = replace(TINY, dropout=0.0)
    return STAlign(data, image_encoder=tiny_encoder(), config=config, n_image_components=4, **options)


def trained(model, **options):
    model.train(**{"max_epochs": 3, "batch_size": 32, "plan_kwargs": {"learning_rate": 1e-3}, **QUIET, **options})
    return model


@pytest.mark.parametrize("options", [{}, {"spot_context": True}, {"niches": False}, {"spectral_start": False}])
def test_disk_and_memory_give_the_same_model(prepared_sections, folder, options):
    pairs = StoredPairs.open(folder)
    expected = model_of(prepared_sections, genes=pairs.corpus.genes.tolist(), **options)
    found = model_of(pairs, **options)
    assert all(len(slide.spot_image.shape) == 2 for slide in found.paired.slides)
    for name, axes in expected.basis.tensors().items():
        np.testing.assert_allclose(found.basis.tensors()[name], axes, atol=5e-3)
    start = {name: value.clone() for name, value in expected.module.state_dict().items()}
    for model in (expected, found):
        trained(model)
    weights = found.module.state_dict()
    # Training moves weights by more than the tolerance, which it would take other batches for.
    assert max((value - start[name]).abs().max() for name, value in weights.items()) > 4 * TOLERANCE
    for name, value in expected.module.state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=TOLERANCE, atol=TOLERANCE)
    for name, losses in expected.history.items():
        np.testing.assert_allclose(found.history[name], losses, rtol=1e-3)
    np.testing.assert_allclose(found.head.weights, expected.head.weights, atol=5e-3)
    assert found.head.penalty == expected.head.penalty
    assert found.patch_scale == expected.patch_scale
    assert found.manifest["slides"]["counts_sha256"].tolist() == expected.manifest["slides"]["counts_sha256"].tolist()
    assert found.manifest["slides"]["donor"].tolist() == ["ann", "bob"]
    for modality in ("image", "gene", "fused"):
        level = "both" if options.get("niches", True) else "spot"
        known, vectors = (
            model.get_latent_representation(modality=modality, level=level) for model in (expected, found)
        )
        difference = np.linalg.norm(vectors - known, axis=1) / np.linalg.norm(known, axis=1)
        assert difference.max() < OF_LENGTH
    predicted = [model.predict_expression(prepared_sections) for model in (expected, found)]
    np.testing.assert_allclose(predicted[1], predicted[0], atol=TOLERANCE)
    np.testing.assert_allclose(found.predict_expression(pairs), predicted[1], atol=TOLERANCE)


def test_the_basis_of_a_sample_is_that_in_memory(prepared_sections, folder, monkeypatch):
    monkeypatch.setattr(_image_basis, "_MOST_SPOTS", 70)
    pairs = StoredPairs.open(folder)
    expected = model_of(prepared_sections, genes=pairs.corpus.genes.tolist()).basis
    for name, axes in model_of(pairs).basis.tensors().items():
        np.testing.assert_allclose(axes, expected.tensors()[name], atol=5e-3)


def test_workers_and_mixed_batches(folder):
    pairs = StoredPairs.open(folder)
    plain, busy = (trained(model_of(pairs), num_workers=n, negatives="batch") for n in (0, 2))
    assert plain.model_id == busy.model_id


def test_a_saved_model_goes_on_with_the_corpus(prepared_sections, folder, tmp_path):
    model = trained(model_of(StoredPairs.open(folder)))
    model.save(tmp_path / "model")
    encoder = tiny_encoder()
    loaded = STAlign.load(tmp_path / "model", StoredPairs.open(folder), image_encoder=encoder)
    expected = model.get_latent_representation()
    np.testing.assert_array_equal(loaded.get_latent_representation(), expected)
    np.testing.assert_array_equal(loaded.get_latent_representation(StoredPairs.open(folder)), expected)
    read = loaded.get_latent_representation(prepared_sections)
    assert (np.linalg.norm(read - expected, axis=1) < OF_LENGTH * np.linalg.norm(expected, axis=1)).all()


def test_align_takes_a_corpus(folder):
    pairs = StoredPairs.open(folder)
    options = {"image_encoder": tiny_encoder(), "max_epochs": 1, "accelerator": "cpu", "config": TINY}
    model = tl.align(pairs, enable_progress_bar=False, **options)
    assert model.genes.tolist() == pairs.corpus.genes.tolist()
    assert model.get_latent_representation(level="spot").shape == (sum(slide.n_spots for slide in pairs.slides), 16)
    without = tl.align(pairs, **{**options, "image_encoder": None}, enable_progress_bar=False)
    assert without.basis is None
    with pytest.raises(ValueError, match="`layer` is of AnnData"):
        tl.align(pairs, layer="counts")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"genes": ["GENE00001"]}, "`genes` is of AnnData"),
        ({"train_image_encoder": True}, "holds features, not pixels"),
        ({"patches": PatchSpec((1.0,), (1.0,))}, "`patches` are"),
        (
            {"image_encoder": tiny_encoder(seed=1)},
            "are of the encoder 'tiny', `image_encoder` is 'tiny' or has other weights",
        ),
    ],
)
def test_what_does_not_go_together(folder, options, message):
    with pytest.raises(ValueError, match=message):
        STAlign(StoredPairs.open(folder), **{"image_encoder": tiny_encoder(), "config": TINY, **options})


def test_genes_of_another_model(prepared_sections, folder, tmp_path):
    model = model_of(prepared_sections, n_pool_genes=30)
    with pytest.raises(ValueError, match="other genes"):
        model.get_latent_representation(StoredPairs.open(folder))
