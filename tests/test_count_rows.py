import anndata as ad
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from stimage import _count_rows as module
from stimage import _validate

N_ROWS, N_GENES = 23, 7


def dense_counts(seed=0):
    counts = np.random.default_rng(seed).poisson(0.7, (N_ROWS, N_GENES)).astype(np.float32)
    counts[[0, 5, 6]] = 0
    return counts


@pytest.fixture(scope="module", params=["dense", "csr", "csc", "csr in a file", "dense in a file"])
def stored(request, tmp_path_factory):
    counts = dense_counts()
    if request.param == "dense":
        return counts
    if "file" not in request.param:
        return getattr(sparse, f"{request.param}_matrix")(counts)
    path = tmp_path_factory.mktemp("counts") / "slide.h5ad"
    ad.AnnData(sparse.csr_matrix(counts) if "csr" in request.param else counts).write_h5ad(path)
    return ad.read_h5ad(path, backed="r").X


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, N_ROWS - 1), max_size=30), st.sampled_from([1, 9, 40, 10_000]), st.sampled_from([0, 1, 256])
)
def test_rows_in_any_order(stored, rows, n_values, gap):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "VALUES_AT_A_TIME", n_values)
        patch.setattr(module, "_GAP", gap)
        rows = np.array(rows, dtype=np.int64)
        found = module.count_rows(stored, rows)
        np.testing.assert_array_equal(found.toarray(), dense_counts()[rows])
        blocks = list(module.row_blocks(stored, rows))
        np.testing.assert_array_equal(np.concatenate([numbers for numbers, _ in blocks] or [[]]), rows)
        for numbers, block in blocks:
            np.testing.assert_array_equal(block.toarray(), dense_counts()[numbers])


@pytest.mark.parametrize("n_values", [1, 30, 10_000])
def test_totals_of_genes(stored, monkeypatch, n_values):
    monkeypatch.setattr(module, "VALUES_AT_A_TIME", n_values)
    counts = dense_counts()
    np.testing.assert_array_equal(module.gene_totals(stored), [counts.sum(axis=0)])
    slides = [np.array([3, 1, 22]), np.array([5]), np.arange(10, 20)]
    np.testing.assert_array_equal(module.gene_totals(stored, slides), [counts[rows].sum(axis=0) for rows in slides])
    assert sum(block.sum() for block in module.value_blocks(stored)) == counts.sum()


def test_row_pointers_of_another_type_share_the_values():
    # As anndata reads a file of few values whose row pointers are long; scipy makes all indices long for each slice.
    counts = sparse.csr_matrix(dense_counts())
    counts.indptr = counts.indptr.astype(np.int64)
    assert counts.indices.dtype == np.int32
    found = module.by_rows(counts)
    assert found.indptr.dtype == found.indices.dtype == np.int32
    assert np.shares_memory(found.data, counts.data) and np.shares_memory(found.indices, counts.indices)
    for rows, block in module.row_blocks(counts):
        np.testing.assert_array_equal(block.toarray(), dense_counts()[rows])
    assert counts.indptr.dtype == np.int64


def test_blocks_are_small(stored, monkeypatch):
    monkeypatch.setattr(module, "VALUES_AT_A_TIME", 20)
    sizes = [len(rows) for rows, _ in module.row_blocks(stored)]
    assert sum(sizes) == N_ROWS
    assert max(sizes) * np.count_nonzero(dense_counts()) / N_ROWS <= 20


def test_counts_in_a_file_are_checked(tmp_path):
    counts = dense_counts()
    for name, matrix in {"good": counts, "half": counts + 0.5, "columns": counts}.items():
        stored = sparse.csc_matrix(matrix) if name == "columns" else sparse.csr_matrix(matrix)
        ad.AnnData(stored).write_h5ad(tmp_path / f"{name}.h5ad")
    good, half, columns = (ad.read_h5ad(tmp_path / f"{name}.h5ad", backed="r") for name in ("good", "half", "columns"))
    found = _validate.check_counts(good, backed=True)
    np.testing.assert_array_equal(found[:].toarray(), counts)
    with pytest.raises(ValueError, match="not whole numbers"):
        _validate.check_counts(half, backed=True)
    with pytest.raises(TypeError, match=r"gene by gene \(CSC\).*to_memory"):
        _validate.check_counts(columns, backed=True)
