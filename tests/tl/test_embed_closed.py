"""Embedding without a trained model."""

import json

import anndata
import numpy as np
import pytest
from helpers import assert_unchanged

from stimage import datasets, models, pp, tl


@pytest.fixture
def adata():
    adata = datasets.simulate_tissue(n_rows=16, n_cols=14, n_genes=120)
    pp.compact_grid(adata)
    return adata


@pytest.mark.parametrize("model", [None, "closed"])
def test_what_is_written(adata, model):
    before = adata.copy()
    assert tl.embed(adata, model) is None
    expected = models.SmoothedPCA(adata).get_latent_representation(adata)
    np.testing.assert_array_equal(adata.obsm["X_stimage"], expected)
    entry = adata.uns["stimage"]["X_stimage"]
    assert (entry["model"], entry["n_axes"], entry["seed"]) == ("SmoothedPCA", 30, 0)
    assert [slide["name"] for slide in json.loads(entry["manifest"])["slides"]] == ["slide"]
    del adata.obsm["X_stimage"], adata.uns["stimage"]
    with assert_unchanged(before):
        pass
    assert (adata.X != before.X).nnz == 0


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_written_to_a_file(adata, tmp_path, form):
    tl.embed(adata)
    tl.domains(adata, levels=[3])
    getattr(adata, f"write_{form}")(tmp_path / "slide")
    read = getattr(anndata, f"read_{form}")(tmp_path / "slide")
    assert read.uns["stimage"]["X_stimage"] == adata.uns["stimage"]["X_stimage"]
    np.testing.assert_array_equal(read.obsm["X_stimage"], adata.obsm["X_stimage"])
    assert read.obs["stimage_domain_3"].tolist() == adata.obs["stimage_domain_3"].tolist()


def test_slides_in_a_list_or_in_one_are_described_alike():
    slides = [datasets.simulate_tissue(n_rows=16, n_cols=14, n_genes=120, seed=seed) for seed in (0, 1)]
    for number, one in enumerate(slides):
        one.obs["slide"] = f"slide {number}"
        one.obs_names = [f"{number}-{name}" for name in one.obs_names]
        pp.compact_grid(one, slide_key="slide")
    with assert_unchanged(*slides):
        copies = tl.embed(slides, copy=True)
    assert isinstance(copies, list)
    together = anndata.concat(slides)
    pp.compact_grid(together, slide_key="slide")
    tl.embed(together)
    np.testing.assert_allclose(
        together.obsm["X_stimage"], np.concatenate([one.obsm["X_stimage"] for one in copies]), atol=1e-4
    )
    # Alone, a slide has axes of its own.
    tl.embed(slides[0])
    assert not np.allclose(slides[0].obsm["X_stimage"], copies[0].obsm["X_stimage"], atol=1e-2)


def test_a_model_that_was_fitted_before(adata):
    other = datasets.simulate_tissue(n_rows=16, n_cols=14, n_genes=120, seed=1)
    pp.compact_grid(other)
    model = models.SmoothedPCA(other)
    tl.embed(adata, model)
    np.testing.assert_array_equal(adata.obsm["X_stimage"], model.get_latent_representation(adata))
    assert adata.uns["stimage"]["X_stimage"]["model_id"] == model.model_id


def test_counts_in_a_layer(adata):
    expected = tl.embed(adata, copy=True).obsm["X_stimage"]
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X.toarray())
    with assert_unchanged(adata), pytest.raises(ValueError, match="counts"):
        tl.embed(adata)
    tl.embed(adata, layer="counts")
    np.testing.assert_array_equal(adata.obsm["X_stimage"], expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "mouse"}, "`model` must be one of 'closed', 'human'"),
        ({"mode": "context"}, "`SmoothedPCA.get_latent_representation` has no option 'mode'. It takes none"),
        ({"tile_size": 8}, "no option 'tile_size'"),
        ({"adapt_epochs": 2}, "`adapt_epochs`=2 trains a model further, and a SmoothedPCA is not trained"),
        ({"modality": "image"}, "no option 'modality'"),
        ({"seed": -1}, "`seed`"),
    ],
)
def test_options_of_others_are_refused(adata, options, message):
    with assert_unchanged(adata), pytest.raises((TypeError, ValueError), match=message):
        tl.embed(adata, **options)


def test_something_else_as_a_model(adata):
    with assert_unchanged(adata), pytest.raises(TypeError, match="`model` must be"):
        tl.embed(adata, 3)
