import numpy as np
import pytest
from scipy.stats import bootstrap

from stimage.benchmark import paired_bootstrap


def test_against_scipy():
    rng = np.random.default_rng(0)
    second = rng.random(16)
    first = second + rng.normal(0.05, 0.08, 16)
    options = {"n_resamples": 20_000, "method": "percentile", "random_state": rng}
    expected = bootstrap((first - second,), np.mean, **options).confidence_interval
    found = paired_bootstrap(first, second, n_draws=20_000)
    np.testing.assert_allclose([found.low, found.high], expected, atol=2e-3)
    np.testing.assert_allclose(found.mean, first.mean() - second.mean())
    wide = paired_bootstrap(first, second, level=0.99)
    assert wide.low < found.low < found.mean < found.high < wide.high


def test_slides_are_paired():
    # Slides differ far more than the methods do.
    rng = np.random.default_rng(1)
    second = 10 * rng.random(20)
    found = paired_bootstrap(second + 0.1 + rng.normal(0, 0.01, 20), second)
    assert 0.09 < found.low < found.high < 0.11


def test_slides_without_a_score_are_left_out():
    found = paired_bootstrap([1, 2, np.nan, 4], [0, 1, 2, np.nan])
    assert found == (1.0, 1.0, 1.0, 2)
    assert str(found) == "+1.000 (+1.000 to +1.000)"


def test_draws_are_the_same_for_a_seed_and_in_any_portions(monkeypatch):
    first, second = np.random.default_rng(2).random((2, 30))
    expected = paired_bootstrap(first, second, seed=3)
    assert paired_bootstrap(first, second, seed=3) == expected
    assert paired_bootstrap(first, second, seed=4) != expected
    monkeypatch.setattr("stimage.benchmark._bootstrap._DRAWS_AT_A_TIME", 900)
    np.testing.assert_allclose(paired_bootstrap(first, second, seed=3), expected)


@pytest.mark.parametrize(
    ("first", "second", "options", "message"),
    [
        ([1, 2], [1, 2, 3], {}, r"`first` has shape \(2,\), `second` \(3,\)"),
        ([1, np.nan], [1, 2], {}, "1 slides have both scores: at least 2 are needed"),
        ([1, 2], [1, 2], {"level": 1.5}, "`level` must be between 0 and 1"),
        ([1, 2], [1, 2], {"n_draws": 0}, "`n_draws` must be at least 1"),
    ],
)
def test_bad_input(first, second, options, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(first, second, **options)
