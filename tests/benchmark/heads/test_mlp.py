import numpy as np
import pytest
import torch
from sklearn.neural_network import MLPClassifier

from stimage.benchmark import mlp_head


@pytest.fixture
def classes():
    rng = np.random.default_rng(0)
    labels = rng.choice(["a", "b", "c"], 200)
    centres = {"a": [0, 0, 0], "b": [3, 0, 1000], "c": [0, 3, -1000]}
    vectors = np.array([centres[name] for name in labels]) + rng.normal(size=(200, 3)) * [1, 1, 1000]
    return vectors, labels


def test_mlp_as_good_as_that_of_sklearn(classes):
    vectors, labels = classes
    found = mlp_head(vectors[:120], labels[:120], vectors[120:], n_epochs=15)
    scaled = (vectors - vectors[:120].mean(axis=0)) / vectors[:120].std(axis=0)
    reference = MLPClassifier((512, 256, 128), batch_size=32, max_iter=15, random_state=0).fit(
        scaled[:120], labels[:120]
    )
    assert (found == labels[120:]).mean() > reference.score(scaled[120:], labels[120:]) - 0.06


def test_mlp_is_seeded_and_leaves_the_generator_alone(classes):
    vectors, _ = classes
    noise = np.random.default_rng(1).choice(["a", "b"], 40)
    before = torch.get_rng_state()
    first, second, other = (mlp_head(vectors[:40], noise, vectors, n_epochs=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(first, second)
    assert (first != other).any()


def test_one_class_and_a_constant_dimension(classes):
    vectors, _ = classes
    vectors[:, 0] = 5.0
    assert set(mlp_head(vectors[:10], np.repeat("a", 10), vectors, n_epochs=1)) == {"a"}


def test_units_of_a_dimension_do_not_matter(classes):
    vectors, labels = classes
    shifted = vectors * [0.1, 1, 0.01] + [7, 0, -3]
    found = [mlp_head(each[:100], labels[:100], each[100:], n_epochs=3) for each in (vectors, shifted)]
    assert (found[0] == found[1]).mean() > 0.97


def test_test_spots_change_nothing(classes):
    vectors, labels = classes
    alone = mlp_head(vectors[:100], labels[:100], vectors[100:110], n_epochs=2)
    among = mlp_head(vectors[:100], labels[:100], np.vstack([vectors[100:110], 1e4 * vectors[110:]]), n_epochs=2)
    np.testing.assert_array_equal(alone, among[:10])
