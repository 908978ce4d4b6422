import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from slides import random_slide, visium

from stimage import pp
from stimage.data import Corpus, WindowSpec, crop, cut_window, window_origins, window_positions

slides = st.builds(
    random_slide,
    st.integers(1, 9),
    st.integers(1, 9),
    holes=st.sampled_from([0.0, 0.3, 0.9]),
    empty=st.sampled_from([0.0, 0.3]),
    layout=st.sampled_from(["hex", "square"]),
    parity=st.integers(0, 1),
    unmeasured=st.integers(0, 3),
    seed=st.integers(0, 50),
)
offsets = st.integers(-12, 12)


def site_at(slide, row, col):
    """Site number at a raster position, -1 outside of the raster."""
    inside = 0 <= row < slide.shape[0] and 0 <= col < slide.shape[1]
    return int(slide.raster[row, col]) if inside else -1


def active_at(slide, row, col):
    site = site_at(slide, row, col)
    return site >= 0 and slide.library_size[site] > 0


@settings(deadline=None)
@given(slides, offsets, offsets, st.integers(1, 8), st.integers(1, 8))
def test_crop(slide, top, left, height, width):
    patch = crop(slide.raster, top, left, height, width)
    expected = [[site_at(slide, top + i, left + j) for j in range(width)] for i in range(height)]
    np.testing.assert_array_equal(patch, expected)
    assert patch.dtype == slide.raster.dtype


def test_crop_is_a_copy_and_fills():
    image = np.arange(6).reshape(2, 3)
    patch = crop(image, -1, 1, 3, 4, fill=9)
    np.testing.assert_array_equal(patch, [[9, 9, 9, 9], [1, 2, 9, 9], [4, 5, 9, 9]])
    patch[:] = 0
    assert image[1, 2] == 5


@settings(max_examples=150, deadline=None)
@given(slides, st.integers(2, 7), st.sampled_from([0.0, 0.25, 0.8, 1.0]))
def test_window_origins(slide, window, min_occupancy):
    n_rows, n_cols = slide.shape
    tops = range(n_rows - window + 1) if n_rows >= window else [-((window - n_rows + 1) // 2)]
    lefts = range(n_cols - window + 1) if n_cols >= window else [-((window - n_cols + 1) // 2)]
    occupied = {
        (top, left): sum(active_at(slide, top + i, left + j) for i in range(window) for j in range(window))
        for top in tops
        for left in lefts
    }
    # The fullest windows stand in when none is full enough; a window of fewer than two sites teaches nothing.
    needed = max(min(min_occupancy * window**2, max(occupied.values())), 2)
    expected = [origin for origin, count in occupied.items() if count >= needed]
    assert sorted(map(tuple, window_origins(slide, window, min_occupancy).tolist())) == sorted(expected)


@settings(max_examples=100, deadline=None)
@given(
    slides,
    offsets,
    offsets,
    st.integers(2, 6),
    st.integers(1, 8),
    st.sampled_from(["weighted", "hvg", "random"]),
    st.sampled_from(["site", "region", "mixed", "site_gene"]),
)
def test_cut_window(slide, top, left, size, n_genes, gene_selection, masking):
    sites = [(top + i, left + j) for i in range(size) for j in range(size)]
    observed = np.array([active_at(slide, *site) for site in sites])
    if observed.sum() < 2:
        return
    spec = WindowSpec(window=size, n_genes=n_genes, gene_selection=gene_selection, masking=masking, mask_ratio=0.5)
    window = cut_window(slide, top, left, spec, np.random.default_rng(0))
    np.testing.assert_array_equal(window.observed, observed)

    dense = slide.expression.toarray().astype(np.float64)
    mean = dense[slide.library_size > 0].mean(axis=0)
    n_measured = int(slide.measured.sum())
    assert window.gene_valid.sum() == min(n_genes, n_measured)
    genes = window.genes[window.gene_valid].tolist()
    assert len(set(genes)) == len(genes)
    assert slide.measured[genes].all()
    for row, site in enumerate(sites):
        for k in range(n_genes):
            expected = 0.0
            if observed[row] and window.gene_valid[k]:
                gene = window.genes[k]
                expected = dense[site_at(slide, *site), gene] - mean[gene]
            assert window.expression[row, k] == pytest.approx(expected, abs=1e-5)
    if gene_selection == "hvg" and n_genes < n_measured:
        variance = dense[[site_at(slide, *site) for site in np.array(sites)[observed]]].var(axis=0)
        others = np.setdiff1d(np.flatnonzero(slide.measured), genes)
        assert variance[genes].min() >= variance[others].max() - 1e-6

    if masking == "site_gene":
        assert window.hidden.shape == window.expression.shape
        assert not window.hidden[~observed].any()
        assert not window.hidden[:, ~window.gene_valid].any()
    else:
        assert not window.hidden[~observed].any()
        assert 1 <= window.hidden.sum() < observed.sum()
    assert window.positions.shape == (size * size, 2)
    assert window.positions.dtype == window.expression.dtype == np.float32


def test_single_values_are_hidden_in_the_share():
    slide = random_slide(12, 12, n_genes=40)
    spec = WindowSpec(window=12, n_genes=40, masking="site_gene", mask_ratio=0.3)
    window = cut_window(slide, 0, 0, spec, np.random.default_rng(0))
    n_values = window.observed.sum() * 40
    assert abs(window.hidden.sum() / n_values - 0.3) < 5 * np.sqrt(0.21 / n_values)


def test_mixed_masking_hides_sites_in_some_windows_and_regions_in_others():
    slide = random_slide(12, 12, holes=0.0, empty=0.0)
    spec = WindowSpec(window=12, n_genes=4, masking="mixed", mask_ratio=0.3)
    rng = np.random.default_rng(0)
    n_regions = 0
    for _ in range(200):
        hidden = cut_window(slide, 0, 0, spec, rng).hidden.reshape(12, 12)
        rows, cols = np.flatnonzero(hidden.any(axis=1)), np.flatnonzero(hidden.any(axis=0))
        n_regions += bool(hidden[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1].all())
    assert 20 < n_regions < 180


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("top", [-2, 0, 1])
def test_positions_on_a_hexagonal_lattice(odd, top):
    adata = visium(odd=odd)
    pp.compact_grid(adata)
    (slide,) = Corpus.from_anndata(adata, genes=adata.var_names)
    left, size = 1, 6
    sites = crop(slide.raster, top, left, size, size).ravel()
    positions = window_positions(slide, top, left, size, size)[sites >= 0]
    # Visium: neighbours in a row are two array columns apart, rows √3/2 of that distance.
    observation = np.argsort(slide.site_of_observation)[sites[sites >= 0]]
    array = adata.obs[["array_col", "array_row"]].to_numpy()[observation]
    physical = array * [0.5, np.sqrt(3) / 2]
    np.testing.assert_allclose(pdist(positions), pdist(physical), atol=1e-5)


@settings(deadline=None)
@given(slides, offsets, offsets, st.integers(1, 8), st.integers(1, 8))
def test_positions_are_centred_and_shift_with_the_window(slide, top, left, height, width):
    positions = window_positions(slide, top, left, height, width)
    np.testing.assert_allclose(positions.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(window_positions(slide, top + 2, left + 3, height, width), positions, atol=1e-4)
    if slide.layout == "square" and height > 1 and width > 1:
        np.testing.assert_allclose(positions[1] - positions[0], [1, 0], atol=1e-5)
        np.testing.assert_allclose(positions[width] - positions[0], [0, 1], atol=1e-5)
