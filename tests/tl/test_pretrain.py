import numpy as np
import pytest
import torch
from helpers import assert_unchanged

from stimage import pp, tl
from stimage.data import Corpus
from stimage.models import STImage

SETUP = {"layer": "", "slide_key": "", "grid_key": "grid", "donor_key": ""}


def same_weights(first, second):
    pairs = zip(first.module.state_dict().items(), second.module.state_dict().items(), strict=True)
    return all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)


def test_one_slide(slide, pretrain):
    before = slide.copy()
    model = pretrain(slide)
    assert isinstance(model, STImage)
    assert model.is_trained
    assert len(model.genes) == 40
    assert model.genes.tolist() == pp.select_genes(slide, n_genes=40).genes
    assert (model.spec.window, model.spec.n_genes) == (6, 20)
    assert len(model.history["train_loss"]) == 1
    assert np.isfinite(model.history["train_loss"].to_numpy()).all()
    assert slide.uns["stimage"] == {"setup": SETUP}
    del slide.uns["stimage"]
    np.testing.assert_array_equal(slide.X.toarray(), before.X.toarray())
    assert list(slide.uns) == list(before.uns)


def test_slides_by_key_or_as_a_list(pair, parts, pretrain):
    by_key = pretrain(pair, slide_key="slide")
    as_list = pretrain(parts)
    of_the_grid = pretrain(pair.copy())  # the grid knows its slides
    assert by_key.genes.tolist() == as_list.genes.tolist() == of_the_grid.genes.tolist()
    assert same_weights(by_key, as_list)
    assert same_weights(by_key, of_the_grid)
    assert by_key.manifest["slides"]["name"].tolist() == ["slide_1", "slide_2"]
    assert pair.uns["stimage"]["setup"] == {**SETUP, "slide_key": "slide"}
    assert [part.uns["stimage"]["setup"] for part in parts] == [SETUP, SETUP]


def test_a_list_of_one_slide_and_of_two(pair, parts, pretrain):
    model = pretrain([parts[0], pair])
    assert len(model.manifest["slides"]) == 3
    assert model.manifest["slides"]["n_sites"].tolist() == [parts[0].n_obs, parts[0].n_obs, parts[1].n_obs]


def test_genes_come_from_within_slides(pair, pretrain):
    """A gene that differs between slides only does not vary within any."""
    counts = pair.X.toarray()
    counts[:, 0] = np.where(pair.obs["slide"] == "slide_1", 0, 100)
    pair.X = counts
    assert pair.var_names[0] not in pretrain(pair, n_pool_genes=20).genes


def test_corpus(slide, pretrain):
    genes = slide.var_names[:40]
    corpus = Corpus.from_anndata(slide, genes=genes)
    with assert_unchanged(slide):
        model = pretrain(corpus)
    assert model.genes.tolist() == genes.tolist()
    assert same_weights(model, pretrain(slide, genes=genes))
    with pytest.raises(ValueError, match="`genes` cannot be chosen for a corpus"):
        pretrain(corpus, genes=genes)
    with pytest.raises(ValueError, match="`layer` cannot be chosen for a corpus"):
        pretrain(corpus, layer="counts")


def test_counts_in_a_layer(slide, model, pretrain):
    slide.layers["counts"] = slide.X.copy()
    slide.X = np.log1p(slide.X.toarray())
    found = pretrain(slide, layer="counts")
    assert same_weights(found, model)
    assert slide.uns["stimage"]["setup"] == {**SETUP, "layer": "counts"}
    tl.embed(slide, found)  # reads the layer too
    del slide.uns["stimage"]
    with pytest.raises(ValueError, match="log-transformed"):
        tl.embed(slide, found)


def test_grid_of_another_name(slide, model, pretrain):
    other = slide.copy()
    del other.uns["grid"], other.obs["grid_row"], other.obs["grid_col"]
    pp.compact_grid(other, key_added="raster")
    assert same_weights(pretrain(other, grid_key="raster"), model)
    tl.embed(slide, model)
    tl.embed(other, model)
    np.testing.assert_array_equal(other.obsm["X_stimage"], slide.obsm["X_stimage"])


def test_views(slide, model, pretrain):
    with assert_unchanged(slide):
        assert same_weights(pretrain(slide[:]), model)


def test_validation(slide, pretrain):
    model = pretrain(slide, window=3, validation_size=0.1, max_epochs=2)
    assert sorted(model.history) == ["train_loss", "validation_loss"]
    assert len(model.history["validation_loss"]) == 2
    assert "validation_loss" not in pretrain(slide, window=3).history


def test_seeds(slide, model, pretrain):
    assert same_weights(pretrain(slide), model)
    assert not same_weights(pretrain(slide, seed=1), model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model_kwargs": {"maskin": "site"}},
            "`model_kwargs` has no option 'maskin'; did you mean 'masking'?.*'n_genes'",
        ),
        ({"model_kwargs": {"window": 3}}, "`model_kwargs` holds 'window', which is a parameter of its own"),
        ({"plan_kwargs": {"learning_rat": 1}}, "`plan_kwargs`.*did you mean 'learning_rate'.*'weight_decay'"),
        ({"trainer_kwargs": {"devises": 1}}, "`trainer_kwargs`.*did you mean 'devices'"),
        ({"trainer_kwargs": 3}, "`trainer_kwargs` must be a dict of options, found int"),
    ],
)
def test_misspelt_options(slide, options, message):
    with assert_unchanged(slide), pytest.raises(TypeError, match=message):
        tl.pretrain(slide, **options)
