"""The closed form with what a checkpoint predicts, and how well it knows a tissue."""

import json

import anndata
import numpy as np
import pytest

from stimage import datasets, pp, pretrained, tl
from stimage.data import Vocabulary
from stimage.models import SmoothedPCA
from stimage.models._own_axes import LEAST_RATIO, fit_on_own_axes, shared_genes
from stimage.models._setup import corpus_of


@pytest.fixture
def other_names(tissue):
    """The same counts under other names: to a model, a tissue that it has never seen."""
    other = tissue.copy()
    other.var_names = np.random.default_rng(0).permutation(tissue.var_names)
    return other


def fitted(adata, model, **options):
    return fit_on_own_axes([adata], corpus_of(adata, n_pool_genes=60), model, seed=0, **options)


def test_a_model_knows_the_tissue_that_it_was_trained_on(trained, tissue, other_names):
    known, unknown = (fitted(adata, trained, asked=False)[2] for adata in (tissue, other_names))
    assert 0 < unknown.model < known.model < 1
    assert unknown.ratio < LEAST_RATIO < known.ratio
    # What Gaussian means explain has nothing to do with names.
    assert unknown.neighbors == pytest.approx(known.neighbors, rel=0.05)


def test_predictions_of_a_model_that_does_not_know_the_tissue_are_left_out(trained, other_names):
    closed, predicted, _ = fitted(other_names, trained, asked=False)
    assert predicted == [None]
    corpus = corpus_of(other_names, n_pool_genes=60)
    np.testing.assert_array_equal(
        closed.embed(corpus, predicted), SmoothedPCA(corpus).get_latent_representation(corpus)
    )
    assert closed.manifest["slides"]["name"].tolist() == ["slide"]
    _, asked, _ = fitted(other_names, trained, asked=True)
    assert np.abs(asked[0]).max() > 0


def test_predictions_have_a_row_for_each_site(trained, tissue):
    closed, predicted, _ = fitted(tissue, trained, asked=True)
    assert predicted[0].shape == (tissue.n_obs, 30)
    assert closed.manifest["slides"]["name"].tolist() == ["slide"]


def test_genes_are_found_through_the_variables(tissue):
    genes = list(tissue.var_names)
    tissue.var["symbol"] = [f"SYMBOL{number}" for number in range(tissue.n_vars)]
    own, model = Vocabulary(genes[:40]), Vocabulary([f"SYMBOL{number}" for number in (39, 3, 70, 0)])
    place = shared_genes([tissue], own, model)
    assert {number: int(found) for number, found in enumerate(place) if found >= 0} == {39: 0, 3: 1, 0: 3}


def test_a_checkpoint_is_asked_only_about_slides_that_share_genes_with_it(tissue):
    assert not pretrained.measures_enough([tissue])
    genes = list(pretrained.load().genes[: tissue.n_vars])
    tissue.var_names = genes
    assert not pretrained.measures_enough([tissue])  # 120 are too few
    wide = anndata.concat([tissue, tissue], axis="var", merge="same")
    wide.var_names = list(pretrained.load().genes[: wide.n_vars])
    assert pretrained.measures_enough([wide])
    wide.var_names = [gene.lower() for gene in wide.var_names]
    assert not pretrained.measures_enough([wide])


@pytest.mark.parametrize(
    ("name", "tissue", "predictor"),
    [
        ("DLPFC_151673", "human prefrontal cortex", "human"),
        ("heart_dev_3_CN73_D2", "developing human heart", ""),
        ("STARmap_mPFC_BZ5", "", ""),
        ("img-MOB_Rep11", "", ""),
    ],
)
def test_real_slides(shared_data, capsys, name, tissue, predictor):
    adata = anndata.read_h5ad(shared_data / name / f"{name}.h5ad")
    pp.compact_grid(adata)
    tl.embed(adata)
    entry = adata.uns["stimage"]["X_stimage"]
    assert (entry["tissue"], entry["predictor"]) == (tissue, predictor)
    said = capsys.readouterr().out
    assert said.startswith(f"Embedded in closed form on genes that vary in {tissue} (") == (tissue != "")
    assert (", with the checkpoint 'human', which explains " in said) == (predictor == "human")
    assert said.count("\n") == bool(tissue or "explained_by_predictor" in entry)
    tl.embed(adata, "closed", key_added="closed")
    assert np.array_equal(adata.obsm["X_stimage"], adata.obsm["closed"]) == (tissue == predictor == "")


def test_how_a_slide_was_embedded_is_noted(tissue):
    tl.embed(tissue)
    entry = tissue.uns["stimage"]["X_stimage"]
    assert (entry["model"], entry["predictor"], entry["predictor_id"]) == ("SmoothedPCA", "", "")


def test_a_small_slide_is_embedded_in_closed_form():
    genes = list(pretrained.load().genes[:300])
    adata = datasets.simulate_tissue(n_rows=12, n_cols=12, n_genes=300)
    adata.var_names = genes
    pp.compact_grid(adata)
    tl.embed(adata)
    assert "explained_by_predictor" not in adata.uns["stimage"]["X_stimage"]
    tl.embed(adata, "human")
    entry = adata.uns["stimage"]["X_stimage"]
    assert entry["predictor"] == "human"
    names = [slide["name"] for slide in json.loads(entry["predictor_manifest"])["slides"]]
    assert names == pretrained.load().manifest["slides"]["name"].tolist()
