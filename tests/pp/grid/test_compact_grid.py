import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, concat, read_h5ad, read_zarr
from helpers import assert_unchanged
from scipy import sparse
from scipy.spatial import cKDTree

from stimage import pp
from stimage.data import Corpus


def visium(n_rows=6, n_cols=5, *, spatial=True, seed=0):
    """A small Visium-like slide with array and spatial coordinates."""
    rng = np.random.default_rng(seed)
    row, col = np.divmod(np.arange(n_rows * n_cols), n_cols)
    col = 2 * col + row % 2
    obs = pd.DataFrame({"array_row": row, "array_col": col}, index=[f"spot{i}" for i in range(len(row))])
    adata = AnnData(sparse.csr_matrix(rng.poisson(1.0, (len(row), 4)).astype(np.float32)), obs=obs)
    if spatial:
        adata.obsm["spatial"] = np.rint(np.column_stack([col * 69.0, row * 119.5]) + 500)
    return adata


def cells(n=60, seed=0):
    rng = np.random.default_rng(seed)
    adata = AnnData(np.ones((n, 3), np.float32))
    adata.obs_names = [f"cell{i}" for i in range(n)]
    adata.obsm["spatial"] = rng.uniform(0, 1000, (n, 2))
    return adata


def slide_table(adata, key="grid"):
    return adata.uns[key]["slides"]


def test_keys_types_and_values():
    adata = visium()
    assert pp.compact_grid(adata) is None
    assert adata.obs["grid_row"].dtype == adata.obs["grid_col"].dtype == np.int32
    np.testing.assert_array_equal(adata.obs["grid_row"], adata.obs["array_row"])
    np.testing.assert_array_equal(adata.obs["grid_col"], adata.obs["array_col"] // 2)
    position = adata.obsm["X_grid"]
    assert position.dtype == np.float32
    np.testing.assert_allclose(position[:, 0], adata.obs["array_col"] / 9 * 100, rtol=1e-6)
    np.testing.assert_allclose(position[:, 1], adata.obs["array_row"] / 5 * 100, rtol=1e-6)
    assert adata.uns["grid"]["params"] == {
        "layout": "auto",
        "slide_key": "",
        "spatial_key": "spatial",
        "bin_size": 0.0,
    }
    (slide,) = slide_table(adata).to_dict("records")
    assert slide_table(adata).index.tolist() == ["slide"]
    pitch = slide.pop("pitch")
    assert pitch == pytest.approx(138, abs=0.5)
    assert slide == {
        "layout": "hex",
        "n_rows": 6,
        "n_cols": 5,
        "occupancy": 1.0,
        "parity": 0,
        "unit": "unknown",
        "rotation": 0.0,
        "source": "array",
    }


def test_copy_leaves_the_original_alone():
    adata = visium()
    with assert_unchanged(adata):
        copy = pp.compact_grid(adata, copy=True, key_added="raster")
    assert {"raster_row", "raster_col"} <= set(copy.obs)
    assert "X_raster" in copy.obsm
    assert "raster" in copy.uns


def test_views_are_accepted():
    adata = visium(8, 8)
    view = adata[adata.obs["array_row"] > 2]
    with pytest.warns(UserWarning, match="view"):
        pp.compact_grid(view)
    assert slide_table(view)[["n_rows", "n_cols", "parity"]].values.tolist() == [[5, 8, 1]]
    assert "grid_row" not in adata.obs


def test_may_be_called_again():
    adata = visium()
    pp.compact_grid(adata)
    pp.compact_grid(adata, layout="rank")
    assert slide_table(adata)["layout"].tolist() == ["rank"]
    assert slide_table(adata)["occupancy"].tolist() == [0.5]


@pytest.mark.parametrize("layout", ["auto", "hex"])
def test_does_not_need_spatial_coordinates(layout):
    adata = visium(spatial=False)
    pp.compact_grid(adata, layout=layout)
    assert slide_table(adata)["layout"].tolist() == ["hex"]
    assert slide_table(adata)["pitch"].isna().all()


def test_unit_is_pixel_beside_an_image():
    adata = visium()
    adata.uns["spatial"] = {"library": {"scalefactors": {}}}
    pp.compact_grid(adata)
    assert slide_table(adata)["unit"].tolist() == ["pixel"]


def test_each_slide_has_its_own_raster():
    """A hexagonal slide, one without array coordinates, and cells, in mixed order and with awkward names."""
    inferred = visium(7, 9)
    inferred.obs = inferred.obs[[]]
    parts = {"a/1": visium(6, 5), "b 2": inferred, "c": cells()}
    together = concat(parts, label="section", index_unique="-", join="outer")
    together = together[np.random.default_rng(0).permutation(together.n_obs)].copy()
    pp.compact_grid(together, slide_key="section")
    assert slide_table(together)["layout"].to_dict() == {"a/1": "hex", "b 2": "hex", "c": "bins"}
    assert slide_table(together)["source"].to_dict() == {"a/1": "array", "b 2": "spatial", "c": "spatial"}
    for name, part in parts.items():
        pp.compact_grid(part)
        member = together[[f"{spot}-{name}" for spot in part.obs_names]]
        np.testing.assert_array_equal(member.obs["grid_row"], part.obs["grid_row"])
        np.testing.assert_array_equal(member.obs["grid_col"], part.obs["grid_col"])
        np.testing.assert_array_equal(member.obsm["X_grid"], part.obsm["X_grid"])
        pd.testing.assert_series_equal(
            slide_table(together).loc[name], slide_table(part).loc["slide"], check_names=False
        )


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_can_be_written_and_read(tmp_path, form):
    adata = visium()
    adata.obs["section"] = np.where(adata.obs["array_row"] < 3, "donor/1", "donor/2")
    pp.compact_grid(adata, slide_key="section")
    path = tmp_path / f"slide.{form}"
    getattr(adata, f"write_{form}")(path)
    read = read_h5ad(path) if form == "h5ad" else read_zarr(path)
    pd.testing.assert_frame_equal(
        slide_table(read), slide_table(adata), check_dtype=False, check_index_type=False, check_column_type=False
    )
    assert read.uns["grid"]["params"] == adata.uns["grid"]["params"]
    pp.compact_grid(read, slide_key="section")


def test_bins_are_shared_and_sized():
    adata = cells(200)
    pp.compact_grid(adata, layout="bins", bin_size=250)
    corner = adata.obsm["spatial"].min(axis=0)
    expected = np.floor((adata.obsm["spatial"] - corner) / 250)
    np.testing.assert_array_equal(adata.obs[["grid_col", "grid_row"]], expected)
    assert adata.uns["grid"]["params"]["bin_size"] == 250.0
    assert slide_table(adata)["pitch"].tolist() == [250.0]
    pp.compact_grid(adata)
    counts = adata.obs.groupby(["grid_row", "grid_col"]).size()
    assert counts.median() == 1


def test_one_wrong_array_position_leaves_the_lattice_and_is_named():
    adata = visium(8, 8)
    right = adata.copy()
    pp.compact_grid(right)
    adata.obs.iloc[10, :] = adata.obs.iloc[11]
    with pytest.warns(UserWarning, match="1 of 64 observations .*'spot10'.* contradicts"):
        pp.compact_grid(adata)
    assert slide_table(adata)[["layout", "source"]].values.tolist() == [["hex", "array"]]
    pd.testing.assert_frame_equal(adata.obs[["grid_row", "grid_col"]], right.obs[["grid_row", "grid_col"]])


def legacy_array(pitch=300.0, jitter=0.0):
    """A square array, not full; the last spot lies beside another one and has its rounded array position."""
    rng = np.random.default_rng(0)
    row, col = np.divmod(np.sort(rng.permutation(120)[:91]), 10)
    row, col = np.append(row, row[40]), np.append(col, col[40])
    obs = pd.DataFrame({"array_row": row + 3, "array_col": col + 5}, index=[f"spot{i}" for i in range(92)])
    adata = AnnData(np.ones((92, 2)), obs=obs)
    xy = np.column_stack([col, row]) * pitch + rng.normal(0, jitter * pitch, (92, 2))
    xy[91] += (0.4 * pitch, 0.1 * pitch)
    adata.obsm["spatial"] = xy
    return adata


@pytest.mark.parametrize("jitter", [0.0, 0.15])
def test_a_few_on_one_site_of_a_square_array_share_a_bin(jitter):
    adata = legacy_array(jitter=jitter)
    pp.compact_grid(adata)
    (slide,) = slide_table(adata).to_dict("records")
    assert (slide["layout"], slide["source"], slide["n_rows"], slide["n_cols"]) == ("bins", "array", 12, 10)
    assert slide["pitch"] == pytest.approx(300, rel=0.05)
    assert slide["occupancy"] == pytest.approx(91 / 120)
    for grid, array in (("grid_row", "array_row"), ("grid_col", "array_col")):
        np.testing.assert_array_equal(adata.obs[grid], adata.obs[array] - adata.obs[array].min())
    corpus = Corpus.from_anndata(adata, genes=adata.var_names)
    assert corpus.n_sites == 91
    np.testing.assert_array_equal(np.sort(corpus[0].library_size), [2.0] * 90 + [4.0])
    for layout in ("square", "rank"):
        with pytest.raises(ValueError, match="2 observations share a site with another .*'spot40', 'spot91'"):
            pp.compact_grid(adata, layout=layout)


def test_pixels_of_cells_are_no_array_positions():
    adata = cells(200)
    adata.obs["array_col"], adata.obs["array_row"] = np.rint(adata.obsm["spatial"]).astype(int).T
    adata.obs.iloc[10, :] = adata.obs.iloc[11]
    with pytest.raises(ValueError, match="look like pixel coordinates.*no neighbour one step away"):
        pp.compact_grid(adata)


def test_many_on_one_site_are_an_error():
    adata = legacy_array()
    adata.obs.loc[adata.obs_names[:6], ["array_row", "array_col"]] = 5
    with pytest.raises(ValueError, match="share a site with another"):
        pp.compact_grid(adata)


def test_shared_sites_of_a_hexagonal_array_are_not_bins_of_it():
    adata = visium(8, 8)
    adata.obsm["spatial"] = adata.obsm["spatial"] + np.random.default_rng(0).normal(0, 20, (64, 2))
    adata.obs.iloc[10, :] = adata.obs.iloc[11]
    adata.obsm["spatial"][10] = adata.obsm["spatial"][11] + (30, 0)
    pp.compact_grid(adata)
    assert slide_table(adata)[["layout", "source"]].values.tolist() == [["bins", "spatial"]]


def _edit(adata, **changes):
    for field, value in changes.items():
        if field in ("obs", "obsm", "uns"):
            for key, entry in value.items():
                getattr(adata, field)[key] = entry
        else:
            setattr(adata, field, value)
    return adata


def _with_nan(values, value=np.nan):
    values = np.array(values, dtype=float)
    values[3] = value
    return values


def _square_pixels():
    row, col = np.divmod(np.arange(36), 6)
    adata = AnnData(np.ones((36, 2)))
    adata.obsm["spatial"] = np.column_stack([col, row]) * 200.0
    return adata


def _pixel_columns():
    adata = visium(20, 20)
    adata.obs["array_row"] = adata.obsm["spatial"][:, 1] + np.arange(400) % 17
    adata.obs["array_col"] = adata.obsm["spatial"][:, 0] + np.arange(400) % 19
    return adata


def _half_array():
    adata = visium()
    del adata.obs["array_col"]
    return adata


BAD = {
    "not an AnnData": (lambda: np.ones((3, 2)), {}, TypeError, "`adata` must be an AnnData, found ndarray"),
    "unknown layout": (
        visium,
        {"layout": "hexagonal"},
        ValueError,
        "`layout` must be one of 'auto', 'hex'.*'hexagonal'",
    ),
    "one spot": (lambda: visium()[:1].copy(), {}, ValueError, "1 observations, at least 2"),
    "names": (lambda: _edit(visium(), obs_names=["a"] * 30), {}, ValueError, "obs_names.*'a'.*obs_names_make_unique"),
    "no slide_key": (visium, {"slide_key": "sample"}, KeyError, "`slide_key`='sample'.*available: 'array_row'"),
    "NaN slide": (
        lambda: _edit(visium(), obs={"s": [np.nan] + ["a"] * 29}),
        {"slide_key": "s"},
        ValueError,
        "'s'.*missing for 1 observations .*'spot0'",
    ),
    "slide of one spot": (
        lambda: _edit(visium(), obs={"s": ["b"] + ["a"] * 29}),
        {"slide_key": "s"},
        ValueError,
        "Slide 'b': it has one observation .'spot0'",
    ),
    "same slide name": (
        lambda: _edit(visium(), obs={"s": pd.Categorical([1] * 15 + ["1"] * 15)}),
        {"slide_key": "s"},
        ValueError,
        "read the same as text",
    ),
    "no coordinates": (
        lambda: _edit(AnnData(np.ones((9, 2))), obsm={"X_pca": np.ones((9, 2))}),
        {},
        KeyError,
        "No spatial coordinates: `spatial_key`='spatial'.*available: 'X_pca'",
    ),
    "no such spatial_key": (visium, {"spatial_key": "spatail"}, KeyError, "'spatail'.*available: 'spatial'"),
    "four columns": (
        lambda: _edit(visium(), obsm={"spatial": np.ones((30, 4))}),
        {},
        ValueError,
        r"two columns.*found shape \(30, 4\)",
    ),
    "text coordinates": (
        lambda: _edit(visium(), obsm={"spatial": np.full((30, 2), "a")}),
        {},
        TypeError,
        "must hold numbers",
    ),
    "NaN spatial": (
        lambda: _edit(visium(), obsm={"spatial": np.column_stack([_with_nan(np.ones(30)), np.ones(30)])}),
        {},
        ValueError,
        "NaN or infinite coordinates for 1 observations .*'spot3'",
    ),
    "infinite spatial": (
        lambda: _edit(cells(), obsm={"spatial": np.column_stack([_with_nan(np.ones(60), np.inf), np.ones(60)])}),
        {"layout": "bins"},
        ValueError,
        "NaN or infinite coordinates for 1 observations .*'cell3'",
    ),
    "NaN array": (
        lambda: _edit(visium(), obs={"array_row": _with_nan(np.arange(30))}),
        {},
        ValueError,
        "Slide 'slide': obs.'array_row'. or .*NaN or infinite for 1 observations .*'spot3'",
    ),
    "infinite array": (
        lambda: _edit(visium(), obs={"array_col": _with_nan(np.arange(30), np.inf)}),
        {},
        ValueError,
        "NaN or infinite for 1 observations .*'spot3'",
    ),
    "text array": (lambda: _edit(visium(), obs={"array_row": ["x"] * 30}), {}, TypeError, "must hold numbers"),
    "half of array": (
        _half_array,
        {},
        KeyError,
        "has 'array_row' but not 'array_col'",
    ),
    "two slides as one": (
        lambda: concat([visium(), visium()], index_unique="-", keys=["a", "b"]),
        {},
        ValueError,
        "60 observations share a site with another .*'spot0-a', 'spot0-b'.*slide_key",
    ),
    "duplicated observation": (
        lambda: concat([visium(), visium()[:1]], index_unique="-", keys=["a", "b"]),
        {},
        ValueError,
        "2 observations share a site.*'spot0-a', 'spot0-b'",
    ),
    "not one parity": (
        lambda: _edit(visium(), obs={"array_col": np.arange(30) // 6, "array_row": np.arange(30) % 6}),
        {"layout": "hex"},
        ValueError,
        "`layout`='hex' needs .*found 15 even and 15 odd",
    ),
    "rank of pixels": (_pixel_columns, {"layout": "rank"}, ValueError, "look like pixel coordinates, whose ranks"),
    "pixels as array": (
        _pixel_columns,
        {},
        ValueError,
        "look like pixel coordinates, not array positions: they form a hex lattice whose neighbours are 138.0 steps",
    ),
    "fractional array": (
        lambda: _edit(visium(), obs={"array_row": np.linspace(0, 9.7, 30)}),
        {},
        ValueError,
        "obs.'array_row'. must hold array coordinates one apart",
    ),
    "rank without array": (cells, {"layout": "rank"}, ValueError, "ranks of pixel coordinates mean nothing"),
    "rank with nothing": (
        lambda: AnnData(np.ones((9, 2))),
        {"layout": "rank"},
        KeyError,
        "needs adata.obs.'array_row'",
    ),
    "hex of cells": (cells, {"layout": "hex"}, ValueError, "`layout`='hex' cannot be inferred.*Use `layout`='bins'"),
    "hex of squares": (_square_pixels, {"layout": "hex"}, ValueError, "positions form a square lattice"),
    "bin_size without bins": (visium, {"bin_size": 100}, ValueError, "`bin_size`=100 applies to `layout`='bins' only"),
    "bin_size 0": (visium, {"layout": "bins", "bin_size": 0}, ValueError, "must be positive and finite, found 0"),
    "bin_size NaN": (visium, {"layout": "bins", "bin_size": np.nan}, ValueError, "must be positive and finite"),
    "bin_size text": (visium, {"layout": "bins", "bin_size": "1"}, TypeError, "`bin_size` must be a number, found str"),
    "bin_size tiny": (visium, {"layout": "bins", "bin_size": 0.01}, ValueError, "sites for 30 .*larger `bin_size`"),
    "bin_size vanishing": (visium, {"layout": "bins", "bin_size": 1e-12}, ValueError, "far too small"),
    "one position": (
        lambda: _edit(cells(), obsm={"spatial": np.ones((60, 2))}),
        {},
        ValueError,
        "same spatial position: no `bin_size`",
    ),
    "key of another": (lambda: _edit(visium(), obs={"grid_row": 1}), {}, ValueError, "write over obs.'grid_row'"),
    "uns of another": (lambda: _edit(visium(), uns={"grid": "x"}), {}, ValueError, "write over uns.'grid'"),
    "obsm of another": (
        lambda: _edit(visium(), obsm={"X_grid": np.ones((30, 2))}),
        {},
        ValueError,
        "write over obsm.'X_grid'",
    ),
    "array as key": (visium, {"key_added": "array"}, ValueError, "write over the array coordinates"),
    "slash in key": (visium, {"key_added": "a/b"}, ValueError, "`key_added` must be a non-empty string without '/'"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_bad_input(case):
    make, arguments, error, message = BAD[case]
    adata = make()
    if not isinstance(adata, AnnData):
        with pytest.raises(error, match=message):
            pp.compact_grid(adata, **arguments)
        return
    with assert_unchanged(adata), pytest.raises(error, match=message):
        pp.compact_grid(adata, **arguments)


# Real slides: layout, rows, columns and occupied share of the raster; the source is array coordinates where given.
REAL = {
    "DLPFC_151510_500genes": ("hex", 78, 64, 0.928, "array"),
    "DLPFC_151673": ("hex", 77, 59, 0.801, "array"),
    "DLPFC_151674": ("hex", 78, 58, 0.812, "array"),
    "colon_fetal_A3_visium": ("hex", 67, 62, 0.260, "array"),
    "her2st_A1": ("square", 17, 24, 0.848, "array"),
    "heart_dev_1_CN73_E1": ("bins", 15, 14, 0.429, "array"),
    "heart_dev_4_CN73_C2": ("square", 19, 15, 0.607, "array"),
    "img-MOB1": ("square", 20, 28, 0.677, "array"),
    "img-MOB_Rep11": ("square", 16, 21, 0.780, "array"),
    "pf-visium_lymph_subset": ("hex", 78, 59, 0.217, "spatial"),
    "STARmap_mPFC_BZ5": ("bins", 22, 41, 0.714, "spatial"),
    "osmFISH_mouse_cortex": ("bins", 120, 60, 0.355, "spatial"),
}


def read_slide(shared_data, name):
    """Observations and positions of a real slide, without its counts."""
    backed = read_h5ad(shared_data / name / f"{name}.h5ad", backed="r")
    adata = AnnData(obs=backed.obs, obsm={"spatial": backed.obsm["spatial"]}, uns={})
    backed.file.close()
    return adata


@pytest.mark.parametrize("name", REAL)
def test_real_slides(shared_data, name):
    adata = read_slide(shared_data, name)
    pp.compact_grid(adata)
    (slide,) = slide_table(adata).to_dict("records")
    layout, n_rows, n_cols, occupancy, source = REAL[name]
    assert (slide["layout"], slide["n_rows"], slide["n_cols"], slide["source"]) == (layout, n_rows, n_cols, source)
    assert slide["occupancy"] == pytest.approx(occupancy, abs=5e-4)
    if layout != "bins":
        assert not adata.obs.duplicated(["grid_row", "grid_col"]).any()


def neighbours(adata):
    """Pairs of observations on neighbouring sites, by name."""
    (slide,) = slide_table(adata).to_dict("records")
    row, col = adata.obs["grid_row"].to_numpy(), adata.obs["grid_col"].to_numpy()
    if slide["layout"] == "hex":
        positions = np.column_stack([col + 0.5 * ((row + slide["parity"]) % 2), row * np.sqrt(3) / 2])
    else:
        positions = np.column_stack([col, row]).astype(float)
    return set(map(tuple, np.sort(cKDTree(positions).query_pairs(1.1, output_type="ndarray"), axis=1)))


@pytest.mark.parametrize("degrees", [0.0, 33.0])
@pytest.mark.parametrize("name", ["DLPFC_151673", "DLPFC_151510_500genes", "her2st_A1", "img-MOB1"])
def test_inferred_lattice_of_real_slides_is_the_array(shared_data, name, degrees):
    known = read_slide(shared_data, name)
    inferred = known.copy()
    inferred.obs = inferred.obs[[]]
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    inferred.obsm["spatial"] = np.rint(10 * inferred.obsm["spatial"] @ turn) / 10
    pp.compact_grid(known)
    pp.compact_grid(inferred)
    assert slide_table(inferred)["source"].tolist() == ["spatial"]
    assert slide_table(inferred)["layout"].tolist() == slide_table(known)["layout"].tolist()
    assert neighbours(inferred) == neighbours(known)


def test_array_rows_numbered_anew_behind_a_gap_are_refused():
    """As in pooled bins whose empty rows were dropped before they were numbered."""
    adata = visium(20, 10)
    upper = adata.obs["array_row"].to_numpy() >= 10
    adata.obsm["spatial"][upper, 1] += 4 * 120
    with pytest.raises(
        ValueError, match="contradict the spatial coordinates: 100 of 200.*hex lattice|contradict.*of 200"
    ):
        pp.compact_grid(adata)


def test_array_positions_of_another_order_are_refused():
    adata = visium(12, 10)
    adata.obsm["spatial"] = adata.obsm["spatial"][np.random.default_rng(0).permutation(120)]
    with pytest.raises(ValueError, match="contradict the spatial coordinates.*Positions of another slide"):
        pp.compact_grid(adata)


def test_bent_coordinates_are_those_of_their_array():
    adata = visium(40, 30)
    x, y = adata.obsm["spatial"].T
    adata.obsm["spatial"] = np.column_stack([x, y + 0.03 * (x - x.mean()) ** 2 / np.ptp(x) * 20])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pp.compact_grid(adata)
    assert slide_table(adata)[["layout", "source"]].values.tolist() == [["hex", "array"]]


def test_positions_in_larger_steps_are_refused_with_both_readings():
    row, col = np.divmod(np.arange(100), 10)
    obs = pd.DataFrame({"array_row": row * 4, "array_col": col * 4}, index=[f"s{i}" for i in range(100)])
    with pytest.raises(ValueError, match="square lattice whose neighbours are 4.0 steps apart.*divide them"):
        pp.compact_grid(AnnData(np.ones((100, 2)), obs=obs))


@pytest.mark.parametrize("values", [(1, 0), (True, False), ("1", "0")])
def test_spots_off_tissue_are_told(values):
    adata = visium(8, 8)
    adata.obs["in_tissue"] = np.where(np.arange(64) < 50, *map(np.array, values))
    with pytest.warns(UserWarning, match="14 of 64 observations are not in tissue.*adata.obs.'in_tissue'."):
        pp.compact_grid(adata)
    adata.obs["in_tissue"] = values[1]  # never filled in
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pp.compact_grid(adata)


def test_slides_on_top_of_each_other_are_told():
    one, other = cells(150), cells(150)
    other.obsm["spatial"] = other.obsm["spatial"] + 3.0
    together = concat({"a": one, "b": other}, label="sample", index_unique="-")
    with pytest.warns(UserWarning, match="obs.'sample'. has 2 values.*share 9.%.*`slide_key`='sample'"):
        pp.compact_grid(together)
    apart = together.copy()
    apart.obsm["spatial"][150:, 0] += 1e5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pp.compact_grid(apart)
        pp.compact_grid(together, slide_key="sample")


def test_an_observation_far_from_all_others_is_named():
    adata = visium(12, 10)
    adata.obs = adata.obs.drop(columns=["array_row", "array_col"])
    adata.obsm["spatial"][7] = adata.obsm["spatial"][7] + [0, 138 * np.sqrt(3) * 30]
    with pytest.warns(UserWarning, match="1 observations .*'spot7'.* lie more than 10 sites away"):
        pp.compact_grid(adata)


@pytest.mark.parametrize("name", ["h5ad", "nothing"])
def test_inferred_visium_lattices_have_micrometres(name):
    adata = visium(10, 10)
    adata.obs = adata.obs.drop(columns=["array_row", "array_col"])
    if name == "h5ad":
        adata.uns["spatial"] = {"is_single": np.bool_(True), "x": {"scalefactors": {"tissue_hires_scalef": 0.1}}}
    pp.compact_grid(adata)
    summary = adata.uns["grid"]["summary"].iloc[0]
    assert summary["pitch_micrometres"] == pytest.approx(100) and "taken for Visium" in summary["scale_from"]
    adata.uns["spatial"] = {
        "x": {"scalefactors": {"spot_diameter_fullres": adata.uns["grid"]["slides"]["pitch"].item() * 0.95}}
    }
    pp.compact_grid(adata)  # spots that touch are none of Visium
    assert np.isnan(adata.uns["grid"]["summary"]["micrometres_per_unit"].item())


@pytest.mark.parametrize("merge", [None, "same", "unique", "first", "only"])
@pytest.mark.parametrize("keyed", [True, False])
def test_grids_and_niches_put_together_are_replaced(merge, keyed):
    parts = {
        name: visium(
            n,
            8,
        )
        for name, n in (("a", 8), ("b", 10))
    }
    for part in parts.values():
        part.obs["section"] = "x"
        pp.compact_grid(part, slide_key="section" if keyed else None)
        pp.build_niches(part)
    alone = [part.obs[["grid_row", "grid_col"]].to_numpy() for part in parts.values()]
    together = concat(parts, label="library", index_unique="-", uns_merge=merge)
    pp.compact_grid(together, slide_key="library")
    np.testing.assert_array_equal(together.obs[["grid_row", "grid_col"]], np.vstack(alone))
    pp.build_niches(together)
    assert together.obsp["niche_connectivities"][:64, 64:].nnz == 0


def test_the_grid_of_one_part_is_not_that_of_all():
    parts = {"a": cells(60), "b": cells(50)}
    for part in parts.values():
        pp.compact_grid(part, layout="bins", bin_size=300)
    together = concat(parts, index_unique="-", uns_merge="first")
    with pytest.raises(ValueError, match="grid of 60 observations, `adata` has 110"):
        Corpus.from_anndata(together, genes=together.var_names)
