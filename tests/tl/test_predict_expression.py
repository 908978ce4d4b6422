import inspect

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from helpers import assert_unchanged
from scipy import sparse
from stained import TINY, aligner_of, apart, prepared, stained_tissue, tiny_encoder

from stimage import tl
from stimage.models import STAlign
from stimage.pl._alignment_examples import predicted_genes


def predicted(adata, model, **options):
    return tl.predict_expression(adata, model, copy=True, **options).layers["stimage_predicted"]


@pytest.mark.parametrize("options", [{}, {"method": "retrieval"}, {"method": "retrieval", "n_neighbors": 5}])
def test_what_is_written(stained, aligner, options):
    with assert_unchanged(stained):
        assert tl.predict_expression(stained, aligner, **options) is None
        layer, notes = stained.layers.pop("stimage_predicted"), stained.uns.pop("stimage")
    assert layer.dtype == np.float32
    assert layer.shape == stained.shape
    known = stained.var_names.isin(aligner.genes)
    assert known.sum() == 40
    assert np.isnan(layer[:, ~known]).all()
    expected = aligner.predict_expression(stained, **options)
    for gene, values in zip(aligner.genes, expected.T, strict=True):
        np.testing.assert_array_equal(layer[:, stained.var_names.get_loc(gene)], values)
    assert layer[:, known].min() >= 0
    (entry,) = notes.values()
    expected = {"method": "regression", "n_neighbors": 50, **options}
    assert entry == {**aligner.provenance(stained), **expected}
    assert (entry["model_id"], entry["n_genes_shared"]) == (aligner.model_id, 40)


def test_copy_and_other_keys(stained, aligner):
    with assert_unchanged(stained):
        copy = tl.predict_expression(stained, aligner, key_added="from_image", copy=True)
    assert set(copy.layers) - set(stained.layers) == {"from_image"}
    assert list(copy.uns["stimage"]) == ["from_image"]
    tl.embed(copy, aligner)
    tl.predict_expression(copy, aligner)
    assert sorted(copy.uns["stimage"]) == ["X_stimage", "from_image", "stimage_predicted"]
    np.testing.assert_array_equal(copy.layers["from_image"], copy.layers["stimage_predicted"])


def test_defaults_are_those_of_the_model():
    found = inspect.signature(tl.predict_expression).parameters
    expected = inspect.signature(STAlign.predict_expression).parameters
    for name in expected.keys() - {"self", "data"}:
        assert found[name].default == expected[name].default


def test_columns_follow_the_genes(stained, aligner):
    expected = predicted(stained, aligner)
    order = np.random.default_rng(0).permutation(stained.n_vars)
    np.testing.assert_array_equal(predicted(stained[:, order].copy(), aligner), expected[:, order])
    some = stained[:, 20:].copy()
    np.testing.assert_array_equal(predicted(some, aligner), expected[:, 20:])
    assert tl.predict_expression(some, aligner, copy=True).uns["stimage"]["stimage_predicted"]["n_genes_shared"] < 40


def test_rows_follow_the_spots(stained, aligner):
    expected = predicted(stained, aligner)
    order = np.random.default_rng(0).permutation(stained.n_obs)
    np.testing.assert_allclose(predicted(stained[order].copy(), aligner), expected[order], atol=1e-3)
    view = stained[order]
    with assert_unchanged(stained):
        tl.predict_expression(view, aligner)
    np.testing.assert_allclose(view.layers["stimage_predicted"], expected[order], atol=1e-3)


def test_slides_in_one_anndata(stained_pair, aligner):
    found = predicted(stained_pair, aligner)
    for part in apart(stained_tissue(n_slides=2, seed=5)):
        rows = stained_pair.obs_names.get_indexer(part.obs_names)
        np.testing.assert_allclose(predicted(part, aligner), found[rows], atol=1e-3)


def test_counts_are_not_looked_at(stained, aligner):
    expected = predicted(stained, aligner)
    counts = stained.X.toarray()
    for other in (0 * counts, np.log1p(counts), sparse.csc_matrix(stained.shape, dtype=np.float32)):
        stained.X = other
        np.testing.assert_array_equal(predicted(stained, aligner), expected)


def test_names_of_genes():
    """Ensembl ids, of any version, and other cases; the latter with a warning."""
    stained = prepared(stained_tissue(seed=3))
    ids = [f"ENSG{number:011}" for number in range(stained.n_vars)]
    stained.var["gene_ids"] = ids
    aligner = aligner_of(stained)
    expected = predicted(stained, aligner)
    bare = stained.copy()
    del bare.var["gene_ids"]
    for names in (ids, [f"{name}.3" for name in ids]):
        bare.var_names = names
        tl.predict_expression(bare, aligner)
        np.testing.assert_array_equal(bare.layers["stimage_predicted"], expected)
        assert bare.uns["stimage"]["stimage_predicted"]["n_genes_by_ensembl_id"] == 40
    bare.var_names = [name.lower() for name in stained.var_names]
    with pytest.warns(UserWarning, match="40 of 40 genes match the vocabulary only when upper and lower case"):
        tl.predict_expression(bare, aligner)
    np.testing.assert_array_equal(bare.layers["stimage_predicted"], expected)
    assert bare.uns["stimage"]["stimage_predicted"]["n_genes_ignoring_case"] == 40
    bare.var_names = [str(number) for number in range(stained.n_vars)]
    bare.var["symbol"] = stained.var_names
    np.testing.assert_array_equal(predicted(bare, aligner), expected)


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (None, {"method": "knn"}, ValueError, "`method` must be one of 'regression', 'retrieval'"),
        (None, {"n_neighbors": 0}, ValueError, "`n_neighbors` must be at least 1"),
        (None, {"n_neighbors": 2.5}, TypeError, "`n_neighbors` must be an integer"),
        (None, {"key_added": ""}, ValueError, "`key_added` must be a non-empty string"),
        (None, {"key_added": "a/b"}, ValueError, "`key_added`.*without '/'"),
        (None, {"key_added": 3}, TypeError, "`key_added` must be a string"),
        (None, {"key_added": "setup"}, ValueError, '`key_added`="setup" is taken'),
        (None, {"image_dir": 3}, TypeError, "`image_dir` must be a path"),
        (None, {"cache_dir": 3}, TypeError, "`cache_dir` must be a path"),
        (lambda a: a.uns.pop("spatial"), {}, KeyError, "No image"),
        (lambda a: a.uns["spatial"]["slide_1"].pop("images"), {}, KeyError, "has no image"),
        (lambda a: a.obsp.pop("niche_connectivities"), {}, KeyError, "No niches.*build_niches"),
        (lambda a: a.obsm.pop("niche_bbox"), {}, KeyError, "No niches.*build_niches"),
        (lambda a: a.uns.pop("grid"), {}, KeyError, "No compact grid.*compact_grid"),
        (lambda a: a.uns.update(stimage=3), {}, ValueError, "stimage did not write"),
        (lambda a: setattr(a, "var_names", [f"other{i}" for i in range(60)]), {}, ValueError, "0 genes of adata.var"),
    ],
)
def test_bad_input(stained, aligner, change, options, error, message):
    STAlign.setup_anndata(stained)
    if change is not None:
        change(stained)
    with assert_unchanged(stained), pytest.raises(error, match=message):
        tl.predict_expression(stained, aligner, **options)


def test_models_that_cannot(stained, model):
    with assert_unchanged(stained):
        for other in (None, model, "aligner"):
            with pytest.raises(TypeError, match=f"must be a stimage.models.STAlign, found {type(other).__name__}"):
                tl.predict_expression(stained, other)
        with pytest.raises(TypeError, match="`adata` must be an AnnData"):
            tl.predict_expression(None, model)
        with pytest.raises(ValueError, match="built without images"):
            tl.predict_expression(stained, aligner_of(stained, image_encoder=None))
        untrained = STAlign(stained, image_encoder=tiny_encoder(), n_pool_genes=40, config=TINY)
        with pytest.raises(ValueError, match="not trained"):
            tl.predict_expression(stained, untrained)


def widened(stained, n_more, counted):
    """The slide with more genes that the aligner does not know, with one count each or none."""
    more = sparse.csr_matrix(np.full((stained.n_obs, n_more), float(counted), dtype=np.float32))
    return AnnData(
        sparse.hstack([sparse.csr_matrix(stained.X), more], format="csr"),
        obs=stained.obs.copy(),
        var=pd.DataFrame(index=[*stained.var_names, *(f"other{i}" for i in range(n_more))]),
        obsm=dict(stained.obsm),
        obsp=dict(stained.obsp),
        uns=dict(stained.uns),
    )


@pytest.mark.parametrize("counted", [False, True])
def test_predictions_of_a_wide_slide(stained, aligner, counted, tmp_path):
    expected = pd.DataFrame(predicted(stained, aligner), columns=stained.var_names)
    wide = widened(stained, 40 * len(aligner.genes), counted)
    tl.predict_expression(wide, aligner)
    if counted:  # NaN of thousands of genes would be most of the file
        found = wide.obsm["stimage_predicted"]
        assert "stimage_predicted" not in wide.layers and list(found.index) == list(wide.obs_names)
        assert set(found.columns) == set(expected.columns[expected.notna().all()])
        np.testing.assert_array_equal(found.to_numpy(), expected[found.columns].to_numpy())
    else:
        layer = wide.layers["stimage_predicted"]
        assert layer.format == "csc" and "stimage_predicted" not in wide.obsm
        found = layer[:, : stained.n_vars].toarray()
        known = expected.notna().all().to_numpy()
        np.testing.assert_array_equal(found[:, known], expected.to_numpy()[:, known])
        assert layer[:, stained.n_vars :].nnz == 0
    wide.write_h5ad(tmp_path / "wide.h5ad")
    shown, columns = predicted_genes(wide, "stimage_predicted")
    np.testing.assert_array_equal(shown, expected.loc[:, wide.var_names[columns]].to_numpy())
