import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slides import random_slide

from stimage.data import gaussian_mean, site_positions


def written_out(slide, values, width):
    """All pairs of sites, at their physical positions."""
    positions = site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity).astype(np.float64)
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    weights = np.exp(-0.5 * (distance / width) ** 2) * slide.active
    return weights @ values / weights.sum(axis=1, keepdims=True)


@settings(max_examples=30, deadline=None)
@given(
    layout=st.sampled_from(["hex", "square", "bins", "rank"]),
    parity=st.integers(0, 1),
    width=st.floats(0.6, 3.0),
    holes=st.floats(0, 0.5),
    seed=st.integers(0, 1000),
)
def test_against_all_pairs(layout, parity, width, holes, seed):
    slide = random_slide(10, 9, layout=layout, parity=parity, holes=holes, seed=seed)
    if not slide.active.any():
        return
    values = np.random.default_rng(seed).normal(size=(slide.n_sites, 2))
    near = np.abs(written_out(slide, values, width) - gaussian_mean(slide, values, width))
    # Weights beyond four widths are left out: 3e-4 of the whole at most, more where nothing is nearer.
    reached = written_out(slide, np.ones((slide.n_sites, 1)), width)[:, 0] > 0
    assert np.quantile(near[reached], 0.9) < 5e-3
    assert near.max() < 3


def test_sites_without_counts_have_no_weight():
    slide = random_slide(12, 12, empty=0.3, seed=3)
    values = np.ones((slide.n_sites, 1))
    values[~slide.active] = 1e6
    np.testing.assert_allclose(gaussian_mean(slide, values, 1.5), 1, rtol=1e-6)


def test_far_from_all_counts_the_mean_of_the_slide():
    slide = random_slide(3, 60, layout="square", holes=0, empty=0)
    slide = slide.hide(slide.site_index[:, 1] > 10)
    values = np.arange(slide.n_sites, dtype=np.float64)[:, None]
    found = gaussian_mean(slide, values, 1.0)
    np.testing.assert_allclose(found[slide.site_index[:, 1] > 30, 0], values[slide.active].mean(), rtol=1e-6)


def test_sites_that_the_raster_does_not_show():
    slide = random_slide(8, 8, layout="square", holes=0, empty=0)
    shown = slide.restrict(np.arange(8)[:, None] * np.ones(8) < 6)
    found = gaussian_mean(shown, np.full((shown.n_sites, 1), 2.0), 1.0)
    np.testing.assert_allclose(found, 2)


def test_errors():
    slide = random_slide()
    with pytest.raises(ValueError, match="`values` has 3 rows"):
        gaussian_mean(slide, np.ones((3, 1)), 1.0)
    with pytest.raises(ValueError, match="`width` must be positive"):
        gaussian_mean(slide, np.ones((slide.n_sites, 1)), 0.0)
