import statistics

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier

from stimage.benchmark import (
    mean_and_deviation,
    neighbor_mean,
    principal_components,
    random_split_knn,
    transfer_knn,
    unsupervised_ari,
)


@pytest.fixture
def layers():
    """Coordinates of a square slide and its four layers."""
    rows, cols = (index.ravel() for index in np.indices((28, 28)))
    return np.column_stack([cols, rows]).astype(float), rows // 7


def noisy(labels, seed=0, n_dims=6, spread=0.7):
    """Vectors that say something of a label."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(labels.max() + 1, n_dims))[labels] + rng.normal(0, spread, (len(labels), n_dims))


def test_coordinates_solve_layers(layers):
    positions, labels = layers
    score = random_split_knn(positions, labels, n_neighbors=5)
    assert score["accuracy"] > 0.85
    assert score["ari"] > 0.7
    assert unsupervised_ari(positions * [0, 1], labels, np.ones(len(labels), dtype=bool)) > 0.9


@pytest.mark.parametrize("seed", range(2))
def test_permuted_labels_score_nothing(layers, seed):
    positions, labels = layers
    permuted = np.random.default_rng(seed).permutation(labels)
    for vectors in (positions, noisy(labels)):
        score = random_split_knn(vectors, permuted, seed=seed)
        assert abs(score["ari"]) < 0.03
        assert abs(score["accuracy"] - 0.25) < 0.08
        assert abs(unsupervised_ari(vectors, permuted, np.ones(len(labels), dtype=bool), seed=seed)) < 0.03
    assert unsupervised_ari(noisy(labels), labels, np.ones(len(labels), dtype=bool)) > 0.5


def test_transfer_against_sklearn(layers):
    _, labels = layers
    embedding, test = noisy(labels), noisy(labels, seed=1)
    for n_neighbors in (1, 7):
        predicted = KNeighborsClassifier(n_neighbors).fit(embedding, labels).predict(test)
        score = transfer_knn(embedding, labels, test, labels, n_neighbors=n_neighbors)
        assert score["accuracy"] == pytest.approx(sum(predicted == labels) / len(labels))
        assert score["ari"] == pytest.approx(adjusted_rand_score(labels, predicted))
    # One neighbour of a point among the training points is the point itself.
    assert transfer_knn(embedding, labels, embedding, labels, n_neighbors=1) == {"accuracy": 1.0, "ari": 1.0}


def test_a_random_fifth_trains_and_the_rest_tests(layers):
    _, labels = layers
    embedding = noisy(labels)
    order = np.random.default_rng(4).permutation(len(labels))
    n_train = round(0.2 * len(labels))
    training, test = order[:n_train], order[n_train:]
    predicted = KNeighborsClassifier(15).fit(embedding[training], labels[training]).predict(embedding[test])
    score = random_split_knn(embedding, labels, seed=4)
    assert score["accuracy"] == pytest.approx((predicted == labels[test]).mean())
    assert score["ari"] == pytest.approx(adjusted_rand_score(labels[test], predicted))
    assert score == random_split_knn(embedding, labels, seed=4)
    assert score != random_split_knn(embedding, labels, seed=5)


def test_labels_may_be_a_column_of_a_table(layers):
    _, labels = layers
    embedding = noisy(labels)
    names = pd.Series([f"L{label}" for label in labels], index=np.random.default_rng(0).permutation(len(labels)))
    assert random_split_knn(embedding, names) == random_split_knn(embedding, labels)
    assert random_split_knn(embedding, names.astype("category")) == random_split_knn(embedding, labels)


def test_too_few_spots():
    with pytest.raises(ValueError, match="1 annotated spots cannot be split"):
        random_split_knn(np.zeros((1, 2)), np.zeros(1))


def test_only_annotated_spots_are_scored(layers):
    _, labels = layers
    embedding, annotated = noisy(labels), np.random.default_rng(0).random(len(labels)) < 0.7
    expected = unsupervised_ari(embedding, labels, annotated)
    unknown = np.where(annotated, labels, 9)
    assert unsupervised_ari(embedding, unknown, annotated) == expected


def test_mean_and_deviation():
    values = [0.3, 0.45, 0.41, 0.7]
    summary = mean_and_deviation(np.array(values))
    assert summary["mean"] == pytest.approx(statistics.mean(values))
    assert summary["sd"] == pytest.approx(statistics.stdev(values))
    assert summary["values"] == values
    assert mean_and_deviation([0.5]) == {"mean": 0.5, "sd": 0.0, "values": [0.5]}


@pytest.mark.parametrize("n_spots", [1, 7, 500])
def test_neighbor_mean(n_spots):
    rng = np.random.default_rng(0)
    vectors, positions = rng.normal(size=(60, 3)), rng.random((60, 2))
    found = neighbor_mean(vectors, positions, n_spots)
    for i in range(60):
        nearest = sorted(range(60), key=lambda j: ((positions[i] - positions[j]) ** 2).sum())[:n_spots]
        np.testing.assert_allclose(found[i], sum(vectors[j] for j in nearest) / len(nearest))


def test_seven_spots_are_a_ring_of_a_hexagonal_lattice():
    rows, cols = (index.ravel() for index in np.indices((9, 9)))
    positions = np.column_stack([cols + 0.5 * (rows % 2), rows * np.sqrt(3) / 2])
    vectors = np.random.default_rng(0).normal(size=(81, 2))
    found = neighbor_mean(vectors, positions, 7)
    inside = np.flatnonzero((rows > 0) & (rows < 8) & (cols > 0) & (cols < 8))
    for i in inside:
        ring = np.sqrt(((positions - positions[i]) ** 2).sum(axis=1)) < 1.01
        assert ring.sum() == 7
        np.testing.assert_allclose(found[i], vectors[ring].mean(axis=0))


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_principal_components(form):
    from scipy import sparse

    rng = np.random.default_rng(0)
    expression = rng.normal(size=(50, 20)) * np.arange(20, 0, -1)
    centred = expression - expression.mean(axis=0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    given = sparse.csr_matrix(expression) if form == "sparse" else expression
    found = principal_components(given, 5)
    np.testing.assert_allclose(np.abs(found), np.abs(left[:, :5] * values[:5]), rtol=1e-6, atol=1e-8)
    assert principal_components(given, 100).shape == (50, 19)
