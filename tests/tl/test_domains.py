import anndata
import numpy as np
import pandas as pd
import pytest
from helpers import assert_unchanged
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture

from stimage import datasets, pp, tl


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
    vectors = PCA(min(n_dims, 15), svd_solver="full").fit_transform(vectors)
    found = adata.obs["stimage_domain"]
    if method == "kmeans":
        # Of many starts both find the lowest sum of squares.
        expected = KMeans(5, n_init=200, random_state=0).fit(vectors).inertia_
        parts = [vectors[(found == name).to_numpy()] for name in found.cat.categories]
        own = sum(np.square(part - part.mean(axis=0)).sum() for part in parts)
        assert own == pytest.approx(expected, rel=1e-3)
        return
    vectors /= np.sqrt(vectors.var(axis=0).sum())
    expected = GaussianMixture(5, covariance_type="tied", n_init=10, random_state=3).fit_predict(vectors)
    assert adjusted_rand_score(expected, found) > 0.95


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("method", ["gmm", "kmeans", "leiden"])
def test_the_scale_of_vectors_does_not_matter(method, scale):
    adata, truth = blobs(4)
    adata.obsm["X_stimage"] = adata.obsm["X_stimage"].astype(np.float64) * scale + 3 * scale
    tl.domains(adata, 4, method=method)
    assert adjusted_rand_score(truth, adata.obs["stimage_domain"]) == 1


def test_axes_keep_the_weight_of_what_they_carry():
    # The first axis separates two groups, nine others with a tenth of its spread separate two groups each.
    rng = np.random.default_rng(0)
    truth = rng.integers(2, size=400)
    vectors = np.column_stack([10.0 * truth, *(rng.integers(2, size=400) for _ in range(9))])
    adata = anndata.AnnData(obsm={"X_stimage": vectors}, shape=(400, 0))
    tl.domains(adata, 2)
    assert adjusted_rand_score(truth, adata.obs["stimage_domain"]) == 1


@pytest.mark.parametrize("seeds", [(0, 1), (2, 3)])
def test_seeds_agree(seeds):
    adata, _ = blobs(5, n_dims=4, distance=3.0)
    found = []
    for seed in seeds:
        tl.domains(adata, 5, seed=seed)
        found.append(adata.obs["stimage_domain"].to_numpy())
    assert adjusted_rand_score(*found) > 0.9


@pytest.mark.parametrize("n_blobs", [3, 4, 6])
@pytest.mark.parametrize("with_positions", [False, True])
def test_estimated_number(n_blobs, with_positions):
    adata, truth = blobs(n_blobs)
    if with_positions:
        adata.obsm["spatial"] = np.random.default_rng(0).random((adata.n_obs, 2))
    tl.domains(adata)
    entry = adata.uns["stimage_domain"]
    assert entry["n_domains"] == n_blobs
    assert adjusted_rand_score(truth, adata.obs["stimage_domain"]) == 1
    curve = entry["criterion"]
    assert curve["n_domains"].tolist() == list(range(2, 16))
    assert curve.loc[curve["n_domains"] == n_blobs, "agreement"].item() == pytest.approx(1)
    assert curve["agreement"].between(-1, 1).all()


def test_confidence_is_the_simplified_silhouette():
    adata = overlapping(5)
    tl.domains(adata, 4)
    vectors = PCA(5).fit_transform(adata.obsm["X_stimage"])
    labels = adata.obs["stimage_domain"].cat.codes.to_numpy()
    centres = np.array([vectors[labels == domain].mean(axis=0) for domain in range(4)])
    distance = np.linalg.norm(vectors[:, None] - centres[None], axis=2)
    own = distance[np.arange(len(labels)), labels]
    distance[np.arange(len(labels)), labels] = np.inf
    other = distance.min(axis=1)
    expected = np.maximum(other - own, 0) / np.maximum(other, own)
    np.testing.assert_allclose(adata.obs["stimage_domain_confidence"], expected, atol=1e-4)


def test_levels_are_nested():
    adata = overlapping()
    tl.domains(adata, 6, levels=[3, 2, 6, 9])
    columns = [f"stimage_domain_{number}" for number in (9, 6, 3, 2)]
    for finer, coarser in zip(columns, columns[1:], strict=False):
        assert (pd.crosstab(adata.obs[finer], adata.obs[coarser]) > 0).sum(axis=1).eq(1).all()
    assert [adata.obs[column].nunique() for column in columns] == [9, 6, 3, 2]
    assert (adata.obs["stimage_domain_6"] == adata.obs["stimage_domain"]).all()


def test_coarser_levels_join_what_is_near():
    # Two pairs of blobs: the pairs are far from each other.
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [4.0, 0.0], [40.0, 0.0], [44.0, 0.0]])
    truth = np.repeat(np.arange(4), 50)
    adata = anndata.AnnData(obsm={"X_stimage": centres[truth] + 0.3 * rng.normal(size=(200, 2))}, shape=(200, 0))
    tl.domains(adata, 4, levels=[2])
    assert adjusted_rand_score(truth // 2, adata.obs["stimage_domain_2"]) == 1


def test_a_vote_of_neighbours_removes_single_observations():
    n = 20
    positions = np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2).astype(float)
    truth = (positions[:, 0] >= n / 2).astype(int)
    noisy = truth.copy()
    odd = [3 * n + 3, 12 * n + 15, 7 * n + 5]
    noisy[odd] = 1 - noisy[odd]
    adata = anndata.AnnData(obsm={"X_stimage": noisy[:, None] * [1.0, 0.0], "spatial": positions}, shape=(n * n, 0))
    tl.domains(adata, 2)
    assert adjusted_rand_score(truth, adata.obs["stimage_domain"]) < 1
    tl.domains(adata, 2, smooth_neighbors=8)
    assert adjusted_rand_score(truth, adata.obs["stimage_domain"]) == 1
    del adata.obsm["spatial"]
    with assert_unchanged(adata), pytest.raises(KeyError, match="`smooth_neighbors` needs positions"):
        tl.domains(adata, 2, smooth_neighbors=8)


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
    with pytest.warns(UserWarning, match="4 domains were found, not 3: no resolution"):
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
    entry = adata.uns["stimage_domain"]
    assert set(entry) == {"params", "n_domains"}
    assert entry["n_domains"] == 4
    expected = {"use_rep": "X_stimage", "method": method, "n_components": 15, "seed": 1}
    assert entry["params"] == {**expected, "levels": "", "smooth_neighbors": 0}
    assert (list(copy.uns), list(copy.obs)) == (["layer"], ["layer", "layer_confidence"])


@pytest.mark.parametrize(("method", "n_domains"), [("gmm", 4), ("kmeans", 4), ("leiden", 4), ("kmeans", None)])
def test_repeatable(method, n_domains):
    first, again = overlapping(5)[:40].copy(), overlapping(5)[:40].copy()
    state = np.random.get_state()[1].tolist()
    for adata in (first, again):
        tl.domains(adata, n_domains, method=method, seed=2)
    assert first.obs["stimage_domain"].equals(again.obs["stimage_domain"])
    assert np.random.get_state()[1].tolist() == state


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("method", ["kmeans"])
def test_fewer_distinct_vectors_than_domains(method):
    adata = anndata.AnnData(shape=(40, 0))
    adata.obsm["X_stimage"] = np.repeat([[0.0, 0.0], [9.0, 9.0]], [15, 25], axis=0)
    with pytest.warns(UserWarning, match="2 domains were found, not 4"):
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


def test_neighbours_of_slides_that_were_joined_do_not_vote():
    parts = [datasets.simulate_tissue(n_rows=12, n_cols=12, n_genes=60, seed=seed) for seed in (0, 1)]
    for part in parts:
        pp.compact_grid(part)
        tl.embed(part)
    joined = anndata.concat(parts, label="part", index_unique="-")
    with assert_unchanged(joined), pytest.raises(KeyError, match="`smooth_neighbors` needs positions.*slide_key"):
        tl.domains(joined, 3, smooth_neighbors=6)
    pp.compact_grid(joined, slide_key="part")
    tl.domains(joined, 3, smooth_neighbors=6)
