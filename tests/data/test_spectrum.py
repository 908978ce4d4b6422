import numpy as np
import pytest
from slides import random_slide

from stimage.data import principal_genes


def dense_axes(slides):
    """Singular vectors and deviations of the expression of active sites, centred per slide."""
    blocks = [slide.expression.toarray().astype(np.float64)[slide.active] for slide in slides]
    centred = np.vstack([block - block.mean(axis=0) for block in blocks])
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    return axes.T, values / np.sqrt(len(centred))


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
