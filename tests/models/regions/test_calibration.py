from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from slides import random_slide

from stimage.benchmark import inverse_distance
from stimage.data import site_positions
from stimage.models.regions._calibration import calibrated_reconstruction, distance_weighted_mean, practice_regions


def block(slide, size=3, corner=(2, 2)):
    """Sites in a square."""
    rows, cols = (index - start for index, start in zip(slide.site_index.T, corner, strict=True))
    return (rows >= 0) & (rows < size) & (cols >= 0) & (cols < size)


def knowing(slide, strength):
    """A predictor that knows the truth and overstates deviations from the visible mean."""
    truth = slide.expression.toarray()

    def predict(shown, hidden):
        mean = truth[shown.active & ~hidden].mean(axis=0)
        return mean + strength * (truth[hidden] - mean)

    return predict


@pytest.mark.parametrize("strength", [0.5, 1.0, 4.0])
def test_what_is_too_strong_by_a_factor_is_divided_by_it(strength):
    slide = random_slide(12, 12, empty=0.1, unmeasured=1)
    hidden = block(slide)
    filled = calibrated_reconstruction(knowing(slide, strength), slide, hidden, seed=0)
    assert filled.dtype == np.float32
    np.testing.assert_allclose(filled, slide.expression[hidden].toarray(), atol=1e-5)


def test_what_points_the_wrong_way_is_not_used():
    slide = random_slide(12, 12)
    hidden = block(slide)
    filled = calibrated_reconstruction(knowing(slide, -1.0), slide, hidden, seed=0)
    # Only mean and distance-weighted mean are left: every site lies on the line through them.
    mean = slide.hide(hidden).gene_mean
    direction = distance_weighted_mean(slide, hidden) - mean
    share = ((filled - mean) * direction).sum() / (direction**2).sum()
    assert share >= 0
    np.testing.assert_allclose(filled, mean + share * direction, atol=1e-5)


def test_weights_are_those_of_least_squares():
    slide = random_slide(14, 14, holes=0.0, empty=0.0, seed=1)
    hidden = block(slide)
    # Truth is half of what the predictor says plus a third of what the surroundings say, up to noise.
    noise = np.random.default_rng(0).normal(size=slide.expression.shape)

    def predict(shown, sites):
        mean = shown.hide(sites).gene_mean
        near = distance_weighted_mean(shown, sites) - mean
        return mean + 2 * (slide.expression[sites].toarray() - mean - near / 3 + 0.01 * noise[sites])

    filled = calibrated_reconstruction(predict, slide, hidden, seed=0)
    np.testing.assert_allclose(filled, slide.expression[hidden].toarray(), atol=0.05)


def test_genes_that_the_slide_lacks_decide_nothing():
    slide = random_slide(12, 12, unmeasured=2)
    hidden, truthful = block(slide), knowing(slide, 2.0)

    def predict(shown, sites):
        return truthful(shown, sites) + 100 * ~slide.measured

    filled = calibrated_reconstruction(predict, slide, hidden, seed=0)
    truth = slide.expression[hidden].toarray()
    np.testing.assert_allclose(filled[:, slide.measured], truth[:, slide.measured], atol=1e-5)


def test_without_room_to_practise_the_prediction_stands():
    slide = random_slide(4, 4, holes=0.0, empty=0.0)
    hidden = np.arange(slide.n_sites) > 0
    filled = calibrated_reconstruction(lambda shown, sites: np.full((15, 6), 2.0), slide, hidden, seed=0)
    np.testing.assert_allclose(filled, 2.0, rtol=1e-6)


def test_hidden_values_change_nothing():
    slide = random_slide(12, 12)
    hidden = block(slide)
    expression = slide.expression.toarray()
    expression[hidden] = 9.0
    other = replace(slide, expression=sparse.csr_matrix(expression))
    filled = []
    for one in (slide, other):
        seen = []

        def predict(shown, sites, seen=seen):
            seen.append(sites)
            assert not shown.active[sites].any()
            assert not shown.active[hidden].any()
            return shown.gene_mean + np.sin(np.flatnonzero(sites))[:, None]

        filled.append(calibrated_reconstruction(predict, one, hidden, seed=0))
        assert len(seen) > 1
    np.testing.assert_array_equal(*filled)


@pytest.mark.parametrize("seed", [0, 1])
def test_practice_regions_against_all_shifts(seed):
    slide = random_slide(10, 9, seed=seed)
    hidden = block(slide)
    shown = slide.hide(hidden)
    where = {tuple(index): site for site, index in enumerate(slide.site_index)}
    places, least, most = set(), np.ceil(hidden.sum() / 3), shown.active.sum() / 2
    for down in range(-10, 11):
        for right in range(-9, 10):
            moved = [where.get((row + down, col + right)) for row, col in slide.site_index[hidden]]
            sites = frozenset(site for site in moved if site is not None and shown.active[site])
            if least <= len(sites) <= most:
                places.add(sites)
    found = [frozenset(np.flatnonzero(sites)) for sites in practice_regions(shown, hidden, seed=seed)]
    assert len(found) == 16
    assert set(found) <= places
    again = [frozenset(np.flatnonzero(sites)) for sites in practice_regions(shown, hidden, seed=seed)]
    assert again == found


def test_distance_weighted_mean():
    slide = random_slide(11, 12, empty=0.0)
    hidden = block(slide)
    positions = site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity)
    expected = inverse_distance(slide.expression.toarray(), positions, hidden)
    assert (~hidden).sum() <= 128
    np.testing.assert_allclose(distance_weighted_mean(slide, hidden), expected, rtol=1e-4)


def test_model_calibrates_unless_told_not_to(trained):
    slide = trained.corpus[0].to_target_sum(1e4)
    hidden = block(slide)
    plain = trained.reconstruct(slide, hidden, calibrated=False)
    filled = trained.reconstruct(slide, hidden)
    truth = slide.expression[hidden].toarray()
    assert ((filled - truth) ** 2).mean() < ((plain - truth) ** 2).mean()
    np.testing.assert_array_equal(trained.reconstruct(slide, hidden), filled)
