"""Geometry of lattices against brute force over positions, and a lattice that is added from outside of the package."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stimage as sti
from stimage.data import LATTICES, ArraySites, Lattice

REGULAR = [name for name, lattice in LATTICES.items() if lattice.is_regular]


class Brick(Lattice):
    """Bricks: every second row is shifted by half a site, rows are as far apart as columns."""

    name = "brick"
    adjective = "brick"
    shifts_rows = True
    neighbors = ((0, -2), (0, 2), (-1, -1), (-1, 1), (1, -1), (1, 1))


@pytest.fixture
def brick(monkeypatch):
    monkeypatch.setitem(LATTICES, "brick", Brick())
    return LATTICES["brick"]


def raster(n_rows, n_cols):
    return np.divmod(np.arange(n_rows * n_cols), n_cols)


@pytest.mark.parametrize("layout", REGULAR)
@pytest.mark.parametrize("parity", [0, 1])
def test_neighbors_are_the_sites_one_unit_away(layout, parity):
    lattice = LATTICES[layout]
    rows, cols = raster(7, 8)
    parity *= lattice.shifts_rows
    positions = lattice.positions(rows, cols, parity)
    distance = np.linalg.norm(positions[:, None] - positions, axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert distance.min() == pytest.approx(1)
    across = lattice.across(rows, cols, parity)
    steps = np.stack([rows - rows[:, None], across - across[:, None]], axis=-1).reshape(-1, 2)
    near = (np.abs(distance - 1) < 1e-9).ravel()
    assert {tuple(step) for step in steps[near].tolist()} == set(lattice.neighbors)
    assert not {tuple(step) for step in steps[~near].tolist()} & set(lattice.neighbors)


@pytest.mark.parametrize(("layout", "per_ring"), [("hex", 6), ("square", 4)])
@pytest.mark.parametrize("n_rings", [1, 2, 3, 5])
def test_rings_have_the_known_number_of_sites(layout, per_ring, n_rings):
    rings = LATTICES[layout].rings(n_rings)
    assert len(rings) == len(set(rings)) == per_ring * n_rings * (n_rings + 1) // 2
    assert (0, 0) not in rings
    assert {(-down, -right) for down, right in rings} == set(rings)


@pytest.mark.parametrize("layout", [*REGULAR, "bins", "rank"])
def test_a_cell_is_as_large_as_the_share_of_the_plane_of_a_site(layout):
    lattice = LATTICES[layout]
    x, y = np.array(lattice.cell).T
    area = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
    assert area == pytest.approx(lattice.row_spacing)


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(REGULAR), st.integers(0, 9), st.integers(0, 9), st.randoms(use_true_random=False))
def test_array_coordinates_give_the_same_sites_back(layout, down, right, random):
    lattice = LATTICES[layout]
    sites = sorted(random.sample(range(80), 30))
    rows, cols = np.divmod(np.array(sites), 10)
    array_rows, array_cols = lattice.to_array(rows + down, cols + right)
    found = lattice.from_array(array_rows, array_cols)
    expected = lattice.positions(rows + down, cols + right)
    positions = lattice.positions(found.rows, found.cols, found.parity)
    if found.rotation == 0:
        np.testing.assert_allclose(positions - positions[0], expected - expected[0], atol=1e-9)
    assert found.rows.min() == found.cols.min() == 0


def test_a_layout_that_is_not_known():
    with pytest.raises(
        ValueError, match="'kagome' is not known, only hex, square, rank, bins.*`stimage.data.LATTICES`"
    ):
        sti.data.site_positions(np.zeros(2), np.zeros(2), layout="kagome")


def test_array_sites_of_one_lattice_from_outside(brick):
    found = brick.from_array(np.array([3, 4, 4]), np.array([4, 3, 5]))
    assert isinstance(found, ArraySites)
    assert (found.rows.tolist(), found.cols.tolist(), found.parity) == ([0, 1, 1], [1, 0, 1], 0)
    np.testing.assert_array_equal(brick.positions(found.rows, found.cols, found.parity), [[1, 0], [0.5, 1], [1.5, 1]])


def test_a_lattice_from_outside_end_to_end(brick, tmp_path):
    adata = sti.datasets.simulate_tissue(layout="brick", n_rows=14, n_cols=15, n_genes=60, pitch=50.0, seed=0)
    sti.pp.compact_grid(adata, layout="brick")
    table = adata.uns["grid"]["slides"]
    assert table["layout"].tolist() == ["brick"]
    # Four of six neighbours lie half a site and a whole row away.
    assert table["pitch"].item() == pytest.approx(50 * (1 + 2 * np.sqrt(1.25)) / 3, rel=1e-6)
    slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names)[0]
    # Where the tissue is, in pitches, up to where it begins.
    truth = adata.obsm["spatial"][np.argsort(slide.site_of_observation)] / 50
    np.testing.assert_allclose(slide.positions - slide.positions[0], truth - truth[0], atol=1e-6)

    spec = sti.data.WindowSpec(window=6, n_genes=20)
    dataset = sti.data.WindowDataset([slide], spec, seed=0)
    on_device = sti.data.DeviceWindows([slide], spec, device="cpu", seed=0)
    numbers = list(range(8))
    cut = [(dataset.place(number)[1:], dataset[number].positions) for number in numbers]
    cut += list(
        zip(
            zip(*on_device.places(numbers)[1:], strict=True), on_device.batch(numbers)["positions"].numpy(), strict=True
        )
    )
    for (top, left), positions in cut:
        sites = slide.raster[int(top) : int(top) + 6, int(left) : int(left) + 6]
        inside = sites.ravel()[sites.ravel() >= 0]
        found = positions[sites.ravel() >= 0]
        np.testing.assert_allclose(found - found[0], truth[inside] - truth[inside[0]], atol=1e-5)

    # Gaussian means over physical distances, site by site.
    values = np.random.default_rng(0).normal(size=(slide.n_sites, 1))
    distance = np.linalg.norm(truth[:, None] - truth, axis=-1)
    weights = np.exp(-(distance**2) / (2 * 0.8**2)) * slide.active
    expected = weights @ values / weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(sti.data.gaussian_mean(slide, values, 0.8), expected, atol=2e-3)

    sti.pp.build_niches(adata, rings=1)
    members = adata.obsp["niche_connectivities"].toarray().astype(bool)
    position = adata.obsm["spatial"] / 50
    apart = np.linalg.norm(position[:, None] - position, axis=-1)
    np.testing.assert_array_equal(members, apart < 1.2)

    sti.data.Corpus([slide], adata.var_names).write(tmp_path / "corpus")
    opened = sti.data.Corpus.open(tmp_path / "corpus")[0]
    np.testing.assert_array_equal(opened.positions, slide.positions)
    sti.tl.embed(adata)
    sti.tl.domains(adata, n_domains=3)
    assert adata.obs["stimage_domain"].nunique() == 3
    sti.pl.domains(adata, show=False)


def test_a_corpus_with_a_lattice_that_is_no_longer_known(brick, tmp_path, monkeypatch):
    adata = sti.datasets.simulate_tissue(layout="brick", n_rows=10, n_cols=10, n_genes=30, seed=0)
    sti.pp.compact_grid(adata, layout="brick")
    sti.data.Corpus.from_anndata(adata, genes=adata.var_names).write(tmp_path / "corpus")
    monkeypatch.delitem(LATTICES, "brick")
    with pytest.raises(ValueError, match="layout 'brick' is not known.*`stimage.data.LATTICES`"):
        _ = sti.data.Corpus.open(tmp_path / "corpus")[0]
    with pytest.raises(ValueError, match="layout 'brick' is not known"):
        sti.data.Corpus.from_anndata(adata, genes=adata.var_names)
