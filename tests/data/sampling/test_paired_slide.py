from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse
from slides import random_slide, visium

from stimage import datasets, pp
from stimage.data import Corpus, PairedSlide, Slide, standardised_features


def random_niches(n_spots, *, seed=0):
    """Every spot with up to four others, in no particular order."""
    rng = np.random.default_rng(seed)
    members = np.eye(n_spots)
    for row in members:
        row[rng.integers(n_spots, size=rng.integers(5))] = 1
    return sparse.csr_matrix(members)


def shared_sites(slide, n_observations, *, seed=0):
    """The same sites with several observations on some and none that is left without."""
    rng = np.random.default_rng(seed)
    sites = np.concatenate([np.arange(slide.n_sites), rng.integers(slide.n_sites, size=n_observations - slide.n_sites)])
    return replace(slide, observation_index=np.arange(n_observations), site_of_observation=rng.permutation(sites))


def slow_batch(slide, niches, spots):
    """Expression of spots and the mean over their niches, spot by spot."""
    expression, niches = slide.expression.toarray().astype(float), niches.toarray()
    mean = np.mean([row for row, size in zip(expression, slide.library_size, strict=True) if size], axis=0)
    spot_genes, niche_genes = np.zeros((2, len(spots), len(mean)))
    for i, spot in enumerate(spots):
        site = slide.site_of_observation[spot]
        if slide.library_size[site]:
            spot_genes[i] = expression[site] - mean
        seen = []
        for other in range(len(niches)):
            site = slide.site_of_observation[other]
            if niches[spot, other] and slide.library_size[site]:
                seen.append(expression[site])
        if seen:
            niche_genes[i] = np.mean(seen, axis=0) - mean
    return {"spot_genes": spot_genes, "niche_genes": niche_genes}


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), empty=st.sampled_from([0.0, 0.3, 0.8]), layout=st.sampled_from(["hex", "bins"]))
def test_expression_is_that_of_a_written_out_loop(seed, empty, layout):
    slide = random_slide(6, 5, layout=layout, empty=empty, seed=seed)
    if not slide.library_size.any():
        slide = replace(slide, library_size=np.ones(slide.n_sites, dtype=np.float32))
    if layout == "bins":
        slide = shared_sites(slide, slide.n_sites + 15, seed=seed)
    niches = random_niches(len(slide.site_of_observation), seed=seed)
    paired = PairedSlide(slide, niches)
    spots = np.random.default_rng(seed).permutation(paired.n_spots)[:12]
    batch = paired.batch(spots)
    expected = slow_batch(slide, niches, spots)
    assert batch.keys() == expected.keys()
    for name, values in expected.items():
        assert batch[name].dtype == np.float32
        np.testing.assert_allclose(batch[name], values, atol=1e-5)
    np.testing.assert_array_equal(paired.measured, [slide.library_size[s] > 0 for s in slide.site_of_observation])


def test_niches_of_spots_without_counts():
    slide = random_slide(5, 5, empty=0, holes=0)
    slide = replace(slide, library_size=np.where(np.arange(25) < 3, 0, slide.library_size))
    members = np.eye(25)
    members[0, :3] = 1  # only spots without counts
    members[1, [1, 2, 7, 9]] = 1  # the two with counts make the mean
    members[5, :3] = 1  # no counts but its own
    batch = PairedSlide(slide, sparse.csr_matrix(members)).batch([0, 1, 5])
    expression = slide.expression.toarray()
    mean = expression[3:].mean(axis=0)
    assert not batch["spot_genes"][:2].any()
    assert not batch["niche_genes"][0].any()
    np.testing.assert_allclose(batch["niche_genes"][1], expression[[7, 9]].mean(axis=0) - mean, atol=1e-5)
    np.testing.assert_allclose(batch["niche_genes"][2], batch["spot_genes"][2], atol=1e-6)


def test_weights_of_memberships_do_not_count():
    slide = random_slide(5, 5)
    niches = random_niches(slide.n_sites)
    weighted = niches.copy()
    weighted.data = np.random.default_rng(0).uniform(0.1, 5, niches.nnz)
    with_zeros = (niches + sparse.csr_matrix(np.full(niches.shape, 7.0))).tocsr()
    with_zeros.data[with_zeros.data == 7] = 0  # stored, but no members
    spots = np.arange(slide.n_sites)
    expected = PairedSlide(slide, niches).batch(spots)["niche_genes"]
    for other in (weighted, with_zeros):
        np.testing.assert_array_equal(PairedSlide(slide, other).batch(spots)["niche_genes"], expected)


def test_cells_in_bins_from_raw_counts():
    """A cell is shown as its bin, and its niche as the mean over the bins of its members, cell by cell."""
    adata = datasets.simulate_tissue(n_rows=9, n_cols=9, n_genes=30, n_domains=2, layout="irregular", seed=6)
    adata.X = adata.X.toarray() * (np.arange(adata.n_obs) % 4 > 0)[:, None]
    pp.compact_grid(adata, layout="bins", bin_size=300.0)
    pp.build_niches(adata, n_neighbors=5)
    slide = Corpus.from_anndata(adata, genes=adata.var_names[5:])[0]
    batch = PairedSlide(slide, adata.obsp["niche_connectivities"]).batch(np.arange(adata.n_obs))
    bins = [tuple(site) for site in adata.obs[["grid_row", "grid_col"]].to_numpy()]
    pooled = {}
    for site in set(bins):
        counts = adata.X[[other == site for other in bins]].sum(axis=0)
        if counts.sum():
            pooled[site] = np.log1p(1e4 * counts / counts.sum())[5:]
    assert len(pooled) < len(set(bins)) < adata.n_obs / 2
    mean = np.mean(list(pooled.values()), axis=0)
    zero = np.zeros(len(mean))
    for cell in range(adata.n_obs):
        expected = pooled[bins[cell]] - mean if bins[cell] in pooled else zero
        np.testing.assert_allclose(batch["spot_genes"][cell], expected, atol=2e-5)
        members = adata.obsp["niche_connectivities"][cell].indices
        assert len(members) == 6
        seen = [pooled[bins[member]] for member in members if bins[member] in pooled]
        expected = np.mean(seen, axis=0) - mean if seen else zero
        np.testing.assert_allclose(batch["niche_genes"][cell], expected, atol=2e-5)


def test_niches_agree_with_the_layer_that_build_niches_writes():
    adata = visium(9, 8)
    pp.compact_grid(adata)
    pp.build_niches(adata, n_neighbors=6)
    slide = Corpus.from_anndata(adata, genes=adata.var_names)[0]
    niche_genes = PairedSlide(slide, adata.obsp["niche_connectivities"]).batch(np.arange(adata.n_obs))["niche_genes"]
    np.testing.assert_allclose(niche_genes + slide.gene_mean, adata.layers["niche"].toarray(), atol=1e-5)


@pytest.mark.parametrize("pixels", [False, True])
def test_images_and_embeddings_follow_the_spots(pixels):
    rng = np.random.default_rng(0)
    slide: Slide = random_slide(5, 5)
    n = slide.n_sites
    spot_image = rng.normal(size=(n, 7)).astype(np.float32)
    if pixels:
        spot_image = rng.integers(256, size=(n, 4, 4, 3), dtype=np.uint8)
    niche_image, embedding = (rng.normal(size=(n, 5)).astype(np.float32) for _ in range(2))
    paired = PairedSlide(slide, random_niches(n), spot_image, niche_image, embedding)
    spots = [4, 2, 9, 2]
    batch = paired.batch(spots)
    for name, values in (("spot_image", spot_image), ("niche_image", niche_image), ("spot_genes", embedding)):
        assert batch[name].dtype == values.dtype
        np.testing.assert_array_equal(batch[name], values[spots])
    without = PairedSlide(slide, random_niches(n)).batch(spots)
    np.testing.assert_array_equal(batch["niche_genes"], without["niche_genes"])
    assert sorted(without) == ["niche_genes", "spot_genes"]


def test_niches_left_out():
    slide = random_slide(5, 5)
    batch = PairedSlide(slide, None, np.ones((slide.n_sites, 2), dtype=np.float32)).batch([0, 3])
    assert sorted(batch) == ["spot_genes", "spot_image"]
    expected = PairedSlide(slide, random_niches(slide.n_sites)).batch([0, 3])["spot_genes"]
    np.testing.assert_array_equal(batch["spot_genes"], expected)


FEATURES = hnp.arrays(
    np.float32, st.tuples(st.integers(1, 30), st.integers(1, 4)), elements=st.floats(-50, 50, width=32)
)


@settings(max_examples=60, deadline=None)
@given(features=FEATURES, shift=st.floats(-20, 20), scale=st.floats(0.5, 20))
def test_standardised_features(features, shift, scale):
    found = standardised_features(features)
    assert found.dtype == np.float32
    exact = features.astype(np.float64)
    spread = np.sqrt(((exact - exact.mean(axis=0)) ** 2).mean(axis=0))
    expected = np.clip((exact - exact.mean(axis=0)) / (spread + 1e-3), -3, 3)
    np.testing.assert_allclose(found, expected, atol=0.02)
    # Stain and scanner shift and scale whole slides; what varies less than .1 is noise to the smallest spread.
    varies = spread > 0.1
    moved = standardised_features(features * np.float32(scale) + np.float32(shift))
    np.testing.assert_allclose(moved[:, varies], found[:, varies], atol=0.05)


def test_outliers_stop_at_three_and_constants_are_zero():
    features = np.random.default_rng(0).normal(size=(200, 3))
    features[7, 0], features[9, 1] = 1e4, -1e4
    features[:, 2] = 5.1
    found = standardised_features(features)
    assert found[7, 0] == 3
    assert found[9, 1] == -3
    assert np.abs(found).max() == 3
    assert np.abs(found[:, 2]).max() < 1e-3


def test_many_patches_lose_no_digits():
    """Plain float32 sums of this many values are off by more than their spread."""
    noise = np.random.default_rng(0).normal(size=(300_000, 2))
    found = standardised_features(100.3 + 0.02 * noise)
    assert np.abs(found.mean(axis=0)).max() < 1e-3
    assert found.std() == pytest.approx(0.02 / 0.021, abs=0.02)
    assert np.abs(standardised_features(np.full((300_000, 2), 100.3))).max() < 0.01
