"""What neighbours explain of sites, and the widths that follow from it."""

import numpy as np
import pytest
from slides import pairs_mean

from stimage import datasets, pp
from stimage.models import SmoothedPCA
from stimage.models._setup import corpus_of
from stimage.models._smoothed_pca import TARGET_SUM, own_axes
from stimage.models.embedding._neighbors import (
    BLOCK,
    WIDER,
    blocks_of,
    explained,
    explained_by_neighbors,
    predicted_by_neighbors,
    width_factor,
)
from stimage.models.embedding._readout import components_of


def bins(library_size, *, side=40, layout="square", seed=0):
    adata = datasets.simulate_tissue(
        n_rows=side, n_cols=side, layout=layout, n_genes=200, library_size=library_size, seed=seed
    )
    pp.compact_grid(adata)
    return adata


def thinned(adata, share):
    """A share of the counts, drawn one by one."""
    other = adata.copy()
    other.X.data = np.random.default_rng(0).binomial(other.X.data.astype(int), share).astype(np.float32)
    other.X.eliminate_zeros()
    return other


def on_axes(*adatas):
    slides = list(corpus_of(list(adatas), n_pool_genes=200).to_target_sum(TARGET_SUM))
    return slides, own_axes(slides)


def shares_of_pairs(slide, own, widths, seed):
    """Shares that each width explains, from all pairs of sites."""
    half = np.random.default_rng(seed).permutation(slide.n_sites) % 2 == 0
    shares = []
    for width in widths:
        of_halves = [pairs_mean(slide.hide(hidden), own, width) for hidden in (half, ~half)]
        predicted = np.where(half[:, None], *of_halves)
        shares.append(explained(own[slide.active], predicted[slide.active]))
    return shares


def test_explained_is_the_share_of_a_regression_through_zero():
    rng = np.random.default_rng(0)
    own = rng.normal(size=(50, 3))
    predicted = own + rng.normal(size=(50, 3))
    fit = np.linalg.lstsq(predicted.reshape(-1, 1), own.ravel(), rcond=None)
    assert explained(own, predicted) == pytest.approx(1 - fit[1][0] / np.square(own).sum())
    assert explained(own, -predicted) == 0
    assert explained(own, 7 * own) == pytest.approx(1)


def test_explained_by_neighbors(trained):
    (slide,) = trained.corpus
    own = trained.readout.components(slide)
    shares = shares_of_pairs(slide, own, (0.7, 1.0, 1.5, 2.2, 3.0, 4.5), 3)
    found = explained_by_neighbors(slide, own, np.flatnonzero(slide.active), seed=3)
    assert found == pytest.approx(max(shares), rel=1e-3)


def test_no_site_predicts_itself(trained):
    (slide,) = trained.corpus
    own = np.zeros((slide.n_sites, 1), dtype=np.float32)
    own[7] = 1
    assert predicted_by_neighbors(slide, own, 1.0, seed=0)[7] == 0
    assert predicted_by_neighbors(slide, own, 1.0, seed=0).max() > 0


@pytest.mark.parametrize(("library_size", "layout"), [(3000, "hex"), (40, "hex"), (20, "square"), (6, "square")])
def test_the_wider_gaussian_is_the_one_that_predicts_best(library_size, layout):
    slides, axes = on_axes(bins(library_size, layout=layout))
    (slide,) = slides
    widths = (3.0, *WIDER)
    shares = shares_of_pairs(slide, components_of(slide, axes), widths, 0)
    best = widths[int(np.argmax(shares))]
    assert width_factor(slides, axes, seed=0) == pytest.approx(1 if best == 3.0 else best / 2.2)


def test_fewer_counts_are_averaged_more():
    adata = bins(3000)
    factors = [SmoothedPCA(thinned(adata, share)).readout.width_factor for share in (1, 0.004, 0.001)]
    assert factors[0] == 1 < factors[1] < factors[2]
    # Slides that are fitted together share a factor: a small one leaves no room for wide means.
    small = bins(3000, side=20)
    assert SmoothedPCA([thinned(adata, 0.001), small]).readout.width_factor == 1


@pytest.mark.parametrize("layout", ["hex", "square"])
def test_blocks_are_parts_of_a_slide(layout):
    slides, axes = on_axes(bins(15, side=2 * BLOCK + 10, layout=layout))
    (slide,) = slides
    components = components_of(slide, axes)
    blocks = list(blocks_of(slides, 0))
    n_sites = [block.n_sites for block in blocks]
    assert sum(n_sites) >= 10_000 > sum(n_sites[:-1])
    assert sum(n_sites) < slide.n_sites
    for block in blocks:
        observations = np.empty(block.n_sites, dtype=np.int64)
        observations[block.site_of_observation] = block.observation_index
        site = slide.site_of_observation[observations]
        # Sites lie as they do on the slide, and have their own expression on its centre.
        assert np.ptp(slide.positions[site] - block.positions, axis=0) == pytest.approx([0, 0], abs=1e-9)
        np.testing.assert_allclose(components_of(block, axes), components[site], atol=1e-5)
    assert width_factor(slides, axes, seed=0) > 1
