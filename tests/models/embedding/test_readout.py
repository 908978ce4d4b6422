"""The context embedding: scale, codes, when they are fitted and on which slides, and where they are stored."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import assert_unchanged

from stimage import datasets, pp
from stimage.data import Corpus
from stimage.models import STImage
from stimage.models.embedding._codes import NicheCodes
from stimage.models.embedding._readout import Readout, context_vectors

QUICK = {"accelerator": "cpu", "enable_progress_bar": False, "batch_size": 8, "windows_per_epoch": 16}
OPTIONS = {"tile_size": 16, "batch_size": 32, "seed": 0}


@pytest.fixture(scope="module")
def small():
    """Four small slides in one AnnData."""
    adata = datasets.simulate_tissue(n_rows=12, n_cols=10, n_genes=120, n_domains=3, n_slides=4, seed=2)
    pp.compact_grid(adata, slide_key="slide")
    return adata


def spread(vectors):
    return np.sqrt(vectors.var(axis=0).sum())


def same_tensors(first, second):
    first, second = first.tensors(), second.tensors()
    return set(first) == set(second) and all(np.array_equal(first[name], second[name]) for name in first)


def test_vectors_have_unit_spread_and_codes_beside_them(trained):
    (slide,) = trained.corpus
    vectors = context_vectors(trained.module, slide, np.arange(slide.n_sites), **OPTIONS)
    assert trained.readout.scale == pytest.approx(spread(vectors), rel=1e-5)
    embedding = trained.readout(vectors)
    scaled, codes = np.split(embedding, [trained.autoencoder.dim], axis=1)
    assert spread(scaled) == pytest.approx(1, rel=1e-4)
    np.testing.assert_allclose(scaled, vectors / spread(vectors), rtol=1e-4, atol=1e-6)
    assert codes.shape[1] == 30
    assert spread(codes) == pytest.approx(1, rel=1e-2)
    # Another sample of the same sites, in their own order, has the codes of a fit of its own.
    own = NicheCodes.fit(vectors, seed=0)(vectors)
    distances = [np.linalg.norm(part[:, None] - part[None], axis=2).ravel() for part in (own, codes)]
    assert np.corrcoef(distances)[0, 1] > 0.8


def test_an_untrained_model_says_nothing_and_is_not_scaled_up(tissue):
    model = STImage(tissue, window=8, n_pool_genes=60, n_genes=32)
    assert np.abs(model.get_latent_representation()).max() < 1e-4
    assert model.readout.scale == 1.0


def test_round_trip(trained):
    readout = trained.readout
    again = Readout.from_tensors(readout.tensors())
    assert same_tensors(readout, again)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, trained.autoencoder.dim)).astype(np.float32)
    np.testing.assert_allclose(again(vectors), readout(vectors), rtol=1e-5, atol=1e-6)


def test_fitted_at_the_end_of_training(trained, tissue, fit):
    expected = Readout.fit(trained.module, list(trained.corpus), **OPTIONS)
    assert same_tensors(trained.readout, expected)
    first, other = fit(tissue, seed=1), fit(tissue, seed=2)
    assert not same_tensors(first.readout, other.readout)


def test_adapting_fits_it_on_the_slides_of_the_user(trained, small):
    before = trained.readout
    adapted = trained.adapt(small, 1, **QUICK)
    assert trained.readout is before
    corpus = Corpus.from_anndata(small, genes=trained.vocabulary).to_target_sum(trained.target_sum)
    assert same_tensors(adapted.readout, Readout.fit(adapted.module, list(corpus), **OPTIONS))


def test_an_untrained_model_fits_it_when_asked(tissue, small, tmp_path):
    model = STImage(tissue, window=8, n_pool_genes=60, n_genes=32)
    model.save(tmp_path)
    model.get_latent_representation(small, mode="visible")
    assert model.readout is None
    embedding = model.get_latent_representation(small)
    # On the slides that it was built with, not on those embedded.
    assert same_tensors(model.readout, Readout.fit(model.module, list(model.corpus), **OPTIONS))
    np.testing.assert_array_equal(STImage.load(tmp_path, tissue).get_latent_representation(small), embedding)
    loaded = STImage.load(tmp_path)
    assert loaded.get_latent_representation(small, mode="visible").shape == (small.n_obs, 128)
    with assert_unchanged(small), pytest.raises(ValueError, match="loaded without any: pass `data` to `STImage.load`"):
        loaded.get_latent_representation(small)


def test_sites_without_counts_are_left_out(trained):
    (slide,) = trained.corpus
    empty = np.arange(slide.n_sites) % 5 == 0
    slide = slide.hide(empty)
    vectors = context_vectors(trained.module, slide, np.flatnonzero(~empty), **OPTIONS)
    assert len(vectors) == (~empty).sum()
    assert Readout.fit(trained.module, [slide], **OPTIONS).scale == pytest.approx(spread(vectors), rel=1e-5)


@pytest.mark.parametrize("n_sites", [2, 5, 10, 16])
def test_a_tiny_slide(trained, n_sites):
    (slide,) = trained.corpus
    tiny = replace(
        slide,
        expression=slide.expression[:n_sites],
        library_size=slide.library_size[:n_sites],
        raster=np.arange(n_sites, dtype=np.int32)[None],
        observation_index=np.arange(n_sites),
        site_of_observation=np.arange(n_sites),
    )
    readout = Readout.fit(trained.module, [tiny], **OPTIONS)
    corpus = Corpus([tiny], trained.vocabulary)
    for one in (trained, fitted_with(trained, readout)):
        assert np.isfinite(one.get_latent_representation(corpus)).all()


def fitted_with(model, readout):
    other = STImage.__new__(STImage)
    other.__dict__ = {**model.__dict__, "readout": readout}
    return other


def test_model_id_covers_the_readout(trained):
    assert fitted_with(trained, trained.readout).model_id == trained.model_id
    changed = fitted_with(trained, Readout(2 * trained.readout.scale, trained.readout.codes))
    assert len({trained.model_id, changed.model_id, fitted_with(trained, None).model_id}) == 3


def test_half_precision_keeps_the_readout(trained, tissue, tmp_path):
    trained.save(tmp_path, half_precision=True)
    loaded = STImage.load(tmp_path)
    assert same_tensors(loaded.readout, trained.readout)
    expected, found = (model.get_latent_representation(tissue) for model in (trained, loaded))
    assert found.dtype == np.float32
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.99
