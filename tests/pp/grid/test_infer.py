"""Rasters against slow references: the neighbours of a site in the raster are its physical neighbours."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stimage.pp.grid._array_fit import fit_array
from stimage.pp.grid._infer import from_spatial
from stimage.pp.grid._sites import NoLatticeError, Sites, from_array, from_bins, whole_positions

HALF = np.sqrt(3) / 2


def visium(n_rows, n_cols):
    """Array rows and columns of a full Visium-like slide and its positions, pitch 1."""
    row, col = np.divmod(np.arange(n_rows * n_cols), n_cols)
    col = 2 * col + row % 2
    return row, col, np.column_stack([col / 2, row * HALF])


def raster_positions(sites: Sites):
    """Physical positions of the sites in units of the pitch, by the convention of the grid."""
    if sites.layout == "hex":
        return np.column_stack([sites.col + 0.5 * ((sites.row + sites.parity) % 2), sites.row * HALF])
    return np.column_stack([sites.col, sites.row]).astype(float)


def neighbour_pairs(positions, pitch=1.0, tolerance=0.2):
    """Pairs one pitch apart, by looking at every pair."""
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=2)
    return np.abs(distance - pitch) < tolerance * pitch


def rotated(positions, degrees, pitch, mirror):
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return positions * [-1 if mirror else 1, 1] @ turn * pitch + [3000.0, -500.0]


slides = st.fixed_dictionaries(
    {
        "shape": st.tuples(st.integers(6, 12), st.integers(6, 12)),
        "keep": st.floats(0.55, 1.0),
        "degrees": st.floats(-180, 180),
        "pitch": st.floats(20.0, 500.0),
        "mirror": st.booleans(),
        "seed": st.integers(0, 2**32 - 1),
    }
)


def from_both(row, col, layout, spatial):
    """Sites from array coordinates, with the steps that the spatial ones say."""
    return from_array(row, col, layout, fit_array(row, col, spatial).steps)


@settings(max_examples=150, deadline=None)
@given(slide=slides, layout=st.sampled_from(["hex", "square"]))
def test_inferred_lattice_has_the_true_neighbours(slide, layout):
    """Any rotation, mirroring, order and holes, with positions rounded to whole pixels and jittered by 4 % of the pitch."""
    rng = np.random.default_rng(slide["seed"])
    n_rows, n_cols = slide["shape"]
    if layout == "hex":
        true = visium(n_rows, n_cols)[2]
    else:
        true = np.column_stack(np.divmod(np.arange(n_rows * n_cols), n_cols)[::-1]).astype(float)
    true = true[rng.permutation(len(true))[: int(np.ceil(slide["keep"] * len(true)))]]
    noisy = true + rng.uniform(-0.04, 0.04, true.shape)
    spatial = np.rint(rotated(noisy, slide["degrees"], slide["pitch"], slide["mirror"]))
    for asked in ("auto", layout):
        sites = from_spatial(spatial, asked)
        assert sites.layout == layout
        assert sites.source == "spatial"
        assert sites.row.min() == sites.col.min() == 0
        np.testing.assert_array_equal(neighbour_pairs(raster_positions(sites)), neighbour_pairs(true))
        assert sites.pitch == pytest.approx(slide["pitch"], rel=0.03)


@settings(max_examples=100, deadline=None)
@given(
    shape=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    first=st.tuples(st.integers(-3, 20), st.integers(-3, 20)),
    odd=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_hex_from_array_has_the_true_neighbours(shape, first, odd, seed):
    rng = np.random.default_rng(seed)
    row, col = np.divmod(np.arange(shape[0] * 2 * shape[1]), 2 * shape[1])
    row, col = row + first[0], col + first[1]
    on_lattice = (row + col) % 2 == int(odd)
    kept = rng.permutation(np.flatnonzero(on_lattice))[: max(4, int(on_lattice.sum() * 0.8))]
    row, col = row[kept], col[kept]
    positions = np.column_stack([col / 2, row * HALF])
    sites = from_both(row, col, "hex", positions)
    np.testing.assert_array_equal(neighbour_pairs(raster_positions(sites)), neighbour_pairs(positions))
    # Rows and columns keep their order and start, so the raster is the slide moved, not turned.
    offset = raster_positions(sites) - positions
    np.testing.assert_allclose(offset, np.broadcast_to(offset[0], offset.shape), atol=1e-9)
    assert sites.row.min() == sites.col.min() == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-20, 20), st.integers(-20, 20)), min_size=2, max_size=60, unique=True))
def test_rank_is_the_rank_among_distinct_levels(pairs):
    row, col = np.array(pairs).T
    sites = from_array(row, col, "rank")
    assert sites.row.tolist() == [sorted(set(row)).index(value) for value in row]
    assert sites.col.tolist() == [sorted(set(col)).index(value) for value in col]
    assert sites.shape == (len(set(row)), len(set(col)))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), keep=st.floats(0.5, 1.0), odd=st.booleans())
def test_checkerboard_is_a_square_lattice_turned_by_45_degrees(seed, keep, odd):
    rng = np.random.default_rng(seed)
    row, col = np.divmod(np.arange(14 * 18), 18)
    on_lattice = np.flatnonzero((row + col) % 2 == int(odd))
    kept = rng.permutation(on_lattice)[: int(keep * len(on_lattice))]
    row, col = row[kept] + 5, col[kept] + 3
    spatial = np.column_stack([30.0 * col, 33.0 * row])  # as on the real 2k arrays, not exactly isotropic
    sites = from_both(row, col, "auto", spatial)
    assert (sites.layout, sites.rotation, sites.source) == ("square", 45.0, "array")
    diagonal = neighbour_pairs(np.column_stack([col, row]).astype(float), np.sqrt(2), 0.1)
    np.testing.assert_array_equal(neighbour_pairs(raster_positions(sites)), diagonal)
    assert sites.pitch == pytest.approx(np.hypot(30, 33))


def test_one_parity_without_spatial_coordinates_is_taken_as_visium():
    row, col, positions = visium(6, 7)
    assert from_array(row, col, "auto").layout == "hex"
    assert np.isnan(from_array(row, col, "auto").pitch)
    assert from_both(row, col, "auto", positions * 100).pitch == pytest.approx(100)


def test_full_square_array_stays_as_it_is():
    row, col = np.divmod(np.arange(30), 6)
    sites = from_both(row + 12, col + 3, "auto", np.column_stack([col, row]) * 200.0)
    assert (sites.layout, sites.shape, sites.occupancy) == ("square", (5, 6), 1.0)
    assert sites.pitch == pytest.approx(200)


def test_array_coordinates_may_have_an_offset_and_jitter():
    rng = np.random.default_rng(0)
    row, col = np.divmod(np.arange(63), 9)
    shifted = from_array(whole_positions(row + 10.5, "row"), whole_positions(col + 3.5, "col"), "auto")
    np.testing.assert_array_equal(shifted.row, row)
    np.testing.assert_array_equal(shifted.col, col)
    jitter = rng.uniform(-0.2, 0.2, (2, 63))
    adjusted = from_array(whole_positions(row + jitter[0], "row"), whole_positions(col + jitter[1], "col"), "square")
    np.testing.assert_array_equal(adjusted.row, row)
    np.testing.assert_array_equal(adjusted.col, col)


def test_exchanged_array_columns_are_refused_in_auto_only():
    row, col, positions = visium(8, 8)
    with pytest.raises(ValueError, match="look exchanged"):
        from_both(col, row, "auto", positions)
    assert from_both(col, row, "hex", positions).layout == "hex"


def test_rows_follow_the_image_axis_where_the_lattice_has_one():
    row, col, positions = visium(9, 14)
    tissue = np.abs(row - col / 2) < 5  # a diagonal band, for which another direction gives a smaller raster
    sites = from_spatial(rotated(positions[tissue], 1.0, 140.0, False))
    assert sites.rotation == pytest.approx(1.0, abs=0.2)
    quarter = from_spatial(rotated(positions, 91.0, 140.0, False))
    assert abs(quarter.rotation) == pytest.approx(89.0, abs=0.2)
    assert quarter.n_sites == 9 * 14


def test_thinned_slide():
    """A quarter of the spots of a Visium slide at random, as in a subset made for a vignette."""
    rng = np.random.default_rng(3)
    row, col, positions = visium(78, 64)
    kept = rng.permutation(len(row))[: len(row) // 5]
    sites = from_spatial(np.rint(rotated(positions[kept], 12.0, 138.0, True)))
    assert sites.layout == "hex"
    np.testing.assert_array_equal(neighbour_pairs(raster_positions(sites)), neighbour_pairs(positions[kept]))


@pytest.mark.parametrize("seed", range(5))
def test_irregular_positions_have_no_lattice(seed):
    spatial = np.random.default_rng(seed).uniform(0, 1000, (300, 2))
    with pytest.raises(NoLatticeError, match="irregular|do not fit"):
        from_spatial(spatial)


def test_inference_says_what_it_found():
    positions = visium(8, 8)[2]
    with pytest.raises(NoLatticeError, match="form a hex lattice"):
        from_spatial(positions, "square")
    with pytest.raises(NoLatticeError, match="too few"):
        from_spatial(positions[:5])
    with pytest.raises(NoLatticeError, match="have the position of another"):
        from_spatial(np.vstack([positions, positions[:1]]))
    rng = np.random.default_rng(0)
    with pytest.raises(NoLatticeError, match="share a site"):
        from_spatial(np.vstack([positions, positions[:6] + rng.uniform(-0.2, 0.2, (6, 2))]))
    with pytest.raises(NoLatticeError, match="do not fit|irregular"):
        from_spatial(np.vstack([positions, positions[:20] + rng.uniform(-0.5, 0.5, (20, 2))]))


@pytest.mark.parametrize("turned", [0.0, 17.0])
def test_a_few_positions_beside_the_lattice_leave_it_as_it_is(turned):
    row, col, positions = visium(20, 20)
    kept = np.random.default_rng(1).permutation(len(row))[:320]
    spatial = rotated(positions[kept], turned, 140.0, False)
    right = from_spatial(spatial)
    for number, step in enumerate(([70.0, 0.0], [0.0, 78.0], [-70.0, 0.0])):
        spatial[50 * number] += step
    sites = from_spatial(spatial)
    assert sites.layout == "hex" and sites.pitch == pytest.approx(140, rel=0.01)
    assert set(sites.misfits) <= {0, 50, 100} and len(sites.misfits) >= 2
    others = np.setdiff1d(np.arange(320), [0, 50, 100])
    np.testing.assert_array_equal(sites.row[others] - right.row[others], sites.row[1] - right.row[1])
    assert len({*zip(sites.row.tolist(), sites.col.tolist(), strict=True)}) == 320


def test_an_observation_on_the_site_of_another_has_a_free_one_beside_it():
    positions = visium(10, 10)[2]
    sites = from_spatial(np.vstack([positions, positions[:1] + [-0.2, -0.1]]))
    assert sites.layout == "hex" and sites.misfits.tolist() == [100]
    flat = sites.row * 1000 + sites.col
    assert len(np.unique(flat)) == 101


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)), min_size=2, max_size=50),
    st.floats(0.5, 1e4),
)
def test_bins_hold_what_lies_in_them(positions, size):
    spatial = np.array(positions)
    sites = from_bins(spatial, size)
    for (x, y), row, col in zip(spatial - spatial.min(axis=0), sites.row, sites.col, strict=True):
        assert col == np.floor(x / size)
        assert row == np.floor(y / size)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e5])
def test_chosen_bin_size_is_the_largest_with_one_position_on_median(scale):
    rng = np.random.default_rng(1)
    spatial = rng.uniform(0, scale, (2000, 2))
    size = from_bins(spatial).pitch

    def median(side):
        return np.median(np.unique(np.floor(spatial / side), axis=0, return_counts=True)[1])

    assert median(size) == 1
    assert median(size * 1.15) > 1
    # For a Poisson pattern half of the occupied bins hold one point at 1.26 points per bin.
    assert size == pytest.approx(scale * np.sqrt(1.2564 / 2000), rel=0.08)


def test_bins_of_repeated_positions_and_of_a_line():
    rng = np.random.default_rng(0)
    spatial = rng.uniform(0, 100, (200, 2))
    assert from_bins(np.repeat(spatial, 3, axis=0)).pitch == from_bins(spatial).pitch
    line = np.column_stack([np.arange(50.0), np.zeros(50)])
    assert from_bins(line).shape[0] == 1
    assert from_bins(line).shape[1] >= 25
    with pytest.raises(ValueError, match="same spatial position"):
        from_bins(np.ones((5, 2)))
