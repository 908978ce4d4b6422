import anndata
import numpy as np
import pandas as pd
import pytest
from helpers import assert_unchanged
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from stimage import tl


def blobs(n_blobs=4, *, n_dims=3, distance=20.0, seed=0):
    """Well separated round blobs of different sizes, in random order, and the blob of each observation."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(n_blobs), 30 + 10 * np.arange(n_blobs)))
    corners = np.array([[number >> bit & 1 for bit in range(n_dims)] for number in range(n_blobs)])
    adata = anndata.AnnData(shape=(len(truth), 0))
    adata.obsm["X_stimage"] = (distance * corners[truth] + rng.normal(size=(len(truth), n_dims))).astype(np.float32)
    return adata, truth


def overlapping(n_dims=20, seed=0):
    rng = np.random.default_rng(seed)
    adata = anndata.AnnData(shape=(150, 0))
    adata.obsm["X_stimage"] = rng.normal(size=(150, n_dims)) @ rng.normal(size=(n_dims, n_dims))
    return adata


@pytest.mark.parametrize("n_dims", [4, 20])
@pytest.mark.parametrize("method", ["gmm", "kmeans"])
def test_against_sklearn(method, n_dims):
    adata = overlapping(n_dims)
    tl.domains(adata, 5, method=method, seed=3)
    vectors = adata.obsm["X_stimage"]
    if n_dims > 15:
        vectors = PCA(15, svd_solver="full").fit_transform(vectors)
    if method == "gmm":
        expected = GaussianMixture(5, covariance_type="tied", n_init=10, random_state=3).fit_predict(vectors)
    else:
        expected = KMeans(5, n_init=10, random_state=3).fit_predict(vectors)
    table = pd.crosstab(adata.obs["stimage_domain"], expected)
    assert ((table > 0).sum(axis=0) == 1).all()
    assert ((table > 0).sum(axis=1) == 1).all()


@pytest.mark.parametrize(("method", "n_blobs"), [("gmm", 2), ("gmm", 3), ("kmeans", 2), ("kmeans", 4)])
def test_estimated_number(method, n_blobs):
    adata, truth = blobs(n_blobs)
    tl.domains(adata, method=method)
    assert adata.uns["stimage_domain"]["n_domains"] == n_blobs
    assert adjusted_rand_score(truth, adata.obs["stimage_domain"]) == 1
    assert adata.uns["stimage_domain"]["criterion"]["n_domains"].tolist() == list(range(2, 16))


@pytest.mark.parametrize("n_domains", [3, 8])
def test_leiden_reaches_the_number(n_domains):
    adata = overlapping()
    tl.domains(adata, n_domains, method="leiden")
    assert adata.obs["stimage_domain"].nunique() == n_domains == adata.uns["stimage_domain"]["n_domains"]


def test_leiden_alone():
    adata, truth = blobs(4)
    tl.domains(adata, 4, method="leiden")
    assert adjusted_rand_score(truth, adata.obs["stimage_domain"]) == 1
    tl.domains(adata, method="leiden", key_added="free")
    assert "criterion" not in adata.uns["free"]
    # Blobs that share no neighbours cannot be joined.
    with pytest.warns(UserWarning, match="Leiden found 4 domains, not the 3 of `n_domains`"):
        tl.domains(adata, 3, method="leiden")
    assert adata.uns["stimage_domain"]["n_domains"] == 4


@pytest.mark.parametrize("method", ["gmm", "kmeans", "leiden"])
def test_what_is_written(method):
    adata, _ = blobs(4)
    with assert_unchanged(adata):
        copy = tl.domains(adata, 4, method=method, key_added="layer", seed=1, copy=True)
    assert tl.domains(adata, 4, method=method, seed=1) is None
    domain = adata.obs["stimage_domain"]
    assert domain.tolist() == copy.obs["layer"].tolist()
    assert domain.cat.categories.tolist() == ["0", "1", "2", "3"]
    assert domain.value_counts(sort=False).tolist() == [60, 50, 40, 30]  # the largest first
    assert adata.uns["stimage_domain"] == {
        "params": {"use_rep": "X_stimage", "method": method, "n_components": 15, "seed": 1},
        "n_domains": 4,
    }
    assert (list(copy.uns), list(copy.obs)) == (["layer"], ["layer"])


@pytest.mark.parametrize(("method", "n_domains"), [("gmm", 4), ("kmeans", 4), ("leiden", 4), ("kmeans", None)])
def test_repeatable(method, n_domains):
    first, again = overlapping(5)[:40].copy(), overlapping(5)[:40].copy()
    state = np.random.get_state()[1].tolist()
    for adata in (first, again):
        tl.domains(adata, n_domains, method=method, seed=2)
    assert first.obs["stimage_domain"].equals(again.obs["stimage_domain"])
    assert np.random.get_state()[1].tolist() == state


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("method", ["gmm", "kmeans"])
def test_fewer_distinct_vectors_than_domains(method):
    adata = anndata.AnnData(shape=(40, 0))
    adata.obsm["X_stimage"] = np.repeat([[0.0, 0.0], [9.0, 9.0]], [15, 25], axis=0)
    tl.domains(adata, 4, method=method)
    sizes = adata.obs["stimage_domain"].value_counts(sort=False)
    assert (sizes > 0).all()
    assert adata.uns["stimage_domain"]["n_domains"] == len(sizes)


def test_other_representations():
    adata, truth = blobs(3)
    for key, convert in {
        "frame": lambda vectors: pd.DataFrame(vectors, index=adata.obs_names, columns=list("abc")),
        "integers": lambda vectors: np.rint(vectors).astype(int),
    }.items():
        adata.obsm[key] = convert(adata.obsm["X_stimage"])
        tl.domains(adata, 3, use_rep=key, key_added=f"{key}_domain")
        assert adjusted_rand_score(truth, adata.obs[f"{key}_domain"]) == 1
