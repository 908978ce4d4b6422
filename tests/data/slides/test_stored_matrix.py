import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from slides import random_slide

from stimage.data import Corpus, StoredMatrix
from stimage.data.slides import _row_matrix as module

N_SITES, N_GENES = 60, 7


def stored(folder, *, seed=0, n_rows=10, n_cols=6, **options):
    """A matrix in memory and the same one on disk."""
    slide = random_slide(n_rows, n_cols, n_genes=N_GENES, seed=seed, **options)
    Corpus([slide], [f"g{i}" for i in range(N_GENES)]).write(folder / "corpus", target_sum=1e4)
    return slide.expression, Corpus.open(folder / "corpus")[0].expression


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    matrix, on_disk = stored(tmp_path_factory.mktemp("matrix"), holes=0.0, empty=0.3)
    assert matrix.shape == (N_SITES, N_GENES)
    # Rows without values stand between others.
    assert (np.diff(matrix.indptr) == 0).any()
    return matrix, on_disk


def assert_same(found, expected):
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    for part in ("indptr", "indices", "data"):
        assert getattr(found, part).dtype == getattr(expected, part).dtype
        np.testing.assert_array_equal(getattr(found, part), getattr(expected, part))


rows = st.one_of(
    st.lists(st.integers(-N_SITES, N_SITES - 1)),
    st.lists(st.booleans(), min_size=N_SITES, max_size=N_SITES),
    st.builds(slice, *[st.none() | st.integers(-70, 70)] * 2, st.sampled_from([None, 1, 2, 7, -1, -3])),
    st.builds(lambda start, n: list(range(start, min(start + n, N_SITES))), st.integers(0, 50), st.integers(0, 30)),
)


@settings(deadline=None, max_examples=150)
@given(rows)
def test_rows_are_those_of_scipy(pair, chosen):
    matrix, on_disk = pair
    chosen = chosen if isinstance(chosen, slice) else np.array(chosen, dtype=None if chosen else np.int64)
    assert_same(on_disk[chosen], matrix[chosen])


def test_facts(pair):
    matrix, on_disk = pair
    assert (on_disk.shape, on_disk.nnz, on_disk.dtype) == (matrix.shape, matrix.nnz, matrix.dtype)
    np.testing.assert_array_equal(on_disk.indptr, matrix.indptr)
    assert on_disk.indptr.dtype == np.int64
    assert "StoredMatrix of 60 x 7" in repr(on_disk)


@pytest.mark.parametrize("block", [1, 20, 1 << 22])
def test_products(pair, block, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    matrix, on_disk = pair
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(N_GENES, 3)).astype(np.float32)
    np.testing.assert_allclose(on_disk @ dense, matrix @ dense, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(on_disk @ dense[:, 0], matrix @ dense[:, 0], rtol=1e-6, atol=1e-6)
    weights = sparse.random(5, N_SITES, density=0.2, format="csr", random_state=0)
    product = weights @ on_disk
    np.testing.assert_allclose(product.toarray(), (weights @ matrix).toarray(), rtol=1e-6)
    assert sparse.issparse(product)
    assert sum(len(rows) for rows, _ in on_disk.row_blocks()) == N_SITES
    chosen = np.array([50, 3, 3, 20])
    found = sparse.vstack([part for _, part in on_disk.row_blocks(chosen)])
    assert (found != matrix[chosen]).nnz == 0
    with pytest.raises(TypeError):
        _ = np.ones((2, N_SITES)) @ on_disk


def test_another_scale(pair):
    matrix, on_disk = pair
    expected = np.log1p(np.expm1(matrix.data.astype(np.float64)) * 0.25)
    other = on_disk.rescaled(0.5).rescaled(0.5)
    np.testing.assert_allclose(other[:].data, expected, rtol=1e-5)
    assert other[:].dtype == np.float32
    assert_same(on_disk[:], matrix)


@pytest.mark.parametrize(
    ("chosen", "error"),
    [
        ([N_SITES], IndexError),
        ([-N_SITES - 1], IndexError),
        ([True] * (N_SITES - 1), IndexError),
        ([0.5], TypeError),
        ([[0, 1]], TypeError),
    ],
)
def test_rows_that_are_not_there(pair, chosen, error):
    with pytest.raises(error):
        _ = pair[1][chosen]


def test_no_descriptor_stays_open(pair):
    before = set(os.listdir("/proc/self/fd"))
    for site in range(20):
        _ = pair[1][site : site + 5]
    assert set(os.listdir("/proc/self/fd")) == before


def total(matrix, site):
    return float(matrix[site : site + 30].sum())


def test_several_processes_read_at_once(pair):
    matrix, on_disk = pair
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("fork")) as pool:
        found = list(pool.map(total, [on_disk] * 60, range(60)))
    np.testing.assert_allclose(found, [total(matrix, site) for site in range(60)], rtol=1e-6)
    assert_same(pickle.loads(pickle.dumps(on_disk.rescaled(1.0)))[:], matrix)


def test_a_changed_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matrix, _ = stored(tmp_path)
    on_disk = Corpus.open("corpus")[0].expression
    monkeypatch.chdir("/")
    assert_same(on_disk[:], matrix)


def test_files_that_go_or_shrink(tmp_path):
    _, on_disk = stored(tmp_path)
    os.truncate(on_disk.path, os.path.getsize(on_disk.path) // 3)
    with pytest.raises(ValueError, match=r"000000-.*is damaged: it ends too early. `stimage.data.Corpus.verify`"):
        _ = on_disk[:]
    os.remove(on_disk.path)
    with pytest.raises(FileNotFoundError, match=r"000000-.*is gone: put it back, or open the corpus again"):
        _ = on_disk[:2]


def test_columns_outside_of_the_matrix(tmp_path):
    for column in (N_GENES, -1):
        _, on_disk = stored(tmp_path / str(column), seed=1)
        with open(on_disk.path, "r+b") as file:
            file.seek(on_disk.indices_offset)
            file.write(np.int32(column).tobytes())
        with pytest.raises(ValueError, match="is damaged: it names genes that the vocabulary does not have"):
            _ = on_disk[:]


def test_a_run_longer_than_one_reading(pair, monkeypatch):
    """The system may return less than was asked for."""
    matrix, on_disk = pair
    read = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: read(fd, [buffers[0][:13]], at))
    assert_same(on_disk[:], matrix)
    assert isinstance(on_disk, StoredMatrix)
