"""Kriging solves its system, agrees with Gaussian processes, and does not read what is hidden."""

import numpy as np
import pytest
from scipy import sparse
from scipy.spatial.distance import cdist
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from stimage.benchmark import inverse_distance, kriging
from stimage.benchmark.regions._kriging import _variogram, ordinary_weights

NUGGET, SILL, REACH = 0.3, 0.9, 2.5


def test_as_a_gaussian_process_around_the_generalised_mean():
    rng = np.random.default_rng(0)
    places, asked, values = rng.random((20, 2)) * 6, rng.random((4, 2)) * 6, rng.normal(3, 1, 20)
    weights, variance = ordinary_weights(np.tile(places, (4, 1, 1)), asked, NUGGET, SILL, REACH)
    covariance = SILL * np.exp(-cdist(places, places) / REACH) + NUGGET * np.eye(20)
    inverse = np.linalg.inv(covariance)
    mean = inverse.sum(axis=0) @ values / inverse.sum()
    kernel = ConstantKernel(SILL, "fixed") * Matern(REACH, "fixed", nu=0.5)
    process = GaussianProcessRegressor(kernel, alpha=NUGGET, optimizer=None).fit(places, values - mean)
    expected, deviation = process.predict(asked, return_std=True)
    np.testing.assert_allclose(weights @ values, mean + expected)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    # Not knowing the mean adds to the variance of simple kriging; what is measured has the nugget on top.
    to_asked = SILL * np.exp(-cdist(asked, places) / REACH)
    simple = deviation**2 + NUGGET
    more = (1 - (to_asked @ inverse).sum(axis=1)) ** 2 / inverse.sum()
    np.testing.assert_allclose(variance, simple + more, rtol=1e-6)


def test_a_variogram_is_found_again():
    distances = np.linspace(1, 12, 8)
    values = NUGGET + SILL * (1 - np.exp(-distances / REACH))
    np.testing.assert_allclose(_variogram(distances, values), [NUGGET, SILL, REACH], rtol=1e-3)


@pytest.fixture
def field():
    """A slide of smooth genes with noise, genes of noise alone and a constant one; values stay above zero."""
    rng = np.random.default_rng(1)
    positions = np.stack(np.indices((20, 20)), axis=-1).reshape(-1, 2).astype(float)
    kernel = ConstantKernel(1.0) * Matern(6.0, nu=0.5) + WhiteKernel(0.2)
    smooth = GaussianProcessRegressor(kernel).sample_y(positions, 30, random_state=1)
    expression = np.hstack([6 + smooth, 6 + rng.normal(size=(400, 30)), np.full((400, 1), 2.0)])
    hidden = (np.abs(positions - 9.5) < 3).all(axis=1)
    return expression, positions, hidden


def test_better_than_the_mean_and_than_inverse_distance_on_such_fields(field):
    expression, positions, hidden = field
    errors = {
        "kriging": kriging(expression, positions, hidden)[:, :30] - expression[hidden][:, :30],
        "inverse": inverse_distance(expression, positions, hidden)[:, :30] - expression[hidden][:, :30],
        "mean": expression[~hidden][:, :30].mean(axis=0) - expression[hidden][:, :30],
    }
    errors = {name: np.mean(error**2) for name, error in errors.items()}
    assert errors["kriging"] < errors["inverse"] and errors["kriging"] < 0.8 * errors["mean"]


def test_bounds_hold_their_share(field):
    expression, positions, hidden = field
    prediction, lower, upper = kriging(expression, positions, hidden, interval=0.9)
    np.testing.assert_array_equal(prediction, kriging(expression, positions, hidden))
    inside = (lower[:, :60] <= expression[hidden][:, :60]) & (expression[hidden][:, :60] <= upper[:, :60])
    assert 0.85 < inside.mean() < 0.95
    np.testing.assert_allclose(prediction[:, 60], 2)
    np.testing.assert_allclose(lower[:, 60], upper[:, 60], atol=1e-6)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_hidden_values_are_not_read_and_seeds_repeat(field, form):
    expression, positions, hidden = field
    expected = kriging(expression, positions, hidden)
    poisoned = expression.copy()
    poisoned[hidden] = np.nan
    np.testing.assert_allclose(kriging(form(poisoned), positions, hidden), expected)


def test_few_spots():
    positions = np.array([[0.0, 0], [1, 0], [2, 0]])
    found = kriging(np.array([[1.0], [2], [9]]), positions, np.array([False, False, True]))
    assert found.shape == (1, 1) and np.isfinite(found).all()
