import random

import numpy as np
import pytest
import torch
from helpers import assert_unchanged
from slides import random_slide

from stimage import datasets, pp
from stimage.data import Corpus
from stimage.models import STImage

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*num_workers")


def same_weights(first, second):
    pairs = zip(first.module.state_dict().items(), second.module.state_dict().items(), strict=True)
    return all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)


def test_loss_falls(tissue, fit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with assert_unchanged(tissue):
        model = fit(tissue, training={"max_epochs": 6, "validation_size": 0.1}, window=4)
    assert model.is_trained
    assert sorted(model.history) == ["train_loss", "validation_loss"]
    for history in model.history.values():
        assert len(history) == 6
        assert np.isfinite(history.to_numpy()).all()
    loss = model.history["train_loss"].iloc[:, 0]
    assert loss.iloc[-1] < loss.iloc[0]
    assert not model.module.training
    assert list(tmp_path.iterdir()) == []  # nothing is written unasked


def test_training_is_set_by_the_seed(tissue, fit):
    first, again = fit(tissue, seed=1), fit(tissue, seed=1)
    workers = fit(tissue, seed=1, training={"num_workers": 2})
    assert same_weights(first, again)
    assert same_weights(first, workers)
    assert not same_weights(first, fit(tissue, seed=2))
    assert first.history["train_loss"].equals(workers.history["train_loss"])


def test_global_random_states_stay(tissue, fit):
    states = np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state().tolist()
    fit(tissue)
    assert (np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state().tolist()) == states


@pytest.mark.parametrize("masking", ["site_gene", "region", "mixed"])
def test_other_masks(tissue, fit, masking):
    model = fit(tissue, masking=masking)
    assert np.isfinite(model.history["train_loss"].to_numpy()).all()
    assert model.spec.masking == masking


@pytest.mark.parametrize("gene_selection", ["hvg", "random"])
def test_other_gene_selections(tissue, fit, gene_selection):
    model = fit(tissue, gene_selection=gene_selection, spectral_start=False, training={"max_epochs": 1})
    assert np.isfinite(model.history["train_loss"].to_numpy()).all()


def test_early_stopping_watches_a_block_of_the_slide(tissue, fit):
    # A learning rate this large makes the validation loss rise.
    training = {
        "max_epochs": 40,
        "windows_per_epoch": 16,
        "early_stopping": True,
        "plan_kwargs": {"learning_rate": 0.05},
    }
    model = fit(tissue, window=4, training={**training, "early_stopping_patience": 2})
    loss = model.history["validation_loss"].iloc[:, 0]
    assert 3 <= len(loss) < 40
    assert loss.iloc[-2:].min() > loss.min()


def test_several_slides_by_key_or_as_a_list(fit):
    both = datasets.simulate_tissue(n_rows=16, n_cols=14, n_genes=80, n_domains=3, n_slides=2, seed=1)
    both = both[np.random.default_rng(0).permutation(both.n_obs)].copy()
    parts = [both[both.obs["slide"] == name].copy() for name in both.obs["slide"].cat.categories]
    pp.compact_grid(both, slide_key="slide")
    for part in parts:
        pp.compact_grid(part)
    genes = both.var_names[10:70]
    by_key, as_list = fit(both, genes=genes), fit(parts, genes=genes)
    assert same_weights(by_key, as_list)

    embedding = by_key.get_latent_representation(mode="visible")
    expected = np.empty_like(embedding)
    for name, part in zip(both.obs["slide"].cat.categories, parts, strict=True):
        expected[both.obs["slide"] == name] = as_list.get_latent_representation(part, mode="visible")
    np.testing.assert_allclose(embedding, expected, atol=1e-5)
    stacked = np.concatenate([as_list.get_latent_representation(part, mode="visible") for part in parts])
    np.testing.assert_allclose(as_list.get_latent_representation(mode="visible"), stacked, atol=1e-5)
    # One AnnData of one slide beside another of two, whose slides are interleaved.
    mixed = as_list.get_latent_representation([parts[0], both], mode="visible")
    np.testing.assert_allclose(mixed, np.concatenate([stacked[: parts[0].n_obs], expected]), atol=1e-5)


def test_counts_in_a_layer(tissue, fit):
    expected = fit(tissue)
    tissue.layers["counts"] = tissue.X.copy()
    tissue.X = np.log1p(tissue.X.toarray())
    STImage.setup_anndata(tissue, layer="counts")
    with assert_unchanged(tissue):
        assert same_weights(fit(tissue), expected)


def test_paper_preset_has_the_published_sizes(tissue, fit):
    model = STImage(tissue, preset="paper")
    assert (model.spec.window, model.spec.n_genes, model.spec.mask_ratio) == (16, 120, 0.3)
    assert model.spec.gene_selection == "weighted"
    encoder, decoder = model.module.encoder.blocks, model.module.decoder.blocks
    assert (len(encoder), len(decoder)) == (6, 2)
    for block in encoder:
        assert block.attention.n_heads == 8
        assert tuple(block.feedforward[0].weight.shape) == (1024, 256)
    for block in decoder:
        assert tuple(block.attention.projection.weight.shape) == (768, 256)
        assert block.feedforward[0].weight.shape[0] < 1024
    model = fit(tissue, preset="paper", training={"max_epochs": 1, "windows_per_epoch": 4, "batch_size": 2})
    assert np.isfinite(model.history["train_loss"].to_numpy()).all()
    assert model.get_latent_representation(mode="context").shape == (tissue.n_obs, 60)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"window": 1}, ValueError, "`window` must be at least 2, found 1"),
        ({"window": "16"}, TypeError, "`window` must be an integer, found str"),
        ({"window": 30}, ValueError, r"`window`=30 is larger than every slide.*22 x 19.*`window=19`"),
        ({"n_genes": 0}, ValueError, "`n_genes` must be at least 1"),
        ({"n_pool_genes": 0}, ValueError, "`n_pool_genes` must be at least 1"),
        ({"mask_ratio": 0}, ValueError, "`mask_ratio` must be between 0 and 1"),
        ({"mask_ratio": 1.0}, ValueError, "`mask_ratio` must be between 0 and 1"),
        ({"mask_ratio": "half"}, TypeError, "`mask_ratio` must be a number"),
        ({"masking": "spot"}, ValueError, "`masking` must be one of 'site'"),
        ({"gene_selection": "top"}, ValueError, "`gene_selection` must be one of 'weighted'"),
        ({"preset": "large"}, ValueError, "`preset` must be one of 'default'"),
        ({"genes": ["ENSG00000000001", "ENSG00000000002"]}, ValueError, "vocabulary.*Ensembl"),
        ({"genes": ["GENE00001"]}, ValueError, "at least 2|at least two"),
        ({"genes": ["GENE00001", "GENE00002", "GENE00001"]}, ValueError, "repeated|more than once|unique"),
    ],
)
def test_invalid_models(tissue, options, error, message):
    with assert_unchanged(tissue), pytest.raises(error, match=message):
        STImage(tissue, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_epochs": 0}, ValueError, "`max_epochs` must be at least 1"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
        ({"windows_per_epoch": 0}, ValueError, "`windows_per_epoch` must be at least 1"),
        ({"validation_size": 1.5}, ValueError, "`validation_size` must be between 0 and 1"),
        ({"validation_size": -0.1}, ValueError, "`validation_size` must be between 0 and 1"),
        ({"early_stopping": True, "validation_size": 0}, ValueError, "`early_stopping=True` needs `validation_size`"),
        ({"validation_size": 0.5}, ValueError, "too small to hold out a block"),
    ],
)
def test_invalid_training(tissue, options, error, message):
    model = STImage(tissue, window=8, n_pool_genes=60)
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    with pytest.raises(error, match=message):
        model.train(**options)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.module.state_dict().items())
    assert not model.is_trained


def test_invalid_data(tissue):
    with pytest.raises(TypeError, match="AnnData"):
        STImage(tissue.X)
    with pytest.raises(TypeError, match="empty list"):
        STImage([])
    without = tissue.copy()
    del without.uns["grid"]
    with pytest.raises(KeyError, match="compact_grid"):
        STImage(without)


def test_a_corpus_brings_its_genes(tissue, fit):
    corpus = Corpus.from_anndata(tissue, genes=tissue.var_names[:40])
    model = fit(corpus, training={"max_epochs": 1})
    assert model.genes.tolist() == tissue.var_names[:40].tolist()
    embedding = model.get_latent_representation(mode="visible")
    np.testing.assert_array_equal(model.get_latent_representation(tissue, mode="visible"), embedding)
    with pytest.raises(ValueError, match="genes"):
        STImage(corpus, genes=tissue.var_names[:20])


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (lambda adata: None, {"layer": "counts"}, KeyError, "`layer`='counts' is not in adata.layers"),
        (lambda adata: None, {"slide_key": "donor"}, KeyError, "`slide_key`='donor' is not in adata.obs"),
        (lambda adata: None, {"grid_key": "other"}, KeyError, "compact_grid"),
        (lambda adata: adata.uns.pop("grid"), {}, KeyError, "compact_grid"),
        (lambda adata: setattr(adata, "X", np.log1p(adata.X.toarray())), {}, ValueError, "log-transformed"),
        (lambda adata: setattr(adata, "X", adata.X * np.float32(np.nan)), {}, ValueError, "NaN"),
    ],
)
def test_invalid_setup(tissue, change, options, error, message):
    change(tissue)
    with assert_unchanged(tissue), pytest.raises(error, match=message):
        STImage.setup_anndata(tissue, **options)


def test_setup_is_noted(tissue, tmp_path):
    tissue.layers["counts"] = tissue.X.copy()
    tissue.uns["stimage"] = {"kept": 1}
    assert STImage.setup_anndata(tissue, layer="counts", slide_key="slide") is None
    assert tissue.uns["stimage"] == {
        "kept": 1,
        "setup": {"layer": "counts", "slide_key": "slide", "grid_key": "grid", "donor_key": ""},
    }
    tissue.write_h5ad(tmp_path / "slide.h5ad")


def test_setups_must_agree(tissue):
    other = tissue.copy()
    other.layers["counts"] = other.X.copy()
    STImage.setup_anndata(other, layer="counts")
    with pytest.raises(ValueError, match="set up alike, found layers"):
        STImage([tissue, other])


def test_five_slides_hold_out_a_whole_one(fit):
    slides = [random_slide(10, 10, n_genes=20, name=str(i), seed=i) for i in range(5)]
    corpus = Corpus(slides, [f"gene{i}" for i in range(20)])
    model = fit(corpus, window=8, n_genes=10, training={"validation_size": 0.2})
    assert np.isfinite(model.history["validation_loss"].to_numpy()).all()
    assert model.manifest["slides"]["name"].tolist() == list("01234")


def test_windows_cut_on_the_device(tissue, fit):
    training = {"max_epochs": 6, "sampling": "device", "validation_size": 0.1}
    model = fit(tissue, training=training, window=4)
    loss = model.history["train_loss"].iloc[:, 0]
    assert loss.iloc[-1] < loss.iloc[0]
    assert same_weights(model, fit(tissue, training=training, window=4))
    # Another way to cut them, of the same distribution: the loss comes to much the same.
    on_cpu = fit(tissue, training=training | {"sampling": "cpu"}, window=4)
    assert not same_weights(model, on_cpu)
    assert loss.iloc[-1] == pytest.approx(on_cpu.history["train_loss"].iloc[-1, 0], rel=0.1)


def test_only_windows_are_cut_on_a_device(tissue, fit):
    with pytest.raises(ValueError, match="`sampling='device'` cuts windows"):
        fit(tissue, unit="spot", training={"sampling": "device"})
    with pytest.raises(ValueError, match="sampling.*'gpu'"):
        fit(tissue, training={"sampling": "gpu"})
