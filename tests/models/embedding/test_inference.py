"""Predictions on one scale of expression brought to another."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from slides import random_slide

from stimage.models.embedding._inference import uncentred


def slide_of(expression, target_sum=1e4, hidden=()):
    """A slide of one row with given expression; hidden sites have no counts."""
    n_sites = len(expression)
    slide = random_slide(1, n_sites, n_genes=expression.shape[1], holes=0, empty=0)
    slide = replace(slide, expression=sparse.csr_matrix(expression.astype(np.float32)), target_sum=target_sum)
    return slide.hide(np.isin(np.arange(n_sites), hidden))


def test_equal_scales_add_the_mean():
    slide = random_slide(n_genes=6)
    centred = np.random.default_rng(0).normal(size=(5, 6))
    expected = np.maximum(centred + slide.gene_mean, 0)
    np.testing.assert_allclose(uncentred(centred, slide, slide), expected, atol=1e-6)


@pytest.mark.parametrize("target_sum", [10.0, 1e3, 1e6])
def test_genes_of_two_values_are_recovered(target_sum):
    """On genes that are off or at one level, one scale is a linear function of the other."""
    rng = np.random.default_rng(0)
    on = rng.random((60, 5)) < rng.uniform(0.2, 0.8, 5)
    slide = slide_of(on * rng.uniform(0.5, 4, 5), hidden=range(10))
    scaled = slide.to_target_sum(target_sum)
    found = uncentred(scaled.expression.toarray()[:10] - scaled.gene_mean, scaled, slide)
    np.testing.assert_allclose(found, slide.expression.toarray()[:10], atol=1e-4)


def test_regression_of_each_gene():
    rng = np.random.default_rng(1)
    slide = slide_of(rng.gamma(1.0, 1.0, (200, 4)), hidden=range(20))
    scaled = slide.to_target_sum(1e3)
    x, y = (part.expression.toarray()[20:].astype(np.float64) for part in (scaled, slide))
    centred = rng.normal(size=(7, 4)) / 10
    expected = [np.polyval(np.polyfit(x[:, g], y[:, g], 1), centred[:, g] + x[:, g].mean()) for g in range(4)]
    np.testing.assert_allclose(uncentred(centred, scaled, slide), np.maximum(np.transpose(expected), 0), atol=1e-4)


def test_nothing_of_hidden_sites_enters():
    rng = np.random.default_rng(2)
    expression = rng.gamma(1.0, 1.0, (50, 3))
    other = expression.copy()
    other[:10] = 5.0
    centred = rng.normal(size=(10, 3))
    slides = [slide_of(part, hidden=range(10)) for part in (expression, other)]
    first, second = (uncentred(centred, slide.to_target_sum(1e3), slide) for slide in slides)
    np.testing.assert_array_equal(first, second)


def test_genes_without_variance():
    expression = np.zeros((30, 2))
    expression[:, 1] = 1.5
    slide = slide_of(expression)
    found = uncentred(np.full((4, 2), 0.01), slide.to_target_sum(1e3), slide)
    # The slope is at most that at no expression, the ratio of the scales.
    assert (found[:, 0] == np.float32(0.1)).all()
    assert (np.abs(found[:, 1] - 1.5) <= 0.1 + 1e-6).all()
