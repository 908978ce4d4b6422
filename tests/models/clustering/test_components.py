import numpy as np
import pytest
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA

from stimage.models.clustering import _blocks
from stimage.models.clustering._components import components


@pytest.mark.parametrize("rows_at_a_time", [7, 1000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_against_sklearn(monkeypatch, rows_at_a_time, dtype):
    monkeypatch.setattr(_blocks, "ROWS_AT_A_TIME", rows_at_a_time)
    rng = np.random.default_rng(0)
    embedding = (rng.normal(size=(60, 8)) @ rng.normal(size=(8, 20)) + 5).astype(dtype)
    expected = PCA(6, svd_solver="full").fit_transform(embedding)
    found = components(embedding, 6)
    assert found.dtype == np.float32
    np.testing.assert_allclose(pdist(found), pdist(expected / np.sqrt(expected.var(axis=0).sum())), rtol=1e-3)
    assert found.var(axis=0).sum() == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e8, -3.3])
def test_equal_vectors_have_no_components(value):
    np.testing.assert_array_equal(components(np.full((50, 4), value, dtype=np.float32), 3), 0)


def test_fewer_dimensions_than_components():
    assert components(np.random.default_rng(0).normal(size=(30, 4)), 15).shape == (30, 4)
