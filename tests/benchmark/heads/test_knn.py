import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from stimage.benchmark import knn_head


@pytest.fixture
def classes():
    rng = np.random.default_rng(0)
    labels = rng.choice(["a", "b", "c"], 200)
    centres = {"a": [0, 0, 0], "b": [3, 0, 1000], "c": [0, 3, -1000]}
    vectors = np.array([centres[name] for name in labels]) + rng.normal(size=(200, 3)) * [1, 1, 1000]
    return vectors, labels


def test_knn_against_a_loop(classes):
    vectors, labels = classes
    found = knn_head(vectors[:150], labels[:150], vectors[150:], n_neighbors=7)
    for vector, name in zip(vectors[150:], found, strict=True):
        nearest = np.argsort(((vectors[:150] - vector) ** 2).sum(axis=1))[:7]
        votes = {key: (labels[nearest] == key).sum() for key in "abc"}
        assert votes[name] == max(votes.values())


def test_at_most_a_fifth_of_the_training_spots_votes(classes):
    vectors, labels = classes
    expected = KNeighborsClassifier(4).fit(vectors[:20], labels[:20]).predict(vectors)
    np.testing.assert_array_equal(knn_head(vectors[:20], labels[:20], vectors), expected)
    nearest = KNeighborsClassifier(1).fit(vectors[:3], labels[:3]).predict(vectors)
    np.testing.assert_array_equal(knn_head(vectors[:3], labels[:3], vectors), nearest)
