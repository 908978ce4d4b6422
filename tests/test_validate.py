import numpy as np
import pytest
from anndata import AnnData
from helpers import assert_unchanged
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from scipy import sparse

from stimage import _count_rows, _validate

FORMS = {
    "dense": np.asarray,
    "fortran": np.asfortranarray,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
}


def slide(counts, form="csr"):
    return AnnData(FORMS[form](np.asarray(counts)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint16])
def test_counts_are_returned_as_they_are(form, dtype):
    counts = np.random.default_rng(0).poisson(1.0, (20, 5)).astype(dtype)
    adata = slide(counts, form)
    assert _validate.check_counts(adata) is adata.X
    view = adata[3:9]
    _validate.check_counts(view)
    assert view.is_view


@settings(max_examples=100, deadline=None)
@given(
    values=npst.arrays(np.float64, (6, 3), elements=st.sampled_from([0.0, 1.0, 7.0, 0.5, -1.0, np.nan, np.inf])),
    form=st.sampled_from(list(FORMS)),
    block=st.integers(1, 20),
)
def test_counts_are_refused_exactly_when_one_value_is_no_count(values, form, block):
    """Whatever the storage, and wherever the blocks that are looked at begin."""
    bad = [v for v in values.ravel() if not (np.isfinite(v) and v >= 0 and v == int(v))]
    adata = slide(values, form)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_count_rows, "VALUES_AT_A_TIME", block)
        if bad:
            with assert_unchanged(adata), pytest.raises(ValueError, match="NaN or infinite|negative|not whole"):
                _validate.check_counts(adata)
        else:
            _validate.check_counts(adata)


@pytest.mark.parametrize("form", FORMS)
def test_counts_say_what_is_wrong_and_where_counts_may_be(form):
    counts = np.random.default_rng(0).poisson(3.0, (20, 5)).astype(float)
    adata = slide(np.log1p(counts), form)
    adata.layers["counts"] = counts
    with pytest.raises(ValueError, match="adata.X holds .* looks log-transformed.*`layer=` .*'counts'"):
        _validate.check_counts(adata)
    _validate.check_counts(adata, "counts")
    adata.layers["cpm"] = counts * 123.4
    with pytest.raises(ValueError, match="adata.layers.'cpm'. holds .* looks normalised"):
        _validate.check_counts(adata, "cpm")
    with pytest.raises(KeyError, match="`layer`='raw' is not in adata.layers; available: 'counts', 'cpm'"):
        _validate.check_counts(adata, "raw")
    adata.layers["scaled"] = counts - 3
    with pytest.raises(ValueError, match="negative values .e.g. -3"):
        _validate.check_counts(adata, "scaled")


def test_counts_of_other_kinds():
    with pytest.raises(ValueError, match="adata.X is empty: pass the raw counts with `layer=`"):
        _validate.check_counts(AnnData(obs={"a": [1, 2]}))
    coo = slide(np.eye(3))
    coo.layers["dense"] = np.eye(3, dtype=complex)
    with pytest.raises(TypeError, match="must hold numbers, found dtype complex128"):
        _validate.check_counts(coo, "dense")


def test_counts_in_a_file(tmp_path):
    from anndata import read_h5ad

    path = tmp_path / "slide.h5ad"
    slide(np.eye(4)).write_h5ad(path)
    backed = read_h5ad(path, backed="r")
    with pytest.raises(TypeError, match="in memory, found .*to_memory"):
        _validate.check_counts(backed)
    backed.file.close()


def test_sizes_and_names():
    with pytest.raises(ValueError, match="1 genes, at least 2"):
        _validate.check_size(slide(np.ones((3, 1))))
    with pytest.raises(ValueError, match="1 observations, at least 2"):
        _validate.check_size(slide(np.ones((1, 3))))
    _validate.check_size(slide(np.ones((2, 2))))
    adata = slide(np.ones((3, 3)))
    adata.var_names = ["a", "b", "a"]
    _validate.check_unique_names(adata)
    with pytest.raises(ValueError, match="`adata.var_names` has 1 repeated names .e.g. 'a'.*var_names_make_unique"):
        _validate.check_unique_names(adata, genes=True)


def test_choice():
    _validate.check_choice("method", "gmm", ("gmm", "kmeans"))
    for value in ("GMM", None, 3, ["gmm"]):
        with pytest.raises(ValueError, match="`method` must be one of 'gmm', 'kmeans', found"):
            _validate.check_choice("method", value, ("gmm", "kmeans"))


def test_listing_is_short():
    assert _validate.listing([]) == "none"
    assert _validate.listing("abc") == "'a', 'b', 'c'"
    assert _validate.listing(range(12), 2) == "'0', '1' and 10 more"


def test_slide_codes():
    adata = slide(np.ones((4, 2)))
    names, codes = _validate.slide_codes(adata, None)
    assert (names, codes.tolist()) == (["slide"], [0, 0, 0, 0])
    adata.obs["s"] = ["b", "a", "b", "c"]
    adata.obs["s"] = adata.obs["s"].astype("category")
    names, codes = _validate.slide_codes(adata[:3], "s")
    assert (names, codes.tolist()) == (["a", "b"], [1, 0, 1])
    adata.obs["n"] = [3, 1, 3, 2]
    names, codes = _validate.slide_codes(adata, "n")
    assert (names, codes.tolist()) == (["1", "2", "3"], [2, 0, 2, 1])
    with pytest.raises(KeyError, match="`slide_key`='sample' is not in adata.obs; available: 's', 'n'"):
        _validate.slide_codes(adata, "sample")


def test_spatial_key_is_checked_for_presence():
    adata = slide(np.ones((3, 2)))
    with pytest.raises(KeyError, match="available: none"):
        _validate.check_spatial(adata, "spatial")
    adata.obsm["spatial"] = np.arange(6).reshape(3, 2)
    assert _validate.check_spatial(adata, "spatial").dtype == np.float64
