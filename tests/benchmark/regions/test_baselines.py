import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import lsq_linear

from stimage.benchmark import gene_mean, inverse_distance, nearest_spots, smooth_fill

FORMS = {"dense": np.asarray, "csr": sparse.csr_matrix, "csc": sparse.csc_matrix}


@pytest.fixture(params=[0, 1, 2])
def slide(request):
    """Expression, positions without ties in distance, and hidden sites."""
    rng = np.random.default_rng(request.param)
    hidden = np.zeros(40, dtype=bool)
    hidden[rng.permutation(40)[:7]] = True
    return rng.gamma(1.0, 1.0, (40, 5)) * (rng.random((40, 5)) < 0.7), rng.random((40, 2)), hidden


def squared_distance(positions, i, j):
    return (positions[i][0] - positions[j][0]) ** 2 + (positions[i][1] - positions[j][1]) ** 2


@pytest.mark.parametrize("form", FORMS)
def test_gene_mean(slide, form):
    expression, positions, hidden = slide
    visible = [i for i in range(40) if not hidden[i]]
    expected = [sum(expression[i][g] for i in visible) / len(visible) for g in range(5)]
    prediction = gene_mean(FORMS[form](expression), positions, hidden)
    np.testing.assert_allclose(prediction, [expected] * 7)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n_neighbors", [1, 3, 16, 1000])
def test_nearest_spots(slide, form, n_neighbors):
    expression, positions, hidden = slide
    prediction = nearest_spots(FORMS[form](expression), positions, hidden, n_neighbors=n_neighbors)
    visible = [j for j in range(40) if not hidden[j]]
    for row, i in zip(prediction, np.flatnonzero(hidden), strict=True):
        nearest = sorted(visible, key=lambda j: squared_distance(positions, i, j))[:n_neighbors]
        np.testing.assert_allclose(row, sum(expression[j] for j in nearest) / len(nearest))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_inverse_distance(slide, form, power):
    expression, positions, hidden = slide
    prediction = inverse_distance(FORMS[form](expression), positions, hidden, power=power)
    for row, i in zip(prediction, np.flatnonzero(hidden), strict=True):
        total, weights = np.zeros(5), 0.0
        for j in range(40):
            if not hidden[j]:
                weight = squared_distance(positions, i, j) ** (-power / 2)
                total, weights = total + weight * expression[j], weights + weight
        np.testing.assert_allclose(row, total / weights)


def test_a_visible_site_at_the_place_of_a_hidden_one():
    positions = np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    prediction = inverse_distance(np.array([[9.0], [2.0], [6.0]]), positions, np.array([True, False, False]))
    np.testing.assert_allclose(prediction, [[2.0]])


@pytest.mark.parametrize("baseline", [gene_mean, nearest_spots, inverse_distance, smooth_fill])
@pytest.mark.parametrize("form", FORMS)
def test_hidden_sites_are_not_looked_at(slide, baseline, form):
    expression, positions, hidden = slide
    before = baseline(FORMS[form](expression), positions, hidden)
    expression[hidden] = np.nan
    np.testing.assert_array_equal(baseline(FORMS[form](expression), positions, hidden), before)


def slow_gaussian_mean(values, places, where, width):
    weights = [
        np.exp(-sum((a - b) ** 2 for a, b in zip(where, place, strict=True)) / (2 * width**2)) for place in places
    ]
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


def slow_inverse_distance(values, places, where):
    weights = [1 / sum((a - b) ** 2 for a, b in zip(where, place, strict=True)) for place in places]
    return sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)


@pytest.mark.parametrize("form", FORMS)
def test_smooth_fill_against_a_slow_reference(form):
    # Few enough places that all of them are practised on.
    positions = np.array([(i, j) for i in range(4) for j in range(4)], dtype=float)
    rng = np.random.default_rng(3)
    expression = rng.gamma(1.0, 1.0, (16, 6)) + positions @ rng.random((2, 6))
    region = [(1, 1), (1, 2), (2, 1), (2, 2)]
    at = {tuple(place): value for place, value in zip(positions.astype(int).tolist(), expression, strict=True)}
    visible = [place for place in at if place not in region]
    errors, answers = [], []
    for width in (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0):
        design, target = [], []
        for down in range(-3, 4):
            for right in range(-3, 4):
                moved = [(i + down, j + right) for i, j in region]
                practice = [place for place in moved if place in visible]
                # The middle of the region goes to each site of the slide.
                if (1 + down, 1 + right) not in at or not 4 / 3 <= len(practice) <= 6:
                    continue
                shown = [place for place in visible if place not in practice]
                values = [at[place] for place in shown]
                mean = sum(values) / len(values)
                for place in practice:
                    smooth = slow_gaussian_mean(values, shown, place, width) - mean
                    inverse = slow_inverse_distance(values, shown, place) - mean
                    design.append(np.column_stack([smooth, inverse]))
                    target.append(at[place] - mean)
        fit = lsq_linear(np.concatenate(design), np.concatenate(target), bounds=(0, np.inf), tol=1e-12)
        values = [at[place] for place in visible]
        mean = sum(values) / len(values)
        a, b = fit.x
        errors.append(fit.cost)
        answers.append(
            [
                mean
                + a * (slow_gaussian_mean(values, visible, place, width) - mean)
                + b * (slow_inverse_distance(values, visible, place) - mean)
                for place in region
            ]
        )
    hidden = np.array([tuple(place) in region for place in positions.astype(int).tolist()])
    prediction = smooth_fill(FORMS[form](expression), positions, hidden)
    np.testing.assert_allclose(prediction, np.maximum(answers[int(np.argmin(errors))], 0), rtol=1e-4)
    # Units of positions do not matter.
    np.testing.assert_allclose(smooth_fill(FORMS[form](expression), 50 * positions, hidden), prediction, rtol=1e-9)


def test_smooth_fill_gives_way_to_the_mean_where_nothing_is_smooth_and_not_where_something_is():
    positions = np.stack(np.indices((20, 20)), axis=-1).reshape(-1, 2).astype(float)
    hidden = ((positions >= 7) & (positions < 12)).all(axis=1)
    noise = np.random.default_rng(0).gamma(1.0, 1.0, (400, 30))

    def error(fill, expression):
        return np.square(fill(expression, positions, hidden) - expression[hidden]).mean()

    assert error(smooth_fill, noise) < 1.01 * error(gene_mean, noise) < error(inverse_distance, noise)
    waves = noise + 2 + 2 * np.sin(positions[:, :1] / 4 + np.arange(30))
    assert error(smooth_fill, waves) < 0.9 * min(error(gene_mean, waves), error(inverse_distance, waves))


def test_smooth_fill_without_room_to_practise():
    positions = np.array([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0]])
    expression = np.array([[1.0], [np.nan], [5.0]])
    # Half of two visible sites is one, and the one that is left is the mean: nothing to weigh.
    prediction = smooth_fill(expression, positions, np.array([False, True, False]))
    np.testing.assert_allclose(prediction, [[3.0]])
