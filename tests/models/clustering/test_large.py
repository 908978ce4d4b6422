"""Many observations are looked at in blocks, and methods are fitted to some of them."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from stimage import _validate
from stimage.models.clustering import METHODS, _blocks, _leiden, _mixture, confidence, voted


def groups(n, n_groups=4, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(n_groups, size=n)
    return (8 * np.eye(n_groups)[truth] + rng.normal(size=(n, n_groups))).astype(np.float32), truth


@pytest.fixture(params=[7, 10_000])
def rows_at_a_time(request, monkeypatch):
    monkeypatch.setattr(_blocks, "ROWS_AT_A_TIME", request.param)


def test_confidence_against_a_loop(rows_at_a_time):
    vectors, labels = groups(90)
    centres = [vectors[labels == label].mean(axis=0) for label in range(4)]
    expected = []
    for vector, label in zip(vectors, labels, strict=True):
        distance = [float(np.linalg.norm(vector - centre)) for centre in centres]
        own, other = distance[label], min(distance[:label] + distance[label + 1 :])
        expected.append(max(other - own, 0) / max(other, own))
    np.testing.assert_allclose(confidence(vectors, labels), expected, rtol=1e-4)


def test_votes_against_a_loop(rows_at_a_time):
    rng = np.random.default_rng(1)
    positions, slides = rng.random((90, 2)), rng.integers(2, size=90)
    labels = rng.integers(3, size=90)
    expected = labels.copy()
    for one in range(90):
        rows = np.flatnonzero(slides == slides[one])
        near = rows[np.argsort(np.linalg.norm(positions[rows] - positions[one], axis=1))[:6]]
        votes = [np.sum(labels[near] == label) + 0.5 * (labels[one] == label) for label in range(3)]
        expected[one] = int(np.argmax(votes))
    np.testing.assert_array_equal(voted(labels, positions, slides, 5), expected)


@pytest.mark.parametrize("method", ["gmm", "leiden"])
def test_methods_are_fitted_to_a_part_and_find_all(monkeypatch, rows_at_a_time, method):
    module = {"gmm": _mixture, "leiden": _leiden}[method]
    monkeypatch.setattr(module, "MOST_OBSERVATIONS", 150)
    vectors, truth = groups(600)
    found = METHODS[method](vectors, 4, 0)
    assert adjusted_rand_score(truth, found) > 0.98
    np.testing.assert_array_equal(found, METHODS[method](vectors, 4, 0))


def test_leiden_of_more_observations_than_scanpy_compares_by_itself(monkeypatch):
    monkeypatch.setattr(_leiden, "_MANY", 100)
    vectors, truth = groups(300)
    assert adjusted_rand_score(truth, METHODS["leiden"](vectors, 4, 0)) > 0.98


def test_single_precision_is_not_copied():
    from anndata import AnnData

    vectors = groups(30)[0]
    adata = AnnData(obsm={"X_stimage": vectors}, shape=(30, 0))
    assert np.shares_memory(_validate.check_representation(adata, "X_stimage"), adata.obsm["X_stimage"])
    adata.obsm["X_stimage"] = vectors.astype(np.float16)
    assert _validate.check_representation(adata, "X_stimage").dtype == np.float64
