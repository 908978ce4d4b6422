import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from stimage.models.embedding import _codes
from stimage.models.embedding._codes import N_CLUSTERS, N_COMPONENTS, N_STARTS, NicheCodes


def clustered(n_sites=300, dim=20, seed=0):
    """Vectors of sites around four centres, of unit spread."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(4, dim))[rng.integers(4, size=n_sites)] + 0.5 * rng.normal(size=(n_sites, dim))
    return (vectors / np.sqrt(vectors.var(axis=0).sum())).astype(np.float32)


def test_codes_are_components_of_the_posteriors_of_all_mixtures():
    vectors = clustered()
    components = PCA(N_COMPONENTS, svd_solver="full").fit_transform(vectors.astype(np.float64))
    components /= np.sqrt(components.var(axis=0, ddof=1).sum())
    posteriors = []
    for n_clusters in N_CLUSTERS:
        for start in range(N_STARTS):
            mixture = GaussianMixture(n_clusters, covariance_type="tied", max_iter=30, random_state=7 + start)
            posteriors.append(mixture.fit(components).predict_proba(components))
    expected = PCA(30, svd_solver="full").fit_transform(np.hstack(posteriors))
    codes = NicheCodes.fit(vectors, seed=7)
    found = codes(vectors)
    assert found.shape == (300, 30) == (300, codes.n_codes)
    assert found.dtype == np.float32
    expected /= np.sqrt(expected.var(axis=0, ddof=1).sum())
    # Signs of components are a matter of rounding: distances are not.
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-3)
    assert found.var(axis=0, ddof=1).sum() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_vectors_does_not_matter(scale):
    vectors = clustered()
    found = NicheCodes.fit(scale * vectors)(scale * vectors)
    np.testing.assert_allclose(found, NicheCodes.fit(vectors)(vectors), atol=2e-3)


def test_seeds():
    vectors = clustered()
    first, again, other = (NicheCodes.fit(vectors, seed=seed) for seed in (0, 0, 1))
    for name, tensor in first.tensors.items():
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(again.tensors[name], tensor)
    assert not np.array_equal(first(vectors), other(vectors))
    np.testing.assert_allclose(first(vectors[10:20]), first(vectors)[10:20], atol=1e-5)


def test_many_sites_are_sampled(monkeypatch):
    vectors = clustered(2000)
    whole = NicheCodes.fit(vectors)(vectors)
    monkeypatch.setattr(_codes, "MOST_SITES", 600)
    sampled = NicheCodes.fit(vectors)(vectors)
    # What codes are for: near in one, near in the other.
    distances = [np.linalg.norm(part[:300, None] - part[None, :300], axis=2).ravel() for part in (whole, sampled)]
    assert np.corrcoef(distances)[0, 1] > 0.85


@pytest.mark.parametrize("n_sites", [2, 5, 10, 16, 25])
def test_few_sites(n_sites):
    vectors = clustered(n_sites)
    codes = NicheCodes.fit(vectors)
    assert len(codes(vectors)) == n_sites
    assert 1 <= codes.n_codes <= n_sites - 1
    # A mixture has a cluster for eight sites at most: with one there is nothing to say.
    assert codes(vectors).var(axis=0, ddof=1).sum() == pytest.approx(1 if n_sites >= 16 else 0, abs=1e-3)
    assert np.isfinite(codes(clustered(seed=1))).all()


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_constant_vectors_have_no_codes():
    for value in (0.1, -3.0, 0.0):
        constant = np.full((40, 20), value, dtype=np.float32)
        np.testing.assert_array_equal(NicheCodes.fit(constant)(constant), 0)
