import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from stimage.models._codebook import N_CODES, N_COMPONENTS, N_STARTS, Codebook
from stimage.models._mixture import Mixture


def clustered_views(n_sites=300, dim=20, seed=0):
    """Three views of sites that lie around four centres, each view of unit spread."""
    rng = np.random.default_rng(seed)
    cluster = rng.integers(4, size=n_sites)
    views = [rng.normal(size=(4, dim))[cluster] + 0.5 * rng.normal(size=(n_sites, dim)) for _ in range(3)]
    return [(view / np.sqrt(view.var(axis=0).sum())).astype(np.float32) for view in views]


def test_posterior_is_that_of_the_mixture():
    points = PCA(6).fit_transform(clustered_views()[0])
    mixture = GaussianMixture(5, covariance_type="tied", random_state=0).fit(points)
    whitening = mixture.precisions_cholesky_
    found = Mixture(whitening, mixture.means_ @ whitening, np.log(mixture.weights_)).posterior(points)
    np.testing.assert_allclose(found, mixture.predict_proba(points), atol=1e-6)
    densities = [multivariate_normal(mean, mixture.covariances_).pdf(points) for mean in mixture.means_]
    joint = mixture.weights_ * np.transpose(densities)
    np.testing.assert_allclose(found, joint / joint.sum(axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("n_codes", [1, 3, 8])
@pytest.mark.parametrize("max_iter", [1, 60])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_mixtures_are_those_of_scikit_learn(n_codes, max_iter):
    points = PCA(6).fit_transform(clustered_views(400, seed=n_codes)[0]).astype(np.float64)
    options = {"covariance_type": "tied", "max_iter": max_iter, "random_state": 5}
    expected = GaussianMixture(n_codes, **options).fit(points)
    found = Mixture.fit(points, n_codes, max_iter=max_iter, seed=5)
    np.testing.assert_allclose(found.whitening, expected.precisions_cholesky_, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found.means, expected.means_ @ expected.precisions_cholesky_, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(np.exp(found.log_weights), expected.weights_, rtol=1e-8)


@pytest.mark.filterwarnings("error")
def test_a_mixture_of_points_that_are_alike():
    found = Mixture.fit(np.ones((40, 3)), 4, max_iter=60, seed=0)
    np.testing.assert_allclose(found.posterior(np.ones((2, 3))).sum(axis=1), 1)


def test_codes_are_components_of_the_posteriors_of_all_mixtures():
    views = clustered_views()
    posteriors = []
    for view in views:
        components = PCA(N_COMPONENTS, svd_solver="full").fit_transform(view.astype(np.float64))
        for n_codes in N_CODES:
            for start in range(N_STARTS):
                mixture = GaussianMixture(n_codes, covariance_type="tied", max_iter=60, random_state=7 + start)
                posteriors.append(mixture.fit(components).predict_proba(components))
    expected = PCA(30, svd_solver="full").fit_transform(np.hstack(posteriors))
    codes = Codebook.fit(views, seed=7)(views)
    assert codes.shape == (300, 30)
    assert codes.dtype == np.float32
    np.testing.assert_allclose(codes, expected / np.sqrt(expected.var(axis=0, ddof=1).sum()), atol=1e-4)
    assert codes.var(axis=0, ddof=1).sum() == pytest.approx(1, abs=1e-3)


def test_seeds():
    views = clustered_views()
    first, again, other = (Codebook.fit(views, seed=seed) for seed in (0, 0, 1))
    assert list(first.tensors) == list(again.tensors) == list(other.tensors)
    for name, tensor in first.tensors.items():
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(again.tensors[name], tensor)
    assert not np.array_equal(first(views), other(views))
    # The same codebook describes sites one by one as it does together.
    codes = first(views)
    np.testing.assert_allclose(first([view[10:20] for view in views]), codes[10:20], atol=1e-5)


@pytest.mark.parametrize("n_sites", [2, 5, 10, 16, 25])
def test_few_sites(n_sites):
    views = clustered_views(n_sites)
    codebook = Codebook.fit(views, seed=0)
    codes = codebook(views)
    assert codes.shape == (n_sites, n_sites - 1)
    # A mixture has at most a code for eight sites: with one there is nothing to say.
    assert codes.var(axis=0, ddof=1).sum() == pytest.approx(1 if n_sites >= 16 else 0, abs=1e-3)
    assert np.isfinite(codebook(clustered_views(seed=1))).all()


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_constant_views_have_no_codes():
    constant = [np.full((40, 20), value, dtype=np.float32) for value in (0.1, -3.0, 0.0)]
    codebook = Codebook.fit(constant, seed=0)
    np.testing.assert_array_equal(codebook(constant), 0)
    varied = clustered_views(40)
    some = Codebook.fit([constant[0], *varied[1:]], seed=0)([constant[0], *varied[1:]])
    assert some.var(axis=0, ddof=1).sum() == pytest.approx(1, abs=1e-3)
