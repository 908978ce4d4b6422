import tracemalloc

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, concat, read_h5ad, read_zarr
from helpers import assert_unchanged
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from slides import visium

import stimage as sti
from stimage import pp


def scattered(n=60, *, n_genes=5, seed=0):
    """Poisson counts at random positions."""
    rng = np.random.default_rng(seed)
    adata = AnnData(sparse.csr_matrix(rng.poisson(1.0, (n, n_genes)).astype(np.float32)))
    adata.obs_names = [f"cell{i}" for i in range(n)]
    adata.obsm["spatial"] = rng.uniform(0, 1000, (n, 2))
    return adata


def square(n_rows=7, n_cols=6):
    """A full square array with pixel coordinates."""
    adata = visium(n_rows, n_cols)
    adata.obs["array_col"] = adata.obs["array_col"] // 2
    adata.obsm["spatial"] = 200.0 * adata.obs[["array_col", "array_row"]].to_numpy()
    return adata


def members(adata, key="niche"):
    """Names in each niche, by the name of its spot."""
    connectivities = adata.obsp[f"{key}_connectivities"]
    return {
        name: set(adata.obs_names[connectivities[i].indices].tolist())
        for i, name in enumerate(adata.obs_names.tolist())
    }


def slow_niche(xy, names, spot, n_neighbors, tolerance):
    """The rule written out for one spot: sort by distance, and share the last places among the equally far."""
    others = [i for i in range(len(xy)) if i != spot]
    distance = {i: np.hypot(*(xy[i] - xy[spot])) for i in others}
    last = sorted(distance.values())[n_neighbors - 1]
    nearer = [i for i in others if distance[i] < last - tolerance]
    tied = [i for i in others if abs(distance[i] - last) <= tolerance]

    def direction(i):
        dx, dy = xy[i] - xy[spot]
        return (np.degrees(np.arctan2(dy, dx)) + 10) % 360

    tied.sort(key=lambda i: (direction(i), names[i]))
    free = n_neighbors - len(nearer)
    evenly = [tied[-(-k * len(tied) // free)] for k in range(free)]
    return {names[i] for i in [spot, *nearer, *evenly]}


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 7),
    st.integers(2, 30),
    st.integers(0, 10**6),
    st.sampled_from(["random", "integer", "jittered"]),
)
def test_coordinates_against_the_rule_written_out(n_neighbors, n, seed, kind):
    """Also with coincident spots (integer) and with a lattice whose distances differ a little (jittered)."""
    adata = scattered(n, seed=seed)
    rng = np.random.default_rng(seed)
    if kind == "integer":
        adata.obsm["spatial"] = rng.integers(0, 4, (n, 2)).astype(float)
        adata.obsm["spatial"][:2] = [[0, 0], [1, 2]]
    if kind == "jittered":
        adata.obsm["spatial"] = np.column_stack(np.divmod(np.arange(n), 5)) * 100 + rng.uniform(-1, 1, (n, 2))
    pp.build_niches(adata, n_neighbors=n_neighbors)
    xy, names = adata.obsm["spatial"], adata.obs_names.tolist()
    distinct = np.unique(xy, axis=0)
    pairwise = np.linalg.norm(distinct[:, None] - distinct, axis=-1) + np.diag(np.full(len(distinct), np.inf))
    tolerance = 0.05 * np.median(pairwise.min(axis=1))
    for spot, (name, found) in enumerate(members(adata).items()):
        everyone = n <= n_neighbors + 1
        assert found == (set(names) if everyone else slow_niche(xy, names, spot, n_neighbors, tolerance)), name


def test_without_ties_the_nearest_are_the_nearest():
    adata = scattered(300)
    adata.obsm["spatial"] = np.random.default_rng(1).uniform(0, 1, (300, 2))
    pp.build_niches(adata, n_neighbors=5)
    distance = np.linalg.norm(adata.obsm["spatial"][:, None] - adata.obsm["spatial"], axis=-1)
    ordered = np.sort(distance, axis=1)
    pitch = np.median(ordered[:, 1])
    untied = ordered[:, 6] - ordered[:, 5] > 0.05 * pitch
    assert untied.sum() > 200
    expected = distance <= ordered[:, [5]]
    found = adata.obsp["niche_connectivities"].toarray() > 0
    np.testing.assert_array_equal(found[untied], expected[untied])
    # A tie costs no more than its tolerance.
    assert ((distance * found).max(axis=1) <= ordered[:, 5] + 0.05 * pitch).all()


@pytest.mark.parametrize("odd", [False, True])
def test_three_of_six_neighbours_lie_evenly_around(odd):
    adata = visium(7, 6, odd=odd)
    pp.compact_grid(adata)
    pp.build_niches(adata)
    position = {name: np.array(xy) for name, xy in zip(adata.obs_names, adata.obsm["spatial"], strict=True)}
    n_interior = 0
    for name, niche in members(adata).items():
        row, col = adata.obs.loc[name, ["array_row", "array_col"]]
        if 0 < row < 6 and 2 <= col <= 9:
            n_interior += 1
            angles = sorted(
                np.degrees(np.arctan2(*(position[other] - position[name])[::-1])) for other in niche - {name}
            )
            np.testing.assert_allclose(angles, [-120, 0, 120], atol=1e-6)
    assert n_interior >= 20
    assert {len(niche) for niche in members(adata).values()} == {4}


@pytest.mark.parametrize(
    "make, n_neighbors, rings, n_full",
    [(visium, 6, 1, 7), (visium, 18, 2, 19), (visium, 36, 3, 37), (square, 4, 1, 5), (square, 12, 2, 13)],
)
def test_rings_are_what_as_many_neighbours_are_inside(make, n_neighbors, rings, n_full):
    adata = make(15, 14)
    pp.compact_grid(adata)
    pp.build_niches(adata, n_neighbors=n_neighbors, key_added="nearest")
    pp.build_niches(adata, rings=rings, key_added="rings")
    by_rings = members(adata, "rings")
    rows, cols = adata.obs["grid_row"], adata.obs["grid_col"]
    inside = rows.between(rings, 14 - rings) & cols.between(rings, 13 - rings)
    assert inside.sum() > 60
    for name in adata.obs_names[inside]:
        assert by_rings[name] == members_of(adata, "nearest", name)
        assert len(by_rings[name]) == n_full


def members_of(adata, key, name):
    row = adata.obsp[f"{key}_connectivities"][adata.obs_names.get_loc(name)]
    return set(adata.obs_names[row.indices].tolist())


@pytest.mark.parametrize("make", [visium, square])
@pytest.mark.parametrize("rings", [1, 2, 3])
def test_rings_are_sites_within_so_many_steps(make, rings):
    """Against a search from neighbour to neighbour over the sites of the lattice, on a slide with holes and borders."""
    adata = make(9, 8)
    adata = adata[np.random.default_rng(0).random(adata.n_obs) < 0.8].copy()
    pp.compact_grid(adata)
    pp.build_niches(adata, rings=rings)
    site = {
        (row, col): name for name, row, col in adata.obs[["array_row", "array_col"]].itertuples(name=None, index=True)
    }
    steps = (
        [(0, 2), (0, -2), (1, 1), (1, -1), (-1, 1), (-1, -1)] if make is visium else [(0, 1), (0, -1), (1, 0), (-1, 0)]
    )
    found = members(adata)
    for start, name in site.items():
        reached = {start}
        for _ in range(rings):
            reached |= {(row + down, col + right) for row, col in reached for down, right in steps}
        assert found[name] == {site[place] for place in reached if place in site}


def test_lattice_wins_over_jitter_of_the_coordinates():
    """Spots that were printed up to a sixth of the pitch away from their site keep the neighbours of the array."""
    adata = square(9, 9)
    pp.compact_grid(adata)
    exact = pp.build_niches(adata, copy=True)
    adata.obsm["spatial"] = adata.obsm["spatial"] + np.random.default_rng(0).uniform(-30, 30, (adata.n_obs, 2))
    jittered = pp.build_niches(adata, copy=True)
    assert members(exact) == members(jittered)
    assert jittered.uns["niche"]["slides"]["positions"].tolist() == ["lattice"]
    del adata.uns["grid"]
    pp.build_niches(adata)
    assert adata.uns["niche"]["slides"]["positions"].tolist() == ["coordinates"]
    assert members(adata) != members(exact)


def test_pixels_of_a_lattice_give_its_niches_without_a_grid():
    """Rounded to whole pixels, and with ties as on the lattice."""
    adata = visium(9, 8)
    adata.obsm["spatial"] = np.rint(adata.obsm["spatial"] * 0.69 + 500)
    without = pp.build_niches(adata, copy=True)
    pp.compact_grid(adata)
    pp.build_niches(adata)
    assert members(without) == members(adata)


@pytest.mark.parametrize("make", [visium, square, scattered])
@pytest.mark.parametrize("grid", [True, False])
@pytest.mark.parametrize("n_neighbors", [3, 5, 8])
def test_order_of_observations_does_not_matter(make, grid, n_neighbors):
    adata = make()
    if make is scattered:  # coincident cells are told apart by name
        adata.obsm["spatial"][10:25] = adata.obsm["spatial"][10]
    if grid:
        pp.compact_grid(adata)
    permuted = adata[np.random.default_rng(3).permutation(adata.n_obs)].copy()
    pp.build_niches(adata, n_neighbors=n_neighbors)
    pp.build_niches(permuted, n_neighbors=n_neighbors)
    back = permuted[adata.obs_names]
    assert (back.obsp["niche_connectivities"] != adata.obsp["niche_connectivities"]).nnz == 0
    np.testing.assert_allclose(back.layers["niche"].toarray(), adata.layers["niche"].toarray(), rtol=1e-5)
    np.testing.assert_array_equal(back.obsm["niche_bbox"], adata.obsm["niche_bbox"])


@pytest.mark.parametrize("grid", [True, False])
def test_niches_stay_within_their_slide(grid):
    """Slides on top of each other, in mixed order, one of them of cells and one too small for a niche."""
    parts = {"hex": visium(seed=1), "square": square(), "cells": scattered(40), "few": scattered(3)}
    together = concat(parts, label="section", index_unique="-", join="outer")
    together = together[np.random.default_rng(0).permutation(together.n_obs)].copy()
    if grid:
        pp.compact_grid(together, slide_key="section")
        pp.build_niches(together)
    else:
        pp.build_niches(together, slide_key="section")
    assert together.uns["niche"]["params"]["slide_key"] == "section"
    found = members(together)
    for name, part in parts.items():
        if grid:
            pp.compact_grid(part)
        pp.build_niches(part)
        expected = {f"{spot}-{name}": {f"{other}-{name}" for other in niche} for spot, niche in members(part).items()}
        assert {spot: niche for spot, niche in found.items() if spot.endswith(f"-{name}")} == expected
    assert {len(niche) for spot, niche in found.items() if spot.endswith("-few")} == {3}


@pytest.mark.parametrize("form", ["csr", "csc", "dense", "integer", "layer"])
def test_mean_expression_against_dense_arrays(form):
    adata = scattered(50)
    counts = adata.X.toarray()
    counts[5:12] = 0
    counts[:, 3] = 0
    adata.obsm["spatial"][[5, 6]] = [[5000, 0], [5000, 10]]
    layer = "raw" if form == "layer" else None
    stored = {
        "csr": sparse.csr_matrix(counts),
        "csc": sparse.csc_matrix(counts),
        "dense": counts,
        "integer": sparse.csr_matrix(counts.astype(np.int64)),
        "layer": sparse.csr_matrix(counts),
    }[form]
    if layer:
        adata.layers[layer] = stored
        adata.X = np.full(adata.shape, 0.5)
    else:
        adata.X = stored
    pp.build_niches(adata, n_neighbors=1 if form == "csc" else 3, layer=layer)
    total = counts.sum(axis=1, keepdims=True, dtype=np.float64)
    expression = np.log1p(1e4 * counts / np.where(total > 0, total, 1))
    expected = np.zeros(adata.shape)
    connectivities = adata.obsp["niche_connectivities"].toarray()
    for i in range(adata.n_obs):
        seen = np.flatnonzero((connectivities[i] > 0) & (total[:, 0] > 0))
        if len(seen):
            expected[i] = expression[seen].mean(axis=0)
    mean = adata.layers["niche"]
    np.testing.assert_allclose(mean.toarray(), expected, rtol=1e-5, atol=1e-6)
    if form == "csc":
        assert not mean[[5, 6]].toarray().any()  # two spots without counts that have no one else


def test_boxes_against_a_loop():
    adata = scattered(80)
    half = np.array([20.0, 35.0])[(np.arange(80) < 30).astype(int)]
    adata.obs["slide"] = np.where(half == 35.0, "b", "a")
    adata.uns["spatial"] = {
        "a": {"scalefactors": {"spot_diameter_fullres": 40.0}},
        "b": {"scalefactors": {"spot_diameter_fullres": 70}},
    }
    pp.build_niches(adata, slide_key="slide")
    boxes = adata.obsm["niche_bbox"]
    assert boxes.dtype == np.float64
    for i, (name, niche) in enumerate(members(adata).items()):
        xy = np.array([adata.obsm["spatial"][adata.obs_names.get_loc(other)] for other in niche])
        assert name in niche
        np.testing.assert_allclose(boxes[i], [*(xy.min(axis=0) - half[i]), *(xy.max(axis=0) + half[i])])


def test_without_a_diameter_neighbouring_spots_touch():
    adata = square()
    adata.uns["spatial"] = {"other": {"scalefactors": {"spot_diameter_fullres": 5.0}}}
    adata.obs["slide"] = pd.Categorical(np.where(adata.obs["array_row"] < 3, "upper", "lower"))
    pp.build_niches(adata, slide_key="slide", n_neighbors=4)
    inner = adata.obs_names[(adata.obs["array_row"] == 1) & (adata.obs["array_col"] == 2)][0]
    np.testing.assert_allclose(adata[inner].obsm["niche_bbox"], [[100, -100, 700, 500]])
    assert adata.uns["niche"]["slides"]["spot_radius"].to_dict() == {"lower": 100.0, "upper": 100.0}
    # The only library of the only slide is its library, whatever it is called.
    pp.build_niches(adata)
    assert adata.uns["niche"]["slides"]["spot_radius"].tolist() == [2.5]


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_can_be_written_and_read(tmp_path, form):
    adata = visium()
    adata.obs["section"] = np.where(adata.obs["array_row"] < 3, "donor/1", "donor/2")
    pp.compact_grid(adata, slide_key="section")
    with assert_unchanged(adata):
        niches = pp.build_niches(adata, copy=True)
    connectivities = niches.obsp["niche_connectivities"]
    assert connectivities.format == niches.layers["niche"].format == "csr"
    assert connectivities.dtype == niches.layers["niche"].dtype == np.float32
    assert set(connectivities.data) == {1.0}
    assert (connectivities.diagonal() == 1).all()
    path = tmp_path / f"slide.{form}"
    getattr(niches, f"write_{form}")(path)
    read = read_h5ad(path) if form == "h5ad" else read_zarr(path)
    assert members(read) == members(niches)
    np.testing.assert_array_equal(read.layers["niche"].toarray(), niches.layers["niche"].toarray())
    np.testing.assert_array_equal(read.obsm["niche_bbox"], niches.obsm["niche_bbox"])
    expected = {"n_neighbors": 3, "rings": 0, "slide_key": "section", "spatial_key": "spatial", "grid_key": "grid"}
    assert read.uns["niche"]["params"] == {**expected, "layer": ""}
    pp.build_niches(read, rings=1)  # replaces what was read
    assert read.uns["niche"]["params"]["rings"] == 1


def test_survive_subsetting():
    adata = visium()
    pp.build_niches(adata)
    part = adata[5:20].copy()
    expected = {
        name: niche & set(part.obs_names) for name, niche in members(adata).items() if name in set(part.obs_names)
    }
    assert members(part) == expected
    np.testing.assert_array_equal(part.layers["niche"].toarray(), adata.layers["niche"][5:20].toarray())


def test_memory_is_linear():
    n = 40_000
    adata = AnnData(sparse.csr_matrix((n, 2), dtype=np.float32))
    adata.obs_names = np.arange(n).astype(str)
    adata.X[0, 0] = 1
    adata.obsm["spatial"] = np.random.default_rng(0).uniform(0, 1, (n, 2))
    pp.build_niches(adata[:100].copy())  # imports
    tracemalloc.start()
    pp.build_niches(adata)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3000 * n  # one dense row of float32 has 160,000 bytes


def test_bad_input():
    adata = scattered()

    def refused(error, match, *, of=adata, **options):
        with assert_unchanged(of), pytest.raises(error, match=match):
            pp.build_niches(of, **options)

    refused(ValueError, "`n_neighbors`=3 and `rings`=1", n_neighbors=3, rings=1)
    refused(ValueError, "`n_neighbors` must be at least 1", n_neighbors=0)
    refused(TypeError, "`n_neighbors` must be an integer", n_neighbors=2.5)
    refused(ValueError, "`rings` must be at least 1", rings=0)
    refused(ValueError, "`rings`=1 needs a hexagonal or square lattice.*no grid", rings=1)
    refused(KeyError, "slide_key", slide_key="no")
    refused(KeyError, "spatial_key", spatial_key="no")
    refused(KeyError, "layer", layer="no")
    refused(KeyError, "No compact grid", grid_key="lattice")
    refused(ValueError, "non-empty", key_added="a/b")
    with pytest.raises(TypeError, match="AnnData"):
        pp.build_niches(adata.X)

    logged = adata.copy()
    logged.X.data = np.log1p(logged.X.data)
    refused(ValueError, "log-transformed", of=logged)
    nan = adata.copy()
    nan.obsm["spatial"][4] = np.nan
    refused(ValueError, "NaN or infinite coordinates for 1", of=nan)
    repeated = adata.copy()
    repeated.obs_names = ["a", "a", *adata.obs_names[2:]]
    refused(ValueError, "obs_names_make_unique", of=repeated)
    taken = adata.copy()
    taken.layers["counts"] = taken.X.copy()
    refused(ValueError, r"would write over layers\['counts'\]", of=taken, key_added="counts")
    point = adata[:1].copy()
    refused(ValueError, "one position only", of=point)
    diameter = adata.copy()
    diameter.uns["spatial"] = {"library": {"scalefactors": {"spot_diameter_fullres": 0.0}}}
    refused(ValueError, "spot_diameter_fullres.*must be a positive number, found 0", of=diameter)

    bins = adata.copy()
    pp.compact_grid(bins)
    refused(ValueError, "has layout 'bins'", of=bins, rings=1)
    lattice = visium()
    pp.compact_grid(lattice)
    lattice.obs["section"] = "new"
    refused(ValueError, "knows no slide 'new'", of=lattice, slide_key="section")
    shared = lattice.copy()
    shared.obs.loc[shared.obs_names[:2], ["grid_row", "grid_col"]] = 0
    refused(ValueError, "share a site", of=shared)


def test_one_spot_with_a_known_size():
    adata = scattered(1)
    adata.uns["spatial"] = {"library": {"scalefactors": {"spot_diameter_fullres": 10.0}}}
    pp.build_niches(adata)
    x, y = adata.obsm["spatial"][0]
    np.testing.assert_allclose(adata.obsm["niche_bbox"], [[x - 5, y - 5, x + 5, y + 5]])
    assert members(adata) == {"cell0": {"cell0"}}


@pytest.mark.parametrize("name, n_interior", [("DLPFC_151673", 7), ("img-her2st_C2", 5)])
def test_real_slides(shared_data, name, n_interior):
    adata = read_h5ad(shared_data / name / f"{name}.h5ad")
    pp.compact_grid(adata)
    with assert_unchanged(adata):
        niches = pp.build_niches(adata, rings=1, copy=True)
    sizes = np.asarray(niches.obsp["niche_connectivities"].sum(axis=1)).ravel()
    assert sizes.max() == n_interior
    assert np.median(sizes) == n_interior
    pp.build_niches(adata)
    pitch = adata.uns["grid"]["slides"]["pitch"].iloc[0]
    i, j = adata.obsp["niche_connectivities"].nonzero()
    distance = np.linalg.norm(adata.obsm["spatial"][i] - adata.obsm["spatial"][j], axis=1)
    assert np.quantile(distance, 0.98) < 1.5 * pitch
    x0, y0, x1, y1 = adata.obsm["niche_bbox"].T
    assert (np.column_stack([x0, y0]) < adata.obsm["spatial"]).all()
    assert (np.column_stack([x1, y1]) > adata.obsm["spatial"]).all()
    mean = adata.layers["niche"]
    spot = np.asarray(sti.data.Corpus.from_anndata(adata, genes=adata.var_names)[0].gene_mean)
    # Averages of averages: the mean of a gene over niches is near its mean over spots.
    assert np.corrcoef(np.asarray(mean.mean(axis=0)).ravel(), spot)[0, 1] > 0.99
