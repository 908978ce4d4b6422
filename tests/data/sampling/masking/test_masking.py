import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from stimage.data import draw_hidden_sites

images = arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))
ratios = st.floats(0.01, 0.99)


@settings(deadline=None)
@given(images, ratios, st.sampled_from(["site", "region"]), st.integers(0, 99))
def test_some_observed_sites_are_hidden_and_some_stay(observed, ratio, masking, seed):
    assume(observed.sum() >= 2)
    hidden = draw_hidden_sites(observed, ratio, masking=masking, rng=np.random.default_rng(seed))
    assert hidden.shape == observed.shape
    assert hidden.dtype == bool
    assert not (hidden & ~observed).any()
    assert 1 <= hidden.sum() < observed.sum()
    if masking == "site":
        assert abs(hidden.sum() - ratio * observed.sum()) <= 1


def test_region_is_a_rectangle_of_about_the_share():
    observed = np.random.default_rng(0).random((16, 16)) < 0.9
    rng, shares, shapes = np.random.default_rng(1), [], set()
    for _ in range(300):
        hidden = draw_hidden_sites(observed, 0.3, masking="region", rng=rng)
        rows, cols = np.flatnonzero(hidden.any(axis=1)), np.flatnonzero(hidden.any(axis=0))
        box = np.zeros_like(observed)
        box[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] = True
        # Contiguous: everything observed in the bounding box is hidden.
        np.testing.assert_array_equal(hidden, box & observed)
        shares.append(hidden.sum() / observed.sum())
        shapes.add((len(rows), len(cols)))
    assert 0.25 < np.mean(shares) < 0.35
    assert len(shapes) > 5


def test_each_site_is_hidden_as_often():
    observed = np.ones((4, 5), dtype=bool)
    observed[0, 0] = False
    rng = np.random.default_rng(0)
    often = sum(draw_hidden_sites(observed, 0.5, rng=rng).astype(int) for _ in range(2000)) / 2000
    assert often[0, 0] == 0
    # 10 of 19 sites (9.5 rounded to even); five standard deviations.
    np.testing.assert_allclose(often[observed], 10 / 19, atol=5 * np.sqrt(0.25 / 2000))
