import time

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import KDTree
from scipy.spatial.distance import pdist
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from stimage.datasets import simulate_tissue
from stimage.datasets._genes import N_PROGRAMMES, Genes
from stimage.datasets._tissue import LayeredField, SmoothField

SMALL = {"n_rows": 24, "n_cols": 18, "n_genes": 120, "n_domains": 4}


@pytest.fixture(scope="module")
def default_slide():
    return simulate_tissue()


@pytest.mark.parametrize("layout", ["hex", "square", "irregular"])
def test_same_seed_gives_the_same_slide(layout):
    first, second = (simulate_tissue(layout=layout, seed=3, **SMALL) for _ in range(2))
    other = simulate_tissue(layout=layout, seed=4, **SMALL)
    assert (first.X != second.X).nnz == 0
    assert np.array_equal(first.obsm["spatial"], second.obsm["spatial"])
    assert first.obs.equals(second.obs)
    assert first.shape != other.shape or (first.X != other.X).nnz > 0


def test_hex_lattice_is_visium():
    adata = simulate_tissue(pitch=100.0, **SMALL)
    row, col = adata.obs["array_row"].to_numpy(), adata.obs["array_col"].to_numpy()
    assert ((row + col) % 2 == 0).all()
    x, y = adata.obsm["spatial"].T
    np.testing.assert_allclose(np.diff(x) / 50.0, np.diff(col))
    np.testing.assert_allclose(np.diff(y) / (100.0 * np.sqrt(3) / 2), np.diff(row), atol=1e-9)
    distance = pdist(adata.obsm["spatial"])
    assert distance.min() == pytest.approx(100.0)
    # The second shell of a triangular lattice lies at sqrt(3) pitches.
    assert distance[distance > 100.001].min() == pytest.approx(100.0 * np.sqrt(3))
    within = KDTree(adata.obsm["spatial"]).query_ball_point(adata.obsm["spatial"], 101.0, return_length=True)
    n_neighbors = within - 1
    assert n_neighbors.max() == 6
    assert np.median(n_neighbors) == 6


def test_square_lattice():
    adata = simulate_tissue(layout="square", pitch=8.0, **SMALL)
    expected = 8.0 * (adata.obs[["array_col", "array_row"]].to_numpy() + 1)
    np.testing.assert_allclose(adata.obsm["spatial"], expected)


def test_irregular_cells_have_no_array_and_keep_apart():
    adata = simulate_tissue(layout="irregular", pitch=10.0, **SMALL)
    assert "array_row" not in adata.obs
    assert pdist(adata.obsm["spatial"]).min() > 0
    nearest = KDTree(adata.obsm["spatial"]).query(adata.obsm["spatial"], k=2)[0][:, 1]
    assert np.std(nearest) > 1.0


def test_tissue_has_margins_and_holes(default_slide):
    sites = np.zeros((60, 40), dtype=bool)
    sites[default_slide.obs["array_row"], default_slide.obs["array_col"] // 2] = True
    assert 0.7 < sites.mean() < 0.95
    assert not (sites[0].all() or sites[-1].all() or sites[:, 0].all() or sites[:, -1].all())
    left, right = sites.argmax(axis=1), 39 - sites[:, ::-1].argmax(axis=1)
    enclosed = sum((~sites[row, left[row] : right[row]]).sum() for row in range(60) if sites[row].any())
    assert enclosed > 5


def test_counts_are_integer_sparse_and_overdispersed(default_slide):
    counts = default_slide.X
    assert counts.format == "csr"
    assert counts.dtype == np.float32
    assert np.array_equal(counts.data, np.rint(counts.data))
    assert counts.data.min() >= 1
    # Two counts for each gene, as on the olfactory bulb of Stahl et al. 2016, where .60 are zeros.
    assert 0.5 < 1 - counts.nnz / np.prod(counts.shape) < 0.9
    library = np.asarray(counts.sum(axis=1)).ravel()
    assert 2500 < np.median(library) < 3500
    assert 0.2 < np.std(np.log(library)) < 0.6


def test_library_sizes_vary_as_on_cortex():
    """Standard deviation of the logarithm and mean correlation of neighbours: .54, .59 and .64, .65 on two sections."""
    spread, smooth = [], []
    for seed in range(5):
        adata = simulate_tissue(seed=seed)
        log_library = np.log(np.asarray(adata.X.sum(axis=1)).ravel())
        log_library -= log_library.mean()
        one, other = KDTree(adata.obsm["spatial"]).query_pairs(138.0, output_type="ndarray").T
        spread.append(log_library.std())
        smooth.append((log_library[one] * log_library[other]).mean() / log_library.var())
    assert 0.4 < np.mean(spread) < 0.7
    assert 0.5 < np.mean(smooth) < 0.75


def test_depth_is_spatially_correlated(default_slide):
    log_library = np.log(np.asarray(default_slide.X.sum(axis=1)).ravel())
    nearest = KDTree(default_slide.obsm["spatial"]).query(default_slide.obsm["spatial"], k=7)[1][:, 1:]
    assert np.corrcoef(log_library, log_library[nearest].mean(axis=1))[0, 1] > 0.3


def test_variance_is_negative_binomial():
    # Housekeeping genes of observations of one kind differ only by the count noise: variance mu + mu^2 / theta.
    rng = np.random.default_rng(0)
    n_obs = 6000
    genes = Genes(200, np.linspace(0, 1, 5), rng)
    programmes = np.zeros((n_obs, N_PROGRAMMES))
    counts = genes.counts(np.full((n_obs, 5), 0.2), programmes, np.full(n_obs, 4000.0), np.zeros(200), rng)
    keep = (genes.var["role"] == "housekeeping").to_numpy()
    sample = counts[:, keep].toarray().astype(float)
    mean, variance = sample.mean(axis=0), sample.var(axis=0)
    theta = genes.var["inverse_dispersion"].to_numpy()[keep]
    expected = mean + mean**2 / theta
    frequent = mean > 1
    assert frequent.sum() > 5
    np.testing.assert_allclose(variance[frequent], expected[frequent], rtol=0.25)
    overdispersed = mean > 0.5 * theta
    assert overdispersed.sum() > 3
    assert (variance[overdispersed] > 1.2 * mean[overdispersed]).all()


def test_smooth_field_has_the_covariance_it_names():
    rng = np.random.default_rng(0)
    points = np.array([[0.0, 0.0], [0.1, 0.0], [0.0, 0.3]])
    values = SmoothField(0.2, rng, 4000)(points)
    expected = np.exp(-((points[:, None] - points[None]) ** 2).sum(axis=2) / (2 * 0.2**2))
    np.testing.assert_allclose(values @ values.T / 4000, expected, atol=0.1)


def test_fields_of_several_scales():
    points = np.array([[0.0, 0.0], [0.1, 0.0], [0.0, 0.3]])
    square = ((points[:, None] - points[None]) ** 2).sum(axis=2)
    covariance = {scale: np.exp(-square / (2 * scale**2)) for scale in (0.05, 0.4)}
    # One scale for each field, or the sum of two in each.
    scales = np.repeat([0.05, 0.4], 4000)
    values = SmoothField(scales, np.random.default_rng(0), 8000)(points)
    for scale, expected in covariance.items():
        of_scale = values[:, scales == scale]
        np.testing.assert_allclose(of_scale @ of_scale.T / 4000, expected, atol=0.1)
    values = LayeredField({0.05: 0.5, 0.4: 2.0}, np.random.default_rng(1), 4000)(points)
    np.testing.assert_allclose(values @ values.T / 4000, 0.25 * covariance[0.05] + 4 * covariance[0.4], atol=0.3)


def test_library_size_is_the_median():
    adata = simulate_tissue(library_size=500.0, **SMALL)
    assert np.median(np.asarray(adata.X.sum(axis=1))) == pytest.approx(500.0, rel=0.15)


def test_housekeeping_genes_do_not_tell_domains_apart(default_slide):
    library = np.asarray(default_slide.X.sum(axis=1)).ravel()
    domain = default_slide.obs["domain"].to_numpy()

    def spread(role: str) -> float:
        chosen = (default_slide.var["role"] == role).to_numpy() & (np.asarray(default_slide.X.mean(axis=0)).ravel() > 1)
        share = default_slide.X[:, chosen].multiply(1 / library[:, None]).toarray()
        means = np.array([share[domain == name].mean(axis=0) for name in np.unique(domain)])
        return float(np.median(means.std(axis=0) / means.mean(axis=0)))

    assert spread("housekeeping") < 0.5 * spread("marker")


@pytest.mark.parametrize("pattern", ["layers", "patches"])
def test_every_domain_is_present_and_smooth(pattern):
    for seed in range(10):
        adata = simulate_tissue(pattern=pattern, seed=seed, **SMALL)
        domain = adata.obs["domain"]
        assert list(domain.cat.categories) == [f"domain_{i}" for i in range(1, 5)]
        assert domain.nunique() == 4
        nearest = KDTree(adata.obsm["spatial"]).query(adata.obsm["spatial"], k=2)[1][:, 1]
        assert (domain.to_numpy() == domain.to_numpy()[nearest]).mean() > 0.7


def test_sections_share_genes_and_differ_by_a_batch_effect():
    adata = simulate_tissue(n_slides=3, **SMALL)
    assert list(adata.obs["slide"].cat.categories) == ["slide_1", "slide_2", "slide_3"]
    assert adata.obs_names.is_unique
    assert adata.var["role"].notna().all()
    means = np.array(
        [np.asarray(adata[adata.obs["slide"] == name].X.mean(axis=0)).ravel() for name in ("slide_1", "slide_2")]
    )
    frequent = (means > 1).all(axis=0)
    log_ratio = np.log(means[0, frequent] / means[1, frequent])
    assert 0.2 < np.std(log_ratio) < 0.7


def test_default_slide_is_hard_but_solvable():
    """As on human cortex: single spots tell little, their surroundings more, and neither reaches the truth."""
    single, neighbourhood = [], []
    for seed in range(5):
        start = time.perf_counter()
        adata = simulate_tissue(seed=seed)
        assert time.perf_counter() - start < 10  # a third of a second on a quiet core
        assert 1500 < adata.n_obs < 2400
        scale = 1e4 / np.asarray(adata.X.sum(axis=1))
        pcs = PCA(30, random_state=0).fit_transform(np.log1p(adata.X.multiply(scale).toarray()))
        nearest = KDTree(adata.obsm["spatial"]).query(adata.obsm["spatial"], k=7)[1]
        for scores, features in ((single, pcs), (neighbourhood, pcs[nearest].mean(axis=1))):
            found = KMeans(6, n_init=5, random_state=0).fit_predict(features)
            scores.append(adjusted_rand_score(adata.obs["domain"], found))
    assert 0.1 < np.mean(single) < 0.5
    assert 0.35 < np.mean(neighbourhood) < 0.65
    # The two labelled sections of cortex gain .07 each.
    assert (np.array(neighbourhood) > np.array(single) + 0.03).all()


@pytest.mark.parametrize("pattern", ["layers", "patches"])
def test_leading_axes_hold_smooth_structure_within_domains(pattern):
    """On real slides what domains leave of axes 2 to 4 is as much as half, and neighbouring spots share it."""
    within, shared = [], []
    for seed in range(3):
        adata = simulate_tissue(pattern=pattern, seed=seed)
        scale = 1e3 / np.asarray(adata.X.sum(axis=1))
        scores = PCA(4, random_state=0).fit_transform(np.log1p(adata.X.multiply(scale).toarray()))[:, 1:]
        means = pd.DataFrame(scores).groupby(adata.obs["domain"].to_numpy(), observed=True).transform("mean")
        rest = scores - means.to_numpy()
        within.append(rest.var(axis=0) / scores.var(axis=0))
        # Each pair once: the nearest spots of a hexagonal lattice are one pitch apart.
        one, other = KDTree(adata.obsm["spatial"]).query_pairs(138.0, output_type="ndarray").T
        shared.append((rest[one] * rest[other]).mean(axis=0) / rest.var(axis=0))
    assert np.mean(within) > 0.4
    assert np.mean(shared) > 0.35


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("layout", "rank"),
        ("pattern", "stripes"),
        ("n_rows", 2),
        ("n_domains", 0),
        ("n_genes", 1),
        ("n_slides", 0),
        ("library_size", -1.0),
        ("pitch", float("nan")),
        ("n_domains", 500),
    ],
)
def test_bad_arguments_are_named(argument, value):
    with pytest.raises(ValueError, match=argument):
        simulate_tissue(**{**SMALL, argument: value})
