import numpy as np
import pytest
from scipy import stats
from slides import random_slide

from stimage.models.regions._calibration import calibrated_reconstruction
from stimage.models.regions._intervals import N_LEVELS, VALUES_PER_LEVEL, prediction_intervals


def shortest_by_search(values, share):
    """Every interval between two values that holds enough of them, the shortest one."""
    needed = min(int(np.ceil(share * (len(values) + 1))), len(values))
    ends = sorted(set(values.tolist()))
    pairs = [(a, b) for a in ends for b in ends if a <= b and ((values >= a) & (values <= b)).sum() >= needed]
    return min(pairs, key=lambda pair: (pair[1] - pair[0], pair[0]))


def test_bounds_of_one_gene_against_search():
    rng = np.random.default_rng(0)
    n = N_LEVELS * VALUES_PER_LEVEL
    practice = rng.permutation(np.arange(n, dtype=float))[:, None]
    truth = np.round(practice / 100 + rng.gamma(1.0, 2.0, (n, 1)))
    asked = np.array([[-5.0], [0.5], [n / 2], [n - 1.0], [2.0 * n]])
    lower, upper = prediction_intervals(practice, truth, asked, share=0.8)
    width = n // N_LEVELS
    for prediction, low, high in zip(asked[:, 0], lower[:, 0], upper[:, 0], strict=True):
        level = int(np.clip(prediction // width, 0, N_LEVELS - 1))
        members = (practice[:, 0] >= level * width) & (practice[:, 0] < (level + 1) * width)
        np.testing.assert_allclose((low, high), shortest_by_search(truth[members, 0], 0.8), rtol=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_new_values_are_covered(share):
    rng = np.random.default_rng(1)
    means = rng.gamma(1.0, 2.0, (6000, 8)) + np.linspace(0.5, 4, 8)
    practice, asked = means[:4000], means[4000:]
    lower, upper = prediction_intervals(practice, rng.gamma(2.0, practice), asked, share=share)
    new = rng.gamma(2.0, asked)
    covered = ((new >= lower) & (new <= upper)).mean(axis=0)
    # Choosing the shortest of many intervals costs a little.
    assert np.abs(covered - share).max() < 0.07
    assert abs(covered.mean() - share) < 0.03
    # Never far from the shortest interval of the true distribution, found numerically.
    starts = np.linspace(0, 1 - share, 200)[:-1]
    best = (stats.gamma.ppf(starts + share, 2.0) - stats.gamma.ppf(starts, 2.0)).min() * asked.mean()
    assert (upper - lower).mean() == pytest.approx(best, rel=0.15)


def test_what_is_predicted_alike_has_one_interval():
    truth = np.arange(2000.0)[:, None]
    lower, upper = prediction_intervals(np.ones((2000, 1)), truth, np.array([[0.0], [1.0], [2.0]]), share=0.9)
    np.testing.assert_array_equal(lower, 0.0)
    np.testing.assert_array_equal(upper, np.ceil(0.9 * 2001) - 1)


def test_genes_that_are_mostly_zero_have_a_bound_of_zero():
    rng = np.random.default_rng(2)
    truth = np.where(rng.random((2000, 2)) < [0.95, 0.5], 0.0, 1 + rng.random((2000, 2)))
    lower, upper = prediction_intervals(np.full((2000, 2), 0.3), truth, np.full((1, 2), 0.3), share=0.9)
    np.testing.assert_array_equal(lower, 0.0)
    assert upper[0, 0] == 0.0
    assert upper[0, 1] > 1.5


def test_with_few_sites_genes_of_similar_mean_share_a_spread():
    rng = np.random.default_rng(3)
    n_sites, scale = 20, np.repeat([1.0, 100.0], 50)
    order = rng.permutation(100)
    truth = (rng.random((n_sites, 100)) * scale)[:, order]
    practice = np.tile(scale[order] / 2, (n_sites, 1))
    lower, upper = prediction_intervals(practice, truth, practice[:1], share=0.9)
    width = (upper - lower)[0] / scale[order]
    assert 0.7 < width.min() < width.max() <= 1.0


def test_one_gene_and_one_site():
    lower, upper = prediction_intervals(np.array([[1.0]]), np.array([[2.0]]), np.array([[0.0], [5.0]]), share=0.9)
    np.testing.assert_array_equal(lower, [[2.0], [2.0]])
    np.testing.assert_array_equal(upper, lower)


def test_calibrated_reconstruction_with_bounds():
    slide = random_slide(24, 22, n_genes=12, holes=0.0, empty=0.0, unmeasured=2)
    rows, cols = slide.site_index.T
    hidden = (rows >= 5) & (rows < 11) & (cols >= 5) & (cols < 11)

    def predict(shown, sites):
        return np.tile(shown.hide(sites).gene_mean, (int(sites.sum()), 1))

    filled, lower, upper = calibrated_reconstruction(predict, slide, hidden, seed=0, interval=0.8)
    np.testing.assert_array_equal(filled, calibrated_reconstruction(predict, slide, hidden, seed=0))
    assert np.isnan(lower[:, ~slide.measured]).all()
    assert np.isnan(upper[:, ~slide.measured]).all()
    truth = slide.expression[hidden].toarray()[:, slide.measured]
    lower, upper = lower[:, slide.measured], upper[:, slide.measured]
    assert (lower <= upper).all()
    # Values of random_slide are the same at every site, up to chance: 360 of them.
    assert ((truth >= lower) & (truth <= upper)).mean() == pytest.approx(0.8, abs=0.07)


def test_no_bounds_without_room_to_practise():
    slide = random_slide(4, 4, holes=0.0, empty=0.0)
    hidden = np.arange(slide.n_sites) > 0
    filled, *bounds = calibrated_reconstruction(
        lambda shown, sites: np.full((15, 6), 2.0), slide, hidden, seed=0, interval=0.9
    )
    np.testing.assert_allclose(filled, 2.0, rtol=1e-6)
    assert np.isnan(bounds).all()
