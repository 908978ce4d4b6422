"""Slides of each platform as their readers give them: units, bins, lattices and the mistakes that are easily made."""

import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import squidpy as sq
from anndata import AnnData
from helpers import assert_unchanged
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import stimage as sti

N_GENES = 60


def cells(n=400, *, extent=1000.0, seed=0):
    """Cells with counts that follow their place, genes named as no vocabulary names them."""
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0, extent, (n, 2))
    rate = 0.3 + 2 * (np.sin(np.outer(xy[:, 0] / extent, np.arange(1, N_GENES + 1))) > 0.5)
    adata = AnnData(sparse.csr_matrix(rng.poisson(rate).astype(np.float32)))
    adata.obs_names = [f"cell{i}" for i in range(n)]
    adata.var_names = [f"gene{i}" for i in range(N_GENES)]
    adata.obsm["spatial"] = xy
    return adata


def squares(n_rows, n_cols, *, pitch, seed=0):
    """A full square array with one count each, at least."""
    rng = np.random.default_rng(seed)
    row, col = np.divmod(rng.permutation(n_rows * n_cols), n_cols)
    adata = AnnData(sparse.csr_matrix(rng.poisson(1.0, (len(row), 5)).astype(np.float32) + 1))
    adata.obs_names = [f"s_{r:05d}_{c:05d}" for r, c in zip(row, col, strict=True)]
    adata.obs["array_row"], adata.obs["array_col"] = row, col
    adata.obsm["spatial"] = np.column_stack([col, row]) * pitch + 1000.0
    return adata


def summary(adata, key="grid"):
    (facts,) = adata.uns[key]["summary"].to_dict("records")
    (slide,) = adata.uns[key]["slides"].to_dict("records")
    return {**facts, **slide}


# Units


@pytest.mark.parametrize("micrometres", [0.12, 0.5, 1.0])
def test_bins_in_micrometres_are_those_in_units(micrometres):
    adata = cells()
    adata.obsm["spatial"] /= micrometres
    in_units = sti.pp.compact_grid(adata, layout="bins", bin_size=80 / micrometres, copy=True)
    sti.pp.compact_grid(adata, layout="bins", bin_size=80, bin_unit="micrometre", micrometres_per_unit=micrometres)
    pd.testing.assert_frame_equal(adata.obs, in_units.obs)
    facts = summary(adata)
    assert facts["pitch"] == pytest.approx(80 / micrometres)
    assert facts["pitch_micrometres"] == pytest.approx(80)
    assert facts["unit"] == ("micrometre" if micrometres == 1 else "unknown")
    assert facts["n_observations"] == 400
    counts = adata.obs.groupby(["grid_row", "grid_col"]).size()
    assert [facts[key] for key in ("n_sites", "median_per_site", "most_per_site")] == [
        len(counts),
        counts.median(),
        counts.max(),
    ]
    assert np.isnan(summary(in_units)["pitch_micrometres"])


def test_scale_is_read_from_scale_factors():
    adata = cells()
    adata.uns["spatial"] = {"hd": {"images": {}, "scalefactors": {"microns_per_pixel": 0.5}}}
    sti.pp.compact_grid(adata, layout="bins", bin_size=40, bin_unit="micrometre")
    assert summary(adata)["pitch"] == 80.0
    assert (summary(adata)["unit"], summary(adata)["micrometres_per_unit"]) == ("pixel", 0.5)
    # Each slide has a library of its own name.
    adata.obs["slide"] = np.where(np.arange(400) < 200, "hd", "other")
    adata.uns["spatial"]["other"] = {"scalefactors": {"microns_per_pixel": 0.25}}
    sti.pp.compact_grid(adata, layout="bins", bin_size=40, bin_unit="micrometre", slide_key="slide")
    assert adata.uns["grid"]["slides"]["pitch"].to_dict() == {"hd": 80.0, "other": 160.0}


def test_pitch_of_visium_is_100_micrometres():
    row, col = np.divmod(np.arange(100), 10)
    adata = AnnData(np.ones((100, 3)), obs=pd.DataFrame({"array_row": row, "array_col": 2 * col + row % 2}))
    adata.obs_names = [f"spot{i}" for i in range(100)]
    adata.obsm["spatial"] = np.column_stack([adata.obs["array_col"] * 69.0, row * 119.5])
    adata.uns["spatial"] = {"section": {"scalefactors": {"spot_diameter_fullres": 89.4}}}
    sti.pp.compact_grid(adata)
    assert summary(adata)["micrometres_per_unit"] == pytest.approx(100 / 138, rel=1e-3)
    with pytest.raises(ValueError, match="unit of the coordinates is 5 micro.*so that a unit is 0.7247"):
        sti.pp.compact_grid(adata, micrometres_per_unit=5)
    adata.obsm["spatial"] *= 0.05
    with assert_unchanged(adata), pytest.raises(ValueError, match="sites are 6.9.* units apart.*a spot is 89.4 pixels"):
        sti.pp.compact_grid(adata)
    del adata.uns["spatial"]
    sti.pp.compact_grid(adata)


WRONG = {
    "all in one bin": (
        {"bin_size": 1e5},
        ValueError,
        "all observations into one bin: 1e.05 units of coordinates that span 99.*if the coordinates are micro",
    ),
    "all in one bin of micrometres": (
        {"bin_size": 900, "bin_unit": "micrometre", "micrometres_per_unit": 0.1},
        ValueError,
        "into one bin: 9000 units .* with `micrometres_per_unit`, 900 micrometres of 99",
    ),
    "each alone": (
        {"bin_size": 3.0},
        ValueError,
        "leaves each observation alone, and 99.* of the bins empty: 3 units.*neighbours 49.1 apart",
    ),
    "unknown scale": (
        {"bin_size": 10, "bin_unit": "micrometre"},
        ValueError,
        "'spatial'. does not say .libraries: none.: pass `micrometres_per_unit=`",
    ),
    "unit of nothing": ({"bin_unit": "micrometre"}, ValueError, "the unit of `bin_size`, which is not given"),
    "unit": ({"bin_size": 10, "bin_unit": "mm"}, ValueError, "`bin_unit` must be one of 'coordinate', 'micrometre'"),
    "scale 0": ({"micrometres_per_unit": 0}, ValueError, "`micrometres_per_unit` must be between 0"),
    "scale NaN": ({"micrometres_per_unit": np.nan}, ValueError, "`micrometres_per_unit` must be between 0"),
    "scale text": ({"micrometres_per_unit": "1"}, TypeError, "`micrometres_per_unit` must be a number, found str"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_units(case):
    arguments, error, message = WRONG[case]
    adata = cells(100)
    with assert_unchanged(adata), pytest.raises(error, match=message):
        sti.pp.compact_grid(adata, layout="bins", **arguments)


def test_given_scale_must_agree_with_the_stored_one():
    adata = cells()
    adata.uns["spatial"] = {"a": {"scalefactors": {"microns_per_pixel": 0.25}}}
    with pytest.raises(ValueError, match="=1 contradicts.*says 0.25 .scalefactors.'microns_per_pixel'"):
        sti.pp.compact_grid(adata, micrometres_per_unit=1)
    adata.uns["spatial"]["a"]["scalefactors"]["microns_per_pixel"] = "x"
    with pytest.raises(ValueError, match="'microns_per_pixel'. must be a positive number, found 'x'"):
        sti.pp.compact_grid(adata)


def test_observations_alone_on_a_full_raster_are_fine():
    adata = squares(12, 12, pitch=10.0)
    sti.pp.compact_grid(adata, layout="bins", bin_size=10.0)
    assert summary(adata)["most_per_site"] == 1


# Aggregation


@settings(max_examples=12, deadline=None)
@given(st.integers(2, 40), st.floats(0.5, 30), st.booleans(), st.integers(0, 1000))
def test_aggregate_is_the_sum_of_each_site(n, bin_size, two_slides, seed):
    rng = np.random.default_rng(seed)
    adata = AnnData(sparse.csr_matrix(rng.poisson(1.0, (n, 4)).astype(np.float32)))
    adata.obs_names = [f"c{i}" for i in range(n)]
    adata.obsm["spatial"] = rng.uniform(0, 10, (n, 2))
    key = "slide" if two_slides and n >= 4 else None
    adata.obs["slide"] = ["b" if i % 2 else "a" for i in range(n)]
    adata.obs["grid_row"], adata.obs["grid_col"] = (adata.obsm["spatial"] // bin_size).astype(int).T
    table = pd.DataFrame({"layout": "bins", "parity": 0}, index=["a", "b"] if key else ["slide"])
    adata.uns["grid"] = {"params": {"slide_key": key or "", "spatial_key": "spatial"}, "slides": table}

    slow = {}
    for i in range(n):
        place = (adata.obs["slide"].iloc[i] if key else "", *adata.obs[["grid_row", "grid_col"]].iloc[i])
        slow.setdefault(place, []).append(i)
    for counts, gather in (("sum", np.sum), ("mean", np.mean)):
        sites = sti.pp.aggregate_sites(adata, counts=counts)
        assert sites.n_obs == len(slow)
        for number, place in enumerate(sorted(slow)):
            members = slow[place]
            expected = gather(adata.X[members].toarray(), axis=0)
            np.testing.assert_allclose(sites.X[number].toarray()[0], expected, rtol=1e-6)
            np.testing.assert_allclose(sites.obsm["spatial"][number], adata.obsm["spatial"][members].mean(axis=0))
            assert sites.obs["n_observations"].iloc[number] == len(members)
            assert (sites.uns["site_of_observation"][members] == number).all()
    assert sites.obs_names.is_unique


def test_aggregated_slide_is_embedded_as_its_observations(tmp_path, embedded):
    adata, model = embedded
    sites = sti.pp.aggregate_sites(adata)
    sites.write_h5ad(tmp_path / "sites.h5ad")
    sti.tl.embed(sites, model)
    back = sites.obsm["X_stimage"][sites.uns["site_of_observation"]]
    np.testing.assert_allclose(back, adata.obsm["X_stimage"], atol=1e-5)
    with pytest.raises(ValueError, match="not whole numbers"):
        sti.tl.embed(sti.pp.aggregate_sites(adata, counts="mean"), model)


# The whole path


@pytest.fixture(scope="module")
def embedded():
    """Cells in bins, embedded by the model that ships with the package, whose genes they have."""
    adata, model = cells(), sti.pretrained.load()
    adata.var_names = model.genes[:N_GENES]
    sti.pp.compact_grid(adata, layout="bins", bin_size=60)
    sti.tl.embed(adata, model)
    return adata, model


def test_results_are_per_observation(embedded):
    adata, model = embedded
    adata = adata.copy()
    assert adata.obsm["X_stimage"].shape[0] == adata.n_obs
    sites = adata.obs.groupby(["grid_row", "grid_col"]).indices
    shared = [members for members in sites.values() if len(members) > 1]
    assert shared
    for members in shared:
        assert np.ptp(adata.obsm["X_stimage"][members], axis=0).max() == 0
    sti.tl.domains(adata, 3)
    sti.tl.reconstruct_region(adata, model, size=3)
    assert adata.obs["stimage_domain"].notna().all()
    hidden = adata.obs["stimage_region_masked"].to_numpy()
    for members in shared:
        assert len(set(hidden[members])) == 1


def test_shipped_model_refuses_small_panels(shared_data):
    from anndata import read_h5ad

    name = "osmFISH_mouse_cortex"
    adata = read_h5ad(shared_data / name / f"{name}.h5ad")
    sti.pp.compact_grid(adata)
    with assert_unchanged(adata), pytest.raises(ValueError, match="at least 50 are needed.*stimage.tl.pretrain"):
        sti.tl.embed(adata, "human")


# Lattices of other platforms


@pytest.mark.parametrize("size", [2, 8, 16])
def test_visium_hd(size):
    adata = squares(40, 30, pitch=size / 0.2738)
    adata.uns["spatial"] = {
        "hd": {
            "images": {},
            "scalefactors": {"microns_per_pixel": 0.2738, "bin_size_um": size, "spot_diameter_fullres": size / 0.2738},
        }
    }
    sti.pp.compact_grid(adata)
    facts = summary(adata)
    assert (facts["layout"], facts["n_rows"], facts["n_cols"], facts["occupancy"]) == ("square", 40, 30, 1.0)
    assert facts["pitch_micrometres"] == pytest.approx(size)
    # Larger bins of the same slide.
    sti.pp.compact_grid(adata, layout="bins", bin_size=2 * size, bin_unit="micrometre")
    assert summary(adata)["n_sites"] == pytest.approx(300, rel=0.15)
    adata.obsm["spatial"] *= 0.2738
    with assert_unchanged(adata), pytest.raises(ValueError, match=f"which is .* but scalefactors.*says {size}"):
        sti.pp.compact_grid(adata)


def test_array_positions_in_barcodes():
    """DBiT-seq: 50 x 50 pixels, barcodes "AxB"."""
    adata = squares(50, 50, pitch=20.0)
    expected = adata.obs[["array_row", "array_col"]]
    adata.obs_names = [f"{c + 1}x{r + 1}" for r, c in expected.to_numpy()]
    del adata.obsm["spatial"]
    adata.obs = adata.obs[[]]
    with assert_unchanged(adata), pytest.raises(KeyError, match="look like array positions") as error:
        sti.pp.compact_grid(adata)
    line = error.value.args[0].partition(": adata.obs[[")[2]
    exec(f"adata.obs[[{line}", {"adata": adata})  # the line that the message says
    sti.pp.compact_grid(adata)
    assert (summary(adata)["layout"], summary(adata)["n_sites"], summary(adata)["occupancy"]) == ("square", 2500, 1.0)
    np.testing.assert_array_equal(adata.obs[["grid_row", "grid_col"]], expected)


def test_dense_clump_beside_cells_needs_no_pairs_of_all():
    adata = cells(2000)
    adata.obsm["spatial"][:150] = 500 + np.random.default_rng(1).normal(0, 1e-4, (150, 2))
    sti.pp.compact_grid(adata)
    assert summary(adata)["layout"] == "bins"


# Readers


def write_10x(folder, barcodes, n_genes=6):
    """Counts as Space Ranger writes them."""
    counts = np.random.default_rng(0).poisson(1.0, (n_genes, len(barcodes)))
    counts = sparse.csc_matrix(counts.astype(np.int32))
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "w") as file:
        matrix = file.create_group("matrix")
        for key in ("data", "indices", "indptr"):
            matrix[key] = getattr(counts, key)
        matrix["shape"] = counts.shape
        matrix["barcodes"] = np.array(barcodes, dtype="S")
        features = matrix.create_group("features")
        features["id"] = np.array([f"ENSG{i:011d}" for i in range(n_genes)], dtype="S")
        for key, values in {"name": "gene{}", "feature_type": "Gene Expression", "genome": "GRCh38"}.items():
            features[key] = np.array([values.format(i) for i in range(n_genes)], dtype="S")
        file.attrs["library_ids"] = np.array([b"section"])
        file.attrs["chemistry_description"] = "Spatial 3' v1"
        file.attrs["software_version"] = "spaceranger-2.1.0"


def test_visium_folder_of_squidpy(tmp_path):
    from PIL import Image

    row, col = np.divmod(np.arange(64), 8)
    barcodes = [f"{i:04d}-1" for i in range(64)]
    write_10x(tmp_path, barcodes)
    folder = tmp_path / "spatial"
    folder.mkdir()
    factors = {"spot_diameter_fullres": 89.4, "tissue_hires_scalef": 0.05, "tissue_lowres_scalef": 0.015}
    (folder / "scalefactors_json.json").write_text(json.dumps(factors))
    for resolution in ("hires", "lowres"):
        Image.new("RGB", (80, 80)).save(folder / f"tissue_{resolution}_image.png")
    positions = {"in_tissue": 1, "array_row": row, "array_col": 2 * col + row % 2}
    positions |= {"pxl_row_in_fullres": row * 119.5 + 200, "pxl_col_in_fullres": positions["array_col"] * 69.0 + 200}
    pd.DataFrame(positions, index=pd.Index(barcodes, name="barcode")).to_csv(folder / "tissue_positions.csv")

    adata = sq.read.visium(tmp_path)
    sti.pp.compact_grid(adata)
    facts = summary(adata)
    assert (facts["layout"], facts["n_rows"], facts["n_cols"], facts["unit"]) == ("hex", 8, 8, "pixel")
    assert facts["pitch_micrometres"] == pytest.approx(100)
    assert facts["pitch"] == pytest.approx(138, abs=0.5)


def test_visium_hd_folder_as_documented(tmp_path):
    pytest.importorskip("pyarrow")
    page = (Path(__file__).parents[1] / "docs" / "user_guide" / "platforms.md").read_text(encoding="utf-8")
    recipe = page.partition("(visium-hd)=")[2].partition("```python\n")[2].partition("```")[0]
    folder = tmp_path / "binned_outputs" / "square_008um"
    (folder / "spatial").mkdir(parents=True)
    expected = squares(10, 8, pitch=8 / 0.2738)
    write_10x(folder, expected.obs_names.tolist())
    positions = expected.obs.assign(in_tissue=1)
    positions["pxl_col_in_fullres"], positions["pxl_row_in_fullres"] = expected.obsm["spatial"].T
    shuffled = positions.rename_axis("barcode").reset_index().sample(frac=1, random_state=0)
    shuffled.to_parquet(folder / "spatial" / "tissue_positions.parquet")
    factors = {"microns_per_pixel": 0.2738, "bin_size_um": 8.0, "spot_diameter_fullres": 8 / 0.2738}
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
    names = {"Path": lambda path: tmp_path / path, "sc": sc, "pd": pd, "json": json, "sti": sti}
    exec(recipe, names)
    adata = names["adata"]
    sti.pp.compact_grid(expected)
    pd.testing.assert_frame_equal(
        adata.obs[["grid_row", "grid_col"]], expected.obs.loc[adata.obs_names, ["grid_row", "grid_col"]]
    )
    assert summary(adata)["pitch_micrometres"] == pytest.approx(8)


def _tables(tmp_path, n=120):
    rng = np.random.default_rng(0)
    counts = pd.DataFrame(rng.poisson(1.0, (n, 5)), columns=[*(f"gene{i}" for i in range(4)), "Blank-1"])
    return counts, rng.uniform(0, 500, (n, 2))


def test_merscope_of_squidpy_is_in_micrometres(tmp_path):
    counts, xy = _tables(tmp_path)
    index = pd.Index(np.arange(len(counts)).astype(str), name="cell")
    counts.set_index(index).to_csv(tmp_path / "cell_by_gene.csv")
    pd.DataFrame(xy, index=index, columns=["center_x", "center_y"]).to_csv(tmp_path / "cell_metadata.csv")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "transform.csv").write_text("9.2 0 100\n0 9.2 50\n0 0 1\n")
    files = {"counts_file": "cell_by_gene.csv", "meta_file": "cell_metadata.csv"}
    adata = sq.read.vizgen(tmp_path, **files, transformation_file="transform.csv")
    sti.pp.compact_grid(adata, layout="bins", bin_size=50, bin_unit="micrometre")
    assert (summary(adata)["unit"], summary(adata)["pitch"]) == ("micrometre", 50.0)
    plain = sq.read.vizgen(tmp_path, **files)
    sti.pp.compact_grid(plain)
    assert summary(plain)["unit"] == "unknown"  # not pixels, whatever library the reader wrote


def test_cosmx_of_squidpy_has_positions_within_fields(tmp_path):
    counts, xy = _tables(tmp_path)
    fov = np.repeat([1, 2], 60)
    cell = np.arange(len(counts)) + 1
    counts.assign(fov=fov, cell_ID=cell).to_csv(tmp_path / "exprMat_file.csv", index=False)
    local = {"CenterX_local_px": xy[:, 0], "CenterY_local_px": xy[:, 1]}
    on_slide = {"CenterX_global_px": xy[:, 0] + 500.0 * (fov - 1), "CenterY_global_px": xy[:, 1]}
    meta = pd.DataFrame({"fov": fov, "cell_ID": cell, **local, **on_slide})
    meta.to_csv(tmp_path / "metadata_file.csv", index=False)
    adata = sq.read.nanostring(tmp_path, counts_file="exprMat_file.csv", meta_file="metadata_file.csv")
    with pytest.raises(ValueError, match="within each of 2 fields of view.*'spatial_fov'.*`slide_key`='fov'"):
        sti.pp.compact_grid(adata)
    by_field = sti.pp.compact_grid(adata, slide_key="fov", copy=True)
    assert len(by_field.uns["grid"]["slides"]) == 2
    adata.obsm["spatial"] = adata.obsm["spatial_fov"]
    sti.pp.compact_grid(
        adata, layout="bins", bin_size=6, bin_unit="micrometre", micrometres_per_unit=0.12, spatial_key="spatial_fov"
    )
    assert summary(adata)["n_cols"] == pytest.approx(2 * summary(adata)["n_rows"], abs=1)
