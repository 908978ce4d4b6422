"""Aligners without one part or with another one, and what they refuse."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import assert_unchanged
from stained import QUIET, TINY, aligner_of, tiny_encoder

from stimage import pp
from stimage.models import STAlign, STImage
from stimage.modules import ScGPTEncoder

MODALITIES = ["image", "gene", "fused"]

CHANGES = {
    "no niches": {"niches": False},
    "spots with context": {"spot_context": True},
    "no fusion": {"config": replace(TINY, fusion=False)},
    "not adaptive": {"config": replace(TINY, adaptive=False)},
    "spot loss only": {"config": replace(TINY, weights=(1.0, 0.0, 0.0))},
    "niche loss only": {"config": replace(TINY, weights=(0.0, 1.0, 0.0))},
    "cross loss only": {"config": replace(TINY, weights=(0.0, 0.0, 1.0))},
    "learned temperature": {"config": replace(TINY, learn_temperature=True)},
    "random start": {"spectral_start": False},
    "few image components": {"n_image_components": 2},
    "other encoder of niches": {"niche_image_encoder": tiny_encoder(width=8, seed=1)},
    "trained encoder": {"train_image_encoder": True},
    "trained encoder, no niches": {"train_image_encoder": True, "niches": False},
}


@pytest.mark.parametrize("change", CHANGES)
def test_without_a_part(stained, aligner, change):
    options = CHANGES[change]
    with assert_unchanged(stained):
        other = aligner_of(stained, **options)
    assert other.model_id != aligner.model_id
    n_levels = 1 if change.endswith("no niches") else 2
    side_by_side = ("no fusion", "no niches", "trained encoder, no niches", "spot loss only", "niche loss only")
    fused = 32 if change in side_by_side else 16
    for modality, width in (("image", 16), ("gene", 16), ("fused", fused)):
        vectors = other.get_latent_representation(modality=modality)
        assert vectors.shape == (stained.n_obs, n_levels * width)
        assert np.isfinite(vectors).all()
        found = other.get_latent_representation(stained, modality=modality)
        np.testing.assert_allclose(found, vectors, atol=1e-5)
    assert np.isfinite(other.predict_expression(stained)).all()
    names = ["train_loss", "train_spot_loss"]
    names += [] if n_levels == 1 else ["train_cross_loss", "train_niche_loss"]
    assert sorted(other.history) == sorted(names)


def test_negatives_of_all_slides(stained_parts):
    within, across = (aligner_of(stained_parts, training={"negatives": name}) for name in ("slide", "batch"))
    assert within.model_id != across.model_id
    assert np.isfinite(across.history["train_loss"].to_numpy()).all()


def test_learning_rate(stained):
    start = STAlign(stained, image_encoder=tiny_encoder(), n_pool_genes=40, config=TINY)
    slow, fast = (aligner_of(stained, training={"plan_kwargs": {"learning_rate": rate}}) for rate in (1e-9, 1e-2))
    weights = [torch.cat([p.flatten() for p in other.module.parameters()]) for other in (start, slow, fast)]
    assert (weights[1] - weights[0]).abs().max() < 1e-6
    assert (weights[2] - weights[0]).abs().max() > 1e-3
    assert fast.optimizer.learning_rate == 1e-2


def test_no_niches_needs_no_niches(stained, aligner):
    bare = stained.copy()
    for field, key in ((bare.obsp, "niche_connectivities"), (bare.obsm, "niche_bbox"), (bare.layers, "niche")):
        del field[key]
    other = aligner_of(bare, niches=False)
    assert other.model_id == aligner_of(stained, niches=False).model_id
    for level in ("niche", "both"):
        with pytest.raises(ValueError, match=f"`level`='{level}'.*without niches.*`level='spot'`"):
            other.get_latent_representation(level=level)
    assert other.get_latent_representation().shape == (stained.n_obs, 32)


def test_no_images(stained, stained_parts):
    with_images = stained.copy()
    del stained.uns["spatial"]
    model = aligner_of(stained, image_encoder=None)
    assert model.model_id == aligner_of(with_images, image_encoder=None).model_id
    assert sorted(model.history) == ["train_cross_loss", "train_loss"]
    assert model.history["train_loss"].iloc[-1, 0] < model.history["train_loss"].iloc[0, 0]
    np.testing.assert_array_equal(
        model.get_latent_representation(), model.get_latent_representation(stained, modality="gene", level="both")
    )
    for modality in ("image", "fused"):
        with pytest.raises(ValueError, match=f"`modality`='{modality}' needs images.*only `modality='gene'`"):
            model.get_latent_representation(stained, modality=modality)
    with pytest.raises(ValueError, match="built without images.*cannot predict"):
        model.predict_expression(stained)
    assert "no image" in repr(model)


def test_a_trained_encoder(stained):
    """It is a copy; that of niches and the one that was given stay as they were."""
    given = tiny_encoder()
    model = aligner_of(
        stained, image_encoder=given, train_image_encoder=True, training={"plan_kwargs": {"learning_rate": 1e-2}}
    )
    start = tiny_encoder().state_dict()
    for encoder in (given, model.niche_image_encoder):
        for name, tensor in encoder.state_dict().items():
            assert torch.equal(tensor, start[name])
    changes = [(t - start[name]).abs().max() for name, t in model.image_encoder.state_dict().items()]
    assert min(changes) > 1e-4
    assert model.history["train_loss"].iloc[-1, 0] < model.history["train_loss"].iloc[0, 0]
    pixels = model.paired.slides[0].spot_image
    assert pixels.dtype == np.uint8
    assert pixels.shape == (stained.n_obs, 28, 28, 3)
    # New slides are seen as those of the training were.
    np.testing.assert_array_equal(model.get_latent_representation(stained), model.get_latent_representation())


def test_frozen_gene_encoders(stained):
    frozen = STImage(stained, window=6, n_pool_genes=40, n_genes=20)
    vocabulary = {name: i for i, name in enumerate([*stained.var_names, "<pad>", "<cls>", "<eoc>"])}
    torch.manual_seed(0)
    scgpt = ScGPTEncoder(vocabulary, dim=8, n_heads=2, dim_feedforward=8, n_layers=1).eval()
    for encoder, width in ((frozen, frozen.autoencoder.dim), (scgpt, 8)):
        model = aligner_of(stained, gene_encoder=encoder)
        assert model.n_spot_genes == width
        embedding = model.paired.slides[0].spot_embedding
        np.testing.assert_allclose(embedding.mean(axis=0), 0, atol=0.2)
        assert np.isfinite(model.get_latent_representation()).all()
        np.testing.assert_array_equal(model.get_latent_representation(stained), model.get_latent_representation())
        # What is said of the spot goes through the encoder, whose view the counts of others do not change.
        image = model.get_latent_representation(modality="image")
        blank = stained.copy()
        blank.X = 0 * stained.X
        np.testing.assert_array_equal(model.get_latent_representation(blank, modality="image"), image)
    vectors = frozen.get_latent_representation(stained, mode="visible")
    embedding = aligner_of(stained, gene_encoder=frozen).paired.slides[0].spot_embedding
    expected = np.clip((vectors - vectors.mean(axis=0)) / (vectors.std(axis=0) + 1e-3), -3, 3)
    np.testing.assert_allclose(embedding, expected, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a: a.uns.pop("spatial"), KeyError, "No image: the AnnData has no.*`image_encoder=None`"),
        (lambda a: a.uns.update(spatial={}), KeyError, "No image: the AnnData has no"),
        (lambda a: a.uns["spatial"]["slide_1"].update(images={}), KeyError, "'slide_1'.*has no image"),
        (lambda a: a.uns["spatial"].update(b=a.uns["spatial"]["slide_1"]), KeyError, "No image of slide 'slide'"),
        (lambda a: a.obsp.pop("niche_connectivities"), KeyError, "No niches.*`stimage.pp.build_niches"),
        (lambda a: a.obsm.pop("niche_bbox"), KeyError, "No niches.*'niche_bbox'"),
        (lambda a: a.uns.pop("grid"), KeyError, "No compact grid.*`stimage.pp.compact_grid"),
        (lambda a: a.obsm.update(spatial=10 * a.obsm["spatial"]), ValueError, "spots lie outside the hires image"),
        (lambda a: a.obsm.pop("spatial"), KeyError, "No spatial coordinates"),
        (lambda a: setattr(a, "X", np.log1p(a.X.toarray())), ValueError, "raw counts are needed"),
    ],
)
def test_data(stained, change, error, message):
    change(stained)
    with assert_unchanged(stained), pytest.raises(error, match=message):
        STAlign(stained, image_encoder=tiny_encoder(), n_pool_genes=40, config=TINY)


def test_one_of_several(stained_parts):
    del stained_parts[1].uns["spatial"]
    with pytest.raises(KeyError, match=r"AnnData number 1 \(from 0\) has no `uns\['spatial'\]`"):
        aligner_of(stained_parts)


def test_libraries_that_are_called_otherwise(stained_pair):
    stained_pair.uns["spatial"] = {f"section {name}": entry for name, entry in stained_pair.uns["spatial"].items()}
    with pytest.raises(KeyError, match="No image of slide 'slide_1'.*'section slide_1'.*like the slides"):
        aligner_of(stained_pair)


def test_niches_across_slides(simulated_stained_pair):
    mixed = simulated_stained_pair.copy()
    pp.build_niches(mixed, n_neighbors=6)
    pp.compact_grid(mixed, slide_key="slide")
    with pytest.raises(ValueError, match="Niches of slide 'slide_1' hold spots of other slides.*build_niches"):
        aligner_of(mixed)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_pool_genes": 0}, ValueError, "`n_pool_genes` must be at least 1"),
        ({"n_image_components": 0}, ValueError, "`n_image_components` must be at least 1"),
        ({"seed": -1}, ValueError, "`seed` must be at least 0"),
        ({"image_encoder": 3}, TypeError, "`image_encoder` must be a name.*found int"),
        ({"image_encoder": "vgg"}, ValueError, "must be one of.*found 'vgg'"),
        ({"image_encoder": "uni"}, ValueError, "'uni' comes without weights"),
        ({"niche_image_encoder": 3}, TypeError, "`niche_image_encoder` must be a name"),
        ({"image_encoder": None, "niche_image_encoder": tiny_encoder()}, ValueError, "pass both, or neither"),
        ({"image_encoder": None, "train_image_encoder": True}, ValueError, "`train_image_encoder` was set without"),
        ({"gene_encoder": "scgpt"}, TypeError, "`gene_encoder` must be a stimage.models.STImage or .*found str"),
        ({"patches": (1.0,)}, TypeError, "`patches` must be a stimage.models.PatchSpec, found tuple"),
        ({"config": {}}, TypeError, "`config` must be a stimage.modules.AlignerConfig, found dict"),
        ({"cache_dir": 3}, TypeError, "`cache_dir` must be a path, found int"),
        ({"image_dir": 3}, TypeError, "`image_dir` must be a path, found int"),
        ({"niche_key": None}, TypeError, "`niche_key` must be a string"),
        ({"niche_key": "ring"}, KeyError, "'ring_connectivities'"),
        ({"genes": ["GENE00001", "GENE00001"]}, ValueError, "`genes` has repeated names"),
    ],
)
def test_options(stained, options, error, message):
    with assert_unchanged(stained), pytest.raises(error, match=message):
        STAlign(stained, **{"image_encoder": tiny_encoder(), "n_pool_genes": 40, "config": TINY, **options})


def test_other_data():
    for data, message in (("slides", "found str"), ([], "found an empty list")):
        with pytest.raises(TypeError, match=f"`data` must be an AnnData.*{message}"):
            STAlign(data)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_epochs": 0}, ValueError, "`max_epochs` must be at least 1"),
        ({"batch_size": 1}, ValueError, "`batch_size` must be at least 2"),
        ({"num_workers": -1}, ValueError, "`num_workers` must be at least 0"),
        ({"negatives": "all"}, ValueError, "`negatives` must be one of 'slide', 'batch'"),
        ({"plan_kwargs": {"learning_rate": 0}}, ValueError, "`learning_rate` must be between 0 and 1"),
    ],
)
def test_training(stained, options, error, message):
    model = STAlign(stained, image_encoder=None, n_pool_genes=40, config=TINY)
    before = model.model_id
    with pytest.raises(error, match=message):
        model.train(**{**QUIET, **options})
    assert model.model_id == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"modality": "protein"}, ValueError, "`modality` must be one of 'image', 'gene', 'fused'"),
        ({"level": "slide"}, ValueError, "`level` must be one of 'spot', 'niche', 'both'"),
        ({"cache_dir": 3}, TypeError, "`cache_dir` must be a path"),
    ],
)
def test_embedding(aligner, stained, options, error, message):
    with pytest.raises(error, match=message):
        aligner.get_latent_representation(stained, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"method": "knn"}, "`method` must be one of"), ({"n_neighbors": 0}, "`n_neighbors` must be at least 1")],
)
def test_prediction(aligner, stained, options, message):
    with pytest.raises(ValueError, match=message):
        aligner.predict_expression(stained, **options)


def test_before_training(stained):
    model = STAlign(stained, image_encoder=tiny_encoder(), n_pool_genes=40, config=TINY)
    assert "not trained" in repr(model)
    assert np.isfinite(model.get_latent_representation()).all()
    with pytest.raises(ValueError, match="not trained: call `train`"):
        model.predict_expression(stained)
