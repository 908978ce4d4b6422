import anndata
import numpy as np
import pandas as pd
import pytest
from helpers import assert_unchanged

from stimage import tl
from stimage.models._annotation import label_probabilities


@pytest.fixture
def labelled(slide):
    """A slide with an embedding that knows the domains, and the labels of its upper third."""
    rng = np.random.default_rng(0)
    codes = slide.obs["domain"].cat.codes.to_numpy()
    slide.obsm["X_stimage"] = (3 * np.eye(3, 6)[codes] + rng.normal(size=(slide.n_obs, 6))).astype(np.float32)
    known = np.zeros(slide.n_obs, dtype=bool)
    known[rng.permutation(slide.n_obs)[:30]] = True
    slide.obs["known"] = slide.obs["domain"].astype(object).where(known, None)
    return slide


def test_what_is_written(labelled):
    before = labelled.copy()
    assert tl.annotate(labelled, "known") is None
    known = before.obs["known"].notna().to_numpy()
    found = labelled.obs["stimage_annotation"]
    assert found.cat.categories.tolist() == ["domain_1", "domain_2", "domain_3"]
    assert found[known].tolist() == before.obs["known"][known].tolist()
    assert (found == labelled.obs["domain"])[~known].mean() > 0.8
    probability = labelled.obsm["stimage_annotation_probability"]
    codes = pd.Categorical(before.obs["known"]).codes
    expected = label_probabilities(before.obsm["X_stimage"], codes, 3, head="logistic")
    np.testing.assert_array_equal(probability, expected)
    np.testing.assert_array_equal(found.cat.codes, expected.argmax(axis=1))
    assert labelled.uns["stimage_annotation"]["params"] == {
        "label_key": "known",
        "use_rep": "X_stimage",
        "head": "logistic",
        "n_components": 15,
        "n_labelled": 30,
        "n_labelled_reference": 0,
    }
    assert (labelled.X != before.X).nnz == 0


def test_copy_and_other_key(labelled):
    with assert_unchanged(labelled):
        copied = tl.annotate(labelled, "known", key_added="layer", head="knn", copy=True)
    assert {"layer", "layer_probability"} <= {*copied.obs, *copied.obsm}
    assert copied.uns["layer"]["params"]["head"] == "knn"


def test_order_of_given_categories_is_kept(labelled):
    order = ["domain_3", "unused", "domain_1", "domain_2"]
    labelled.obs["known"] = pd.Categorical(labelled.obs["known"], categories=order)
    tl.annotate(labelled, "known")
    assert labelled.obs["stimage_annotation"].cat.categories.tolist() == order
    np.testing.assert_array_equal(labelled.obsm["stimage_annotation_probability"][:, 1], 0.0)


def test_labels_from_another_anndata(labelled):
    other = labelled.copy()
    del other.obs["known"]
    with assert_unchanged(labelled):
        tl.annotate(other, "known", reference=labelled)
    assert other.uns["stimage_annotation"]["params"]["n_labelled_reference"] == 30
    # Both in one AnnData is the same.
    both = anndata.concat([other, labelled], join="outer", index_unique="-")
    tl.annotate(both, "known")
    np.testing.assert_array_equal(
        both.obsm["stimage_annotation_probability"][: other.n_obs], other.obsm["stimage_annotation_probability"]
    )
    # Labels of its own come first.
    other.obs["known"] = "domain_0"
    tl.annotate(other, "known", reference=labelled)
    assert other.obs["stimage_annotation"].cat.categories[0] == "domain_0"
    assert (other.obs["stimage_annotation"] == "domain_0").all()


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_results_can_be_written(labelled, tmp_path, kind):
    labelled.obs["known"] = labelled.obs["known"].map({"domain_1": "L1", "domain_2": "L2/3", "domain_3": "WM"})
    tl.annotate(labelled, "known")
    path = tmp_path / f"slide.{kind}"
    getattr(labelled, f"write_{kind}")(path)
    read = getattr(anndata, f"read_{kind}")(path)
    np.testing.assert_array_equal(
        read.obsm["stimage_annotation_probability"], labelled.obsm["stimage_annotation_probability"]
    )
    assert read.obs["stimage_annotation"].cat.categories.tolist() == ["L1", "L2/3", "WM"]


def test_bad_input(labelled):
    other = labelled.copy()
    other.obsm["X_stimage"] = other.obsm["X_stimage"][:, :4]
    third = labelled.copy()
    for part, name in ((labelled, "a"), (third, "b")):
        part.uns["stimage"] = {"X_stimage": {"model_id": name}}
    labelled.obs["one"] = np.where(labelled.obs["known"] == "domain_1", "domain_1", None)
    cases = [
        (KeyError, "label_key.*'nothing'", ("nothing",), {}),
        (KeyError, "use_rep", ("known",), {"use_rep": "X_none"}),
        (ValueError, "head.*'mlp'", ("known",), {"head": "mlp"}),
        (ValueError, "1 different labels.*domain_1", ("one",), {}),
        (ValueError, "n_components", ("known",), {"n_components": 0}),
        (ValueError, "6 dimensions.*4", ("known",), {"reference": other}),
        (ValueError, "model a.*model b", ("known",), {"reference": third}),
        (TypeError, "reference.*str", ("known",), {"reference": "other"}),
    ]
    for error, message, arguments, options in cases:
        with assert_unchanged(labelled), pytest.raises(error, match=message):
            tl.annotate(labelled, *arguments, **options)
