"""The readout: what it computes, when it is fitted and on which slides, and where it is stored."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import assert_unchanged
from slides import pairs_mean, random_slide

from stimage import datasets, pp
from stimage.data import Corpus
from stimage.models import STImage
from stimage.models.embedding._predicted import fitted_readout, predicted_components
from stimage.models.embedding._readout import Readout, sample, slope
from stimage.models.embedding._site_vectors import stream_vectors

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


def test_embedding_written_out(trained):
    (slide,) = trained.corpus
    readout = trained.readout
    own = (slide.expression.toarray() - slide.gene_mean) @ readout.axes
    predicted = predicted_components(trained.module, slide, readout.axes, **OPTIONS)
    part = 0.5 * np.clip((own * predicted)[slide.active].sum() / (predicted[slide.active] ** 2).sum(), 0, 1)
    context = (pairs_mean(slide, own, 1.0) + pairs_mean(slide, own, 2.2)) / 2 + part * predicted
    codes = pairs_mean(slide, readout.codes(pairs_mean(slide, own, 1.5) + part * predicted), 1.5)
    expected = np.hstack([context / readout.scales[0], 0.7 * codes / readout.scales[1]])
    np.testing.assert_allclose(readout(slide, predicted), expected, atol=2e-3)
    np.testing.assert_allclose(
        trained.get_latent_representation()[np.argsort(slide.site_of_observation)], expected, atol=2e-3
    )
    assert spread(expected[:, : readout.axes.shape[1]]) == pytest.approx(1, rel=1e-2)
    assert spread(expected[:, readout.axes.shape[1] :]) == pytest.approx(0.7, rel=1e-2)


def test_predictions_that_say_the_opposite_do_not_count(trained):
    (slide,) = trained.corpus
    own = trained.readout.components(slide)
    np.testing.assert_array_equal(trained.readout(slide, -own), trained.readout(slide))
    assert slope(slide, own, 4 * own) == pytest.approx(0.25)
    assert slope(slide, own, own / 4) == 1


def test_predicted_components_are_the_decoded_expression_on_the_axes(trained):
    (slide,) = trained.corpus
    vectors = np.zeros((slide.n_sites, trained.autoencoder.dim), dtype=np.float32)
    for sites, part in stream_vectors(trained.module, slide, "context", n_genes=None, **OPTIONS):
        vectors[sites] = part
    with torch.no_grad():
        expression = trained.module.genes.decode_all(torch.from_numpy(vectors)).numpy()
    expected = expression @ trained.readout.axes
    expected -= expected[slide.active].mean(axis=0)
    found = predicted_components(trained.module, slide, trained.readout.axes, **OPTIONS)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_genes_that_a_slide_lacks_are_left_out(trained):
    (slide,) = trained.corpus
    measured = np.arange(len(trained.genes)) % 2 == 0
    slide = replace(slide, measured=measured)
    axes = np.where(measured[:, None], trained.readout.axes, 0)
    found = predicted_components(trained.module, slide, trained.readout.axes, **OPTIONS)
    np.testing.assert_allclose(found, predicted_components(trained.module, slide, axes, **OPTIONS), atol=1e-6)


def test_round_trip(trained):
    readout = trained.readout
    again = Readout.from_tensors(readout.tensors())
    assert same_tensors(readout, again)
    (slide,) = trained.corpus
    np.testing.assert_array_equal(again(slide), readout(slide))


def test_fitted_at_the_end_of_training(trained, tissue, fit):
    expected = fitted_readout(trained.module, list(trained.corpus), **OPTIONS)
    assert same_tensors(trained.readout, expected)
    first, other = fit(tissue, seed=1), fit(tissue, seed=2)
    assert not same_tensors(first.readout, other.readout)


def test_adapting_fits_it_on_the_slides_of_the_user(trained, small):
    before = trained.readout
    adapted = trained.adapt(small, 1, **QUICK)
    assert trained.readout is before
    corpus = Corpus.from_anndata(small, genes=trained.vocabulary).to_target_sum(trained.target_sum)
    assert same_tensors(adapted.readout, fitted_readout(adapted.module, list(corpus), **OPTIONS))


def test_an_untrained_model_fits_it_when_asked(tissue, small, tmp_path):
    model = STImage(tissue, window=8, n_pool_genes=60, n_genes=32)
    model.save(tmp_path)
    model.get_latent_representation(small, mode="visible")
    assert model.readout is None
    embedding = model.get_latent_representation(small)
    # On the slides that it was built with, not on those embedded.
    assert same_tensors(model.readout, fitted_readout(model.module, list(model.corpus), **OPTIONS))
    np.testing.assert_array_equal(STImage.load(tmp_path, tissue).get_latent_representation(small), embedding)
    loaded = STImage.load(tmp_path)
    assert loaded.get_latent_representation(small, mode="visible").shape == (small.n_obs, 128)
    with assert_unchanged(small), pytest.raises(ValueError, match="loaded without any: pass `data` to `STImage.load`"):
        loaded.get_latent_representation(small)


def test_sites_without_counts_are_left_out_of_the_fit(trained):
    (slide,) = trained.corpus
    empty = np.arange(slide.n_sites) % 5 == 0
    slide = slide.hide(empty)
    ((_, sites),) = sample([slide], 10_000, seed=0).values()
    np.testing.assert_array_equal(sites, np.flatnonzero(~empty & slide.active))
    readout = fitted_readout(trained.module, [slide], **OPTIONS)
    # As often as in the fit: the means of more predictions spread a little less.
    predicted = predicted_components(trained.module, slide, readout.axes, **OPTIONS, n_repeats=1)
    n_axes = readout.axes.shape[1]
    assert spread(readout(slide, predicted)[sites, :n_axes]) == pytest.approx(1, rel=1e-3)


def test_a_sample_is_squares_with_what_is_around_them():
    slides = [random_slide(80, 70, empty=0.2, seed=seed) for seed in (0, 1)]
    everything = sample(slides, 100_000, seed=0)
    for number, slide in enumerate(slides):
        assert everything[number][0] is slide
        np.testing.assert_array_equal(everything[number][1], np.flatnonzero(slide.active))
    some = sample(slides, 500, seed=0)
    assert sum(len(sites) for _, sites in some.values()) == 500
    for number, (part, sites) in some.items():
        slide = slides[number]
        assert slide.active[sites].all()
        np.testing.assert_array_equal(part.gene_mean, slide.gene_mean)
        # Whatever is within eight sites of a chosen one is there.
        distance = np.abs(slide.site_index[:, None] - slide.site_index[sites]).max(axis=2).min(axis=1)
        assert part.active[slide.active & (distance <= 8)].all()
        assert part.active.sum() < slide.active.sum()
        wide, _ = sample(slides, 500, seed=0, margin=20)[number]
        assert wide.active[slide.active & (distance <= 20)].all()
    other = sample(slides, 500, seed=1)
    assert any(
        number not in other or not np.array_equal(sites, other[number][1]) for number, (_, sites) in some.items()
    )


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
    readout = fitted_readout(trained.module, [tiny], **OPTIONS)
    corpus = Corpus([tiny], trained.vocabulary)
    for one in (trained, fitted_with(trained, readout)):
        assert np.isfinite(one.get_latent_representation(corpus)).all()


def fitted_with(model, readout):
    other = STImage.__new__(STImage)
    other.__dict__ = {**model.__dict__, "readout": readout}
    return other


def test_model_id_covers_the_readout(trained):
    assert fitted_with(trained, trained.readout).model_id == trained.model_id
    changed = fitted_with(trained, replace(trained.readout, scales=2 * trained.readout.scales))
    assert len({trained.model_id, changed.model_id, fitted_with(trained, None).model_id}) == 3


def test_half_precision_keeps_the_readout(trained, tissue, tmp_path):
    trained.save(tmp_path, half_precision=True)
    loaded = STImage.load(tmp_path)
    assert same_tensors(loaded.readout, trained.readout)
    expected, found = (model.get_latent_representation(tissue) for model in (trained, loaded))
    assert found.dtype == np.float32
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.99
