import numpy as np
import pytest
from scipy import sparse

from stimage.benchmark import gene_mean, inverse_distance, nearest_spots

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


@pytest.mark.parametrize("baseline", [gene_mean, nearest_spots, inverse_distance])
@pytest.mark.parametrize("form", FORMS)
def test_hidden_sites_are_not_looked_at(slide, baseline, form):
    expression, positions, hidden = slide
    before = baseline(FORMS[form](expression), positions, hidden)
    expression[hidden] = np.nan
    np.testing.assert_array_equal(baseline(FORMS[form](expression), positions, hidden), before)
