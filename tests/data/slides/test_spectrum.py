from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from slides import random_slide

from stimage.data import principal_genes
from stimage.data.slides import _spectrum


def dense_axes(slides, most_variance=1.0):
    """Singular vectors and deviations of the expression of active sites, centred per slide."""
    blocks = [slide.expression.toarray().astype(np.float64)[slide.active] for slide in slides]
    centred = np.vstack([block - block.mean(axis=0) for block in blocks])
    spread = centred.std(axis=0)
    most = np.quantile(spread[spread > 0] ** 2, most_variance) ** 0.5
    scale = np.array([most / own if own > most else 1.0 for own in spread])
    _, values, axes = np.linalg.svd(centred * scale, full_matrices=False)
    return scale[:, None] * axes.T, values / np.sqrt(len(centred))


# Above 5,000 genes the gene-by-gene matrix is not formed.
@pytest.mark.parametrize("n_genes", [40, 5100])
@pytest.mark.parametrize("n_slides", [1, 3])
def test_axes_are_those_of_a_dense_decomposition(n_genes, n_slides):
    slides = [random_slide(5, 6, n_genes=n_genes, unmeasured=5 * i, seed=i, name=str(i)) for i in range(n_slides)]
    axes, deviation = principal_genes(slides, 6)
    expected_axes, expected_deviation = dense_axes(slides)
    np.testing.assert_allclose(deviation, expected_deviation[:6], rtol=1e-4)
    np.testing.assert_allclose(np.abs(np.einsum("gk,gk->k", axes, expected_axes[:, :6])), 1, atol=1e-3)
    np.testing.assert_allclose(axes.T @ axes, np.eye(6), atol=1e-5)
    largest = np.abs(axes).argmax(axis=0)
    assert (axes[largest, np.arange(6)] > 0).all()
    assert axes.dtype == deviation.dtype == np.float32


@pytest.mark.parametrize("n_genes", [40, 5100])
@pytest.mark.parametrize("most_variance", [0.1, 0.75])
def test_genes_that_vary_most_are_scaled_down(n_genes, most_variance):
    slides = [structured(9, 9, n_genes=n_genes, seed=seed) for seed in range(2)]
    axes, deviation = principal_genes(slides, 2, most_variance=most_variance)
    expected_axes, expected_deviation = dense_axes(slides, most_variance)
    np.testing.assert_allclose(deviation, expected_deviation[:2], rtol=1e-4)
    signs = np.sign(np.einsum("gk,gk->k", axes, expected_axes[:, :2]))
    np.testing.assert_allclose(axes * signs, expected_axes[:, :2], atol=1e-3 * np.abs(axes).max())
    largest = np.abs(axes).argmax(axis=0)
    assert (axes[largest, np.arange(2)] > 0).all()
    assert not np.allclose(np.abs(axes), np.abs(principal_genes(slides, 2)[0]), atol=0.05 * np.abs(axes).max())


@pytest.mark.parametrize("most_variance", [0.0, 1.1, -0.5])
def test_most_variance_is_a_quantile(most_variance):
    with pytest.raises(ValueError, match="quantile above 0 and at most 1"):
        principal_genes([random_slide(4, 4, n_genes=5)], 2, most_variance=most_variance)


def test_genes_without_data_have_no_part():
    slides = [random_slide(8, 8, n_genes=30, unmeasured=4)]
    axes, _ = principal_genes(slides, 10)
    np.testing.assert_allclose(axes[-4:], 0, atol=1e-6)


@pytest.mark.parametrize(("shape", "n_genes", "expected"), [((8, 8), 5, 4), ((3, 3), 30, 8)])
def test_no_more_axes_than_genes_or_sites(shape, n_genes, expected):
    slide = random_slide(*shape, n_genes=n_genes, holes=0.0, empty=0.0)
    axes, deviation = principal_genes([slide], 100)
    assert axes.shape == (n_genes, expected)
    assert deviation.shape == (expected,)


def test_repeatable():
    slides = [random_slide(8, 8, n_genes=30)]
    np.testing.assert_array_equal(principal_genes(slides, 5)[0], principal_genes(slides, 5)[0])


@pytest.mark.parametrize(("n_genes", "side"), [(30, 40), (5100, 20)])
def test_a_part_of_a_large_corpus(n_genes, side, monkeypatch):
    """Axes of a random third of the sites are close to those of all, and the same every time."""
    slides = [structured(side, side, n_genes=n_genes, seed=i) for i in range(3)]
    everything, deviation = principal_genes(slides, 2)
    monkeypatch.setattr(_spectrum, "RUN", 8)
    monkeypatch.setattr(_spectrum, "MOST_SITES", sum(slide.active.sum() for slide in slides) // 3)
    chosen = _spectrum._chosen_sites(slides)
    n_sites = sum(map(len, chosen))
    assert 0.9 * _spectrum.MOST_SITES < n_sites <= _spectrum.MOST_SITES
    for slide, sites in zip(slides, chosen, strict=True):
        assert slide.active[sites].all()
        assert (np.diff(sites) > 0).all()
        # Runs of neighbours, a few of them without data.
        assert (np.diff(sites) <= 3).mean() > 0.8
    axes, part = principal_genes(slides, 2)
    assert np.abs(np.einsum("gk,gk->k", axes, everything)).min() > 0.98
    np.testing.assert_allclose(part, deviation, rtol=0.1)
    np.testing.assert_array_equal(principal_genes(slides, 2)[0], axes)
    assert not np.array_equal(axes, everything)


def test_values_are_limited_where_they_are_held_in_memory(monkeypatch):
    monkeypatch.setattr(_spectrum, "RUN", 8)
    monkeypatch.setattr(_spectrum, "MOST_VALUES", 100_000)
    few, many = structured(20, 20, n_genes=30), structured(20, 20, n_genes=5100)
    assert len(_spectrum._chosen_sites([few])[0]) == few.active.sum()
    (sites,) = _spectrum._chosen_sites([many])
    assert 60_000 < many.expression[sites].nnz <= 100_000


def structured(n_rows, n_cols, *, n_genes, seed=0):
    """A slide whose sites differ along two directions, more than by chance."""
    slide = random_slide(n_rows, n_cols, n_genes=n_genes, seed=seed, name=str(seed), holes=0.1)
    rng = np.random.default_rng(0)
    directions = rng.random((2, n_genes)) < 0.3
    levels = np.random.default_rng(seed).normal(size=(slide.n_sites, 2)) * [3, 1.5]
    expression = (np.abs(levels @ directions) + 0.1) * slide.expression.toarray().astype(bool)
    return replace(slide, expression=sparse.csr_matrix(expression.astype(np.float32)))
