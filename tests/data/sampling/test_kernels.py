import multiprocessing
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import sparse
from slides import random_slide
from torch.utils.data import DataLoader, get_worker_info

from stimage.data import WindowDataset, WindowSpec, collate_windows, crop
from stimage.data.sampling._kernels import draw_in_turn, gene_variances, read_genes, row_arrays, smallest
from stimage.data.sampling._windows import read_sites
from stimage.data.slides._stored_matrix import StoredMatrix

METHODS = ["weighted", "hvg", "random"]
SPEC = WindowSpec(window=5, n_genes=4, masking="mixed")


def drawn_in_turn(weights, uniform):
    """Places drawn one after the other, by the cumulative sum of the weights that remain; sorted."""
    weights, drawn = weights.copy(), []
    for number in uniform:
        cumulative = np.cumsum(weights)
        drawn.append(int(np.searchsorted(cumulative, number * cumulative[-1], side="right")))
        weights[drawn[-1]] = 0
    return np.sort(drawn)


def reference(slide, sites, n_genes, method, rng):
    """Observed sites, expression and genes of a window, from a dense copy of its rows."""
    observed = np.array([site >= 0 and slide.library_size[site] > 0 for site in sites])
    dense = slide.expression[sites[observed]].toarray()
    measured = np.flatnonzero(slide.measured)
    chosen = measured
    if n_genes < len(measured):
        variance = dense.astype(np.float64).var(axis=0)[measured] if observed.any() else np.zeros(len(measured))
        if method == "weighted":
            chosen = measured[drawn_in_turn(variance + 1e-6, rng.random(n_genes))]
        else:
            keys = -variance if method == "hvg" else rng.random(len(measured))
            chosen = measured[np.sort(np.argsort(keys, kind="stable")[:n_genes])]
    expression = np.zeros((len(sites), n_genes), dtype=np.float32)
    expression[observed, : len(chosen)] = dense[:, chosen] - slide.gene_mean[chosen]
    return observed, expression, chosen


def sparse_matrix(n_rows, n_genes, density, seed):
    rng = np.random.default_rng(seed)
    dense = rng.gamma(1.0, 1.0, (n_rows, n_genes)) * (rng.random((n_rows, n_genes)) < density)
    return sparse.csr_matrix(dense.astype(np.float32))


def with_long_indices(matrix):
    """The same matrix with 64-bit numbers, as scipy makes it when there are very many values."""
    matrix = matrix.copy()
    matrix.indices, matrix.indptr = matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)
    return matrix


def stored(matrix, folder):
    path = folder / "matrix"
    path.write_bytes(matrix.data.astype("<f4").tobytes() + matrix.indices.astype("<i4").tobytes())
    return StoredMatrix(path, matrix.shape, matrix.indptr, data_offset=0, indices_offset=4 * matrix.nnz)


@pytest.fixture
def two_threads():
    n_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(n_threads)


def dataset(seed=0):
    slides = [random_slide(11, 9 + i, n_genes=9, unmeasured=i, seed=i) for i in range(3)]
    slides[1] = replace(slides[1], expression=with_long_indices(slides[1].expression))
    return WindowDataset(slides, SPEC, seed=seed)


def same(first, second):
    return all(
        torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype
        for a, b in zip(first, second, strict=True)
        for key in a
    )


@settings(max_examples=60, deadline=None)
@given(
    st.builds(
        random_slide,
        st.integers(1, 9),
        st.integers(1, 9),
        n_genes=st.sampled_from([3, 8, 40]),
        holes=st.sampled_from([0.0, 0.3, 0.9]),
        empty=st.sampled_from([0.0, 0.3, 1.0]),
        unmeasured=st.integers(0, 3),
        seed=st.integers(0, 50),
    ),
    st.sampled_from([0.0, 0.1, 0.6]),
    st.integers(-7, 9),
    st.integers(-7, 9),
    st.integers(1, 45),
    st.sampled_from(METHODS),
    st.booleans(),
)
def test_windows_are_those_of_dense_rows(slide, density, top, left, n_genes, method, long_indices):
    expression = sparse_matrix(slide.n_sites, len(slide.measured), density, 0).multiply(slide.measured).tocsr()
    slide = replace(slide, expression=with_long_indices(expression) if long_indices else expression)
    sites = crop(slide.raster, top, left, 6, 6).ravel()
    spec = WindowSpec(window=6, n_genes=n_genes, gene_selection=method)
    observed, values, chosen = reference(slide, sites, n_genes, method, np.random.default_rng(7))
    rng = np.random.default_rng(7)
    found, expression, genes, gene_valid = read_sites(slide, sites, spec, rng)
    np.testing.assert_array_equal(found, observed)
    np.testing.assert_array_equal(genes[gene_valid], chosen)
    np.testing.assert_array_equal(gene_valid, np.arange(n_genes) < len(chosen))
    assert not genes[~gene_valid].any()
    np.testing.assert_array_equal(expression, values)
    assert expression.dtype == np.float32
    # What is drawn next, the mask, starts from the same place of the stream.
    again = np.random.default_rng(7)
    reference(slide, sites, n_genes, method, again)
    assert rng.random() == again.random()


@pytest.mark.parametrize("method", METHODS)
def test_windows_with_many_genes(method):
    slide = random_slide(8, 8, n_genes=3000, seed=3)
    slide = replace(slide, expression=sparse_matrix(slide.n_sites, 3000, 0.05, 1), measured=np.arange(3000) % 7 > 0)
    sites = np.random.default_rng(0).permutation(slide.n_sites)[:40]
    for seed in range(5):
        _, values, chosen = reference(slide, sites, 150, method, np.random.default_rng(seed))
        spec = WindowSpec(n_genes=150, gene_selection=method)
        _, expression, genes, _ = read_sites(slide, sites, spec, np.random.default_rng(seed))
        np.testing.assert_array_equal(genes, chosen)
        np.testing.assert_array_equal(expression, values)


def test_windows_of_a_stored_matrix(tmp_path):
    slide = random_slide(9, 9, n_genes=30, seed=2)
    on_disk = replace(slide, expression=stored(slide.expression, tmp_path), centre=slide.gene_mean)
    sites = crop(slide.raster, -1, 2, 6, 6).ravel()
    spec = WindowSpec(n_genes=12)
    memory, disk = (read_sites(part, sites, spec, np.random.default_rng(1)) for part in (slide, on_disk))
    for first, second in zip(memory, disk, strict=True):
        np.testing.assert_array_equal(first, second)


@settings(deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 9)), elements=st.sampled_from([0, 0.5, 3.7, 9.25])),
    st.data(),
    st.booleans(),
)
def test_variances(dense, data, long_indices):
    matrix = sparse.csr_matrix(dense)
    matrix = with_long_indices(matrix) if long_indices else matrix
    rows = np.array(data.draw(st.lists(st.integers(0, len(dense) - 1), min_size=1, max_size=20)))
    variance = gene_variances(*row_arrays(matrix, rows), dense.shape[1])
    np.testing.assert_allclose(variance, dense[rows].astype(np.float64).var(axis=0), atol=1e-12)
    assert (variance >= 0).all()


def test_variances_keep_double_precision():
    # In single precision the sum of these squares loses all of the variance.
    dense = np.tile(np.float32([9.0, 9.0 + 1e-5]), 128)[:, None]
    variance = gene_variances(*row_arrays(sparse.csr_matrix(dense), np.arange(256)), 1)
    np.testing.assert_allclose(variance, dense.astype(np.float64).var(axis=0), rtol=1e-2)


def test_no_rows_have_no_variance():
    matrix = sparse_matrix(3, 5, 0.5, 0)
    assert gene_variances(*row_arrays(matrix, np.empty(0, dtype=np.int64)), 5).tolist() == [0.0] * 5


def test_other_places_of_a_window_are_left_alone():
    matrix = sparse_matrix(4, 6, 0.6, 0)
    window = np.full((5, 4), 9, dtype=np.float32)
    genes, centre = np.array([1, 4]), np.float32([0.5, 0.25])
    read_genes(*row_arrays(matrix, np.array([2, 0])), 6, genes, centre, np.array([3, 1]), window)
    expected = np.full((5, 4), 9, dtype=np.float32)
    expected[[3, 1], :2] = matrix.toarray()[[2, 0]][:, genes] - centre
    np.testing.assert_array_equal(window, expected)


@settings(deadline=None)
@given(
    st.one_of(
        arrays(np.float64, st.integers(1, 400), elements=st.floats(-50, 50)),
        # Many equal keys.
        arrays(np.float64, st.integers(1, 400), elements=st.sampled_from([-1.0, 0.0, 2.0])),
    ),
    st.data(),
)
def test_smallest(keys, data):
    n = data.draw(st.integers(1, len(keys)))
    np.testing.assert_array_equal(smallest(keys, n), np.sort(np.argsort(keys, kind="stable")[:n]))


@pytest.mark.parametrize("period", [1, 2, 4, 8, 16, 32])
def test_smallest_where_a_sample_of_the_keys_misleads(period):
    keys = np.random.default_rng(0).random(2000) + 10
    keys[::period] -= 10
    for n in (1, 50, 125, 126, 500, 2000):
        np.testing.assert_array_equal(smallest(keys, n), np.sort(np.argsort(keys)[:n]))


@settings(deadline=None)
@given(
    arrays(np.float64, st.integers(1, 2500), elements=st.sampled_from([1e-6, 0.3, 1.7, 50.0])),
    st.data(),
    st.integers(0, 99),
)
def test_drawing_in_turn(weights, data, seed):
    n_drawn = data.draw(st.integers(1, min(len(weights), 60)))
    uniform = np.random.default_rng(seed).random(n_drawn)
    np.testing.assert_array_equal(np.sort(draw_in_turn(weights.copy(), uniform)), drawn_in_turn(weights, uniform))


@pytest.mark.parametrize("n_weights", [1, 31, 32, 33, 1024, 1025, 3000])
@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-53])
def test_everything_is_drawn_once(n_weights, number):
    # Weights of very different size, and numbers at the ends of what a generator gives.
    weights = 10.0 ** np.random.default_rng(0).uniform(-6, 3, n_weights)
    drawn = draw_in_turn(weights, np.full(n_weights, number))
    np.testing.assert_array_equal(np.sort(drawn), np.arange(n_weights))
    assert not weights.any()


def test_a_batch_is_its_items(two_threads):
    windows = dataset()
    numbers = [5, 0, 17, 5, 123456789]
    batch = collate_windows(windows.__getitems__(numbers))
    assert same([batch], [collate_windows([windows[number] for number in numbers])])
    torch.set_num_threads(1)
    assert same([batch], [collate_windows(windows.__getitems__(numbers))])
    assert windows.__getitems__([]) == []


class Meeting(WindowDataset):
    """Windows that are cut only while another thread cuts one too."""

    def __getitem__(self, index):
        self.barrier.wait(timeout=30)
        return super().__getitem__(index)


def test_a_batch_is_cut_side_by_side(two_threads):
    windows = Meeting([random_slide()], SPEC, seed=0)
    windows.barrier = threading.Barrier(2)
    assert len(windows.__getitems__(range(6))) == 6


class OneThread(WindowDataset):
    """Windows that only the main thread of a worker may cut."""

    def __getitem__(self, index):
        if get_worker_info() is None or threading.current_thread() is not threading.main_thread():
            raise RuntimeError("not in the main thread of a worker")
        return super().__getitem__(index)


def loader(windows, num_workers=0):
    options = {"batch_size": 3, "collate_fn": collate_windows, "num_workers": num_workers}
    return DataLoader(windows, sampler=range(8), multiprocessing_context="fork" if num_workers else None, **options)


def test_workers_cut_the_same_batches(two_threads):
    # The threads of this process have been used before it is forked.
    alone = list(loader(dataset()))
    assert [len(batch["genes"]) for batch in alone] == [3, 3, 2]
    assert same(alone, list(loader(dataset(), num_workers=2)))
    windows = dataset()
    windows = OneThread(windows.slides, SPEC, seed=0)
    assert same(alone, list(loader(windows, num_workers=2)))


def cut(windows, queue):
    queue.put(collate_windows(windows.__getitems__(range(4)))["expression"].numpy())


def test_a_forked_process_cuts_on_threads_of_its_own(two_threads):
    windows = dataset()
    here = collate_windows(windows.__getitems__(range(4)))["expression"].numpy()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=cut, args=(windows, queue))
    process.start()
    np.testing.assert_array_equal(queue.get(timeout=60), here)
    process.join(timeout=60)
    assert process.exitcode == 0
