import numpy as np
import pytest
from scipy.optimize import minimize

from stimage.models._annotation import label_probabilities


def clusters(n=60, n_labels=3, dim=4, spread=1.0, seed=0):
    """Vectors around one centre per label, and the labels."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(n_labels, size=n)
    return 3 * np.eye(n_labels, dim)[truth] + spread * rng.normal(size=(n, dim)), truth


def partly(truth, share, seed=0):
    """Labels of which only a share is known, at least one of each."""
    rng = np.random.default_rng(seed)
    known = rng.random(len(truth)) < share
    known[[np.flatnonzero(truth == label)[0] for label in np.unique(truth)]] = True
    return np.where(known, truth, -1)


def test_logistic_regression_against_its_definition():
    vectors, truth = clusters()
    codes = partly(truth, 0.4)
    found = label_probabilities(vectors, codes, 3, head="logistic")
    x = vectors - vectors.mean(axis=0)
    x /= np.sqrt((x**2).mean())
    known = codes >= 0

    def log_probabilities(parameters, rows):
        weights, intercept = parameters[:12].reshape(4, 3), parameters[12:]
        scores = rows @ weights + intercept
        return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))

    def objective(parameters):
        chosen = log_probabilities(parameters, x[known])[np.arange(known.sum()), codes[known]]
        return 0.5 * (parameters[:12] ** 2).sum() - chosen.sum()

    best = minimize(objective, np.zeros(15), method="BFGS").x
    np.testing.assert_allclose(found[~known], np.exp(log_probabilities(best, x[~known])), atol=2e-3)


def test_neighbours_against_a_loop():
    vectors, truth = clusters(80, dim=3)
    codes = partly(truth, 0.5, seed=1)
    found = label_probabilities(vectors, codes, 3, head="knn")
    known = np.flatnonzero(codes >= 0)
    for number in np.flatnonzero(codes < 0):
        nearest = known[np.argsort(((vectors[known] - vectors[number]) ** 2).sum(axis=1))[:15]]
        votes = [(codes[nearest] == label).mean() for label in range(3)]
        np.testing.assert_allclose(found[number], votes, atol=1e-6)


@pytest.mark.parametrize("head", ["logistic", "knn"])
def test_probabilities(head):
    vectors, truth = clusters(200, n_labels=4, dim=30, spread=0.5, seed=2)
    codes = np.where(truth == 2, -1, partly(truth, 0.2))  # nobody has label 2
    found = label_probabilities(vectors, codes, 5, head=head)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(found[:, [2, 4]], 0.0)
    known = codes >= 0
    np.testing.assert_array_equal(found[known], np.eye(5)[codes[known]])
    asked = ~known & (truth != 2)
    assert (found[asked].argmax(axis=1) == truth[asked]).mean() > 0.9
    again = label_probabilities(vectors, codes, 5, head=head)
    np.testing.assert_array_equal(again, found)


@pytest.mark.parametrize("head", ["logistic", "knn"])
def test_scale_and_rotation_of_the_embedding_change_nothing(head):
    vectors, truth = clusters(90, dim=20, seed=3)
    codes = partly(truth, 0.3)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(20, 20)))[0]
    found = [label_probabilities(part, codes, 3, head=head) for part in (vectors, 40 * vectors @ turn + 7)]
    np.testing.assert_allclose(*found, atol=2e-3)


def test_only_the_widest_directions_are_seen():
    rng = np.random.default_rng(4)
    wide, narrow = rng.normal(size=(100, 2)) * 5, rng.normal(size=(100, 1)) * 0.1
    codes = partly((narrow[:, 0] > 0).astype(int), 0.5)
    found = label_probabilities(np.hstack([wide, narrow]), codes, 2, head="logistic", n_components=2)
    np.testing.assert_allclose(found, label_probabilities(wide, codes, 2, head="logistic"), atol=1e-2)


def test_one_label_and_constant_vectors():
    np.testing.assert_array_equal(
        label_probabilities(np.eye(3), np.array([1, -1, -1]), 2, head="logistic"), [[0, 1]] * 3
    )
    found = label_probabilities(np.ones((4, 2)), np.array([0, 1, -1, -1]), 2, head="logistic")
    np.testing.assert_allclose(found[2:], 0.5, atol=1e-6)
