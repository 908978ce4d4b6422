import json

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from helpers import assert_unchanged
from io_layouts import (
    cellxgene,
    dense,
    write_10x_folder,
    write_10x_h5,
    write_hest,
    write_positions,
    write_stimage_1k4m,
)
from PIL import Image
from scipy import sparse
from slides import visium

import stimage as sti

NOTE = "stimage_source"


@pytest.fixture
def slide():
    adata = visium(9, 8, n_genes=12, seed=3)
    adata.obsm["spatial"] = np.round(adata.obsm["spatial"] + 60)
    return adata


def assert_holds(found, expected, observations=slice(None), *, genes=None):
    """Counts and coordinates are those of the slide that was written, observation by observation."""
    expected = expected[observations]
    names = list(found.obs_names)
    assert sorted(names) == sorted(expected.obs_names)
    expected = expected[names]
    np.testing.assert_array_equal(dense(found), dense(expected)[:, : found.n_vars])
    np.testing.assert_array_equal(found.obsm["spatial"], expected.obsm["spatial"])
    assert found.obsm["spatial"].dtype == np.float64
    assert list(found.var_names) == list(genes if genes is not None else expected.var_names)


def assert_ready(found, expected, **options):
    """The grid of what was read is that of the slide itself."""
    grids = []
    for adata in (found, expected[list(found.obs_names)].copy()):
        sti.pp.compact_grid(adata, **options)
        grids.append(adata.obs[["grid_row", "grid_col"]].to_numpy())
    np.testing.assert_array_equal(*grids)


# AnnData in the states that people have


def test_anndata_as_it_is(slide, tmp_path):
    slide.write_h5ad(tmp_path / "P1.h5ad")
    found = sti.io.read(tmp_path / "P1.h5ad")
    assert_holds(found, slide)
    assert_ready(found, slide)
    note = found.uns[NOTE]
    assert (note["format"], note["counts"], note["coordinates"], note["slide"]) == (
        "AnnData",
        "X",
        "obsm['spatial']",
        "P1",
    )
    assert found.obs["slide"].unique().tolist() == ["P1"]
    found.write_h5ad(tmp_path / "again.h5ad")
    again = sti.io.read(tmp_path / "again.h5ad")
    assert again.uns[NOTE]["path"] == str(tmp_path / "P1.h5ad")
    assert_holds(again, slide)


def test_memory_is_left_alone(slide):
    slide.layers["counts"] = slide.X.copy()
    slide.X = np.log1p(slide.X)
    slide.uns["spatial"] = {"lib": {"images": {}, "scalefactors": {}}}
    with assert_unchanged(slide):
        with pytest.warns(UserWarning, match=r"Read raw counts from adata.layers\['counts'\]"):
            found = sti.io.read(slide)
        found.obs["new"] = 1
        found.obsm["new"] = np.ones((found.n_obs, 1))
    np.testing.assert_array_equal(dense(found), slide.layers["counts"].toarray())
    assert found.uns[NOTE]["slide"] == "lib"


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        (lambda a: a.layers.update(counts=a.X.copy()), "layers['counts']"),
        (lambda a: setattr(a, "raw", a.copy()), "raw.X"),
    ],
)
def test_counts_beside_a_normalised_x(slide, change, counts):
    expected = dense(slide).copy()
    change(slide)
    slide.X = np.log1p(slide.X)
    with pytest.warns(UserWarning, match="Read raw counts from"):
        found = sti.io.read(slide)
    assert found.uns[NOTE]["counts"] == counts
    np.testing.assert_array_equal(dense(found), expected)


def test_raw_of_more_genes(slide):
    part = slide[:, :5].copy()
    part.raw = slide
    part.X = np.log1p(part.X)
    with pytest.warns(UserWarning, match="raw.X"):
        found = sti.io.read(part)
    assert found.shape == slide.shape
    assert found.var_names.tolist() == slide.var_names.tolist()


def test_counts_that_differ_are_named_and_none_is_taken(slide):
    expected = dense(slide).copy()
    slide.layers["counts"] = slide.X.copy()
    slide.raw = slide.copy()
    slide.X = np.log1p(slide.X)
    # The same counts twice are one candidate; those of all genes are taken where one has but some.
    for part, n_vars in ((slide, 12), (slide[:, 3:8].copy(), 12)):
        with pytest.warns(UserWarning, match="Read raw counts from"):
            found = sti.io.read(part)
        assert found.n_vars == n_vars
        np.testing.assert_array_equal(dense(found), expected)
    slide.layers["spliced"] = slide.layers["counts"].copy()
    slide.layers["spliced"].data[0] += 1
    message = r"3 matrices that differ do: .*counts.*spliced.*raw\.X.*`layer`='spliced'"
    with assert_unchanged(slide), pytest.raises(ValueError, match=message):
        sti.io.read(slide)
    np.testing.assert_array_equal(dense(sti.io.read(slide, layer="counts")), expected)


def test_calls_of_the_package_take_no_other_counts(slide):
    slide.layers["counts"] = slide.X.copy()
    slide.X = np.log1p(slide.X)
    sti.pp.compact_grid(slide)
    with pytest.raises(ValueError, match=r"adata\.layers\['counts'\] holds raw counts: `layer`='counts'"):
        sti.pp.select_genes(slide, n_genes=5)


def test_a_third_column_that_says_something_is_kept(slide):
    xy = slide.obsm["spatial"]
    for form in (np.asarray, lambda xyz: pd.DataFrame(xyz[:, ::-1], columns=["z", "y", "x"], index=slide.obs_names)):
        deep = slide.copy()
        xyz = np.column_stack([xy, np.arange(len(xy)) % 3.0])
        deep.obsm["spatial"] = form(xyz)
        np.testing.assert_array_equal(sti.io.read(deep).obsm["spatial"], xyz)
    slide.obsm["spatial"] = np.column_stack([xy, xyz])
    with pytest.raises(ValueError, match="must have two columns"):
        sti.io.read(slide)


def test_a_layer_that_is_named_is_the_one_that_is_taken(slide):
    slide.layers["counts"], slide.layers["umi"] = slide.X.copy(), slide.X * 2
    found = sti.io.read(slide, layer="umi")
    np.testing.assert_array_equal(dense(found), 2 * dense(slide))
    with pytest.raises(KeyError, match="`layer`='other' is not in adata.layers; available: 'counts', 'umi'"):
        sti.io.read(slide, layer="other")


def test_what_was_read_before_is_looked_at_again(slide, tmp_path):
    write_hest(tmp_path, {"TENX1": slide})
    found = sti.io.read(tmp_path / "st" / "TENX1.h5ad", images=False)
    found.layers["counts"] = found.X.copy()
    found.X = np.log1p(found.X)
    with pytest.warns(UserWarning, match="Read raw counts from adata.layers"):
        again = sti.io.read(found)
    np.testing.assert_array_equal(dense(again), dense(slide))
    notes = [adata.uns[NOTE] for adata in (found, again)]
    for key in ("format", "path", "slide", "donor", "donor_key", "tissue"):
        assert notes[0][key] == notes[1][key]
    del found.layers["counts"]
    with pytest.raises(ValueError, match="raw counts are needed"):
        sti.io.read(found)


def test_no_counts(slide):
    slide.X = np.log1p(slide.X)
    with pytest.raises(ValueError, match="looks log-transformed, raw counts are needed"):
        sti.io.read(slide)


@pytest.mark.parametrize(
    ("place", "put"),
    [
        ("obs['spatial0'], obs['spatial1']", lambda a, xy: a.obs.assign(spatial0=xy[:, 0], spatial1=xy[:, 1])),
        ("obs['x'], obs['y']", lambda a, xy: a.obs.assign(x=xy[:, 0], y=xy[:, 1], library_key="s")),
        (
            "obs['pxl_col_in_fullres'], obs['pxl_row_in_fullres']",
            lambda a, xy: a.obs.assign(pxl_row_in_fullres=xy[:, 1], pxl_col_in_fullres=xy[:, 0]),
        ),
    ],
)
def test_coordinates_in_obs(slide, place, put):
    xy = slide.obsm.pop("spatial")
    slide.obs = put(slide, xy)
    with pytest.warns(UserWarning, match="coordinates from adata.obs"):
        found = sti.io.read(slide)
    np.testing.assert_array_equal(found.obsm["spatial"], xy)
    assert found.uns[NOTE]["coordinates"] == place


def test_coordinates_elsewhere_in_obsm(slide):
    xy = slide.obsm.pop("spatial")
    slide.obsm["X_spatial"] = pd.DataFrame(xy, index=slide.obs_names)
    with pytest.warns(UserWarning, match="coordinates from adata.obsm"):
        found = sti.io.read(slide)
    np.testing.assert_array_equal(found.obsm["spatial"], xy)
    flat = slide.copy()
    flat.obsm["spatial"] = np.column_stack([xy, np.full(len(xy), 3.0)])
    with pytest.warns(UserWarning, match="first two columns"):
        assert sti.io.read(flat).obsm["spatial"].shape == (slide.n_obs, 2)


def test_columns_that_differ_are_named(slide):
    xy = slide.obsm.pop("spatial")
    slide.obs[["x", "y"]] = xy
    slide.obs[["x_centroid", "y_centroid"]] = xy
    with pytest.warns(UserWarning, match="coordinates from"):
        np.testing.assert_array_equal(sti.io.read(slide).obsm["spatial"], xy)
    slide.obs["x"] *= 0.2125
    with pytest.raises(KeyError, match="several pairs of columns that differ: 'x_centroid/y_centroid', 'x/y'"):
        sti.io.read(slide)


def test_no_coordinates(slide):
    del slide.obsm["spatial"], slide.obs["array_row"], slide.obs["array_col"]
    with pytest.raises(KeyError, match="No spatial coordinates: adata.obsm has none"):
        sti.io.read(slide)


def test_cells_of_several_slides(slide):
    """SpatialCorpus-110M: coordinates in obs, a column with slides and one with donors."""
    parts = []
    for number in range(2):
        part = visium(6, 5, seed=number)
        part.obs = pd.DataFrame(
            {"x": part.obsm["spatial"][:, 0], "y": part.obsm["spatial"][:, 1], "library_key": f"s{number}", "donor_id": f"d{number}"},
            index=[f"{name}-{number}" for name in part.obs_names],
        )  # fmt: skip
        del part.obsm["spatial"]
        parts.append(part)
    both = ad.concat(parts)
    with pytest.warns(UserWarning, match="obs"):
        found = sti.io.read(both)
    assert (found.uns[NOTE]["slide_key"], found.uns[NOTE]["donor_key"]) == ("library_key", "donor_id")
    sti.pp.compact_grid(found, slide_key="library_key")
    assert found.uns["grid"]["slides"].index.tolist() == ["s0", "s1"]


# CELLxGENE


@pytest.mark.parametrize("normalised", [True, False])
def test_cellxgene(slide, tmp_path, normalised):
    whole, inside = cellxgene(slide, normalised=normalised)
    whole.write_h5ad(tmp_path / "file.h5ad")
    found = sti.io.read(tmp_path / "file.h5ad")
    genes = [f"ENSG{i:011}" for i in range(slide.n_vars)]
    assert_holds(found, slide, inside, genes=genes)
    assert_ready(found, slide)
    note = found.uns[NOTE]
    assert note["counts"] == ("raw.X" if normalised else "X")
    assert note["dropped"] == {"spots outside of tissue (in_tissue is 0)": (~inside).sum()}
    assert (note["slide"], note["donor_key"], note["tissue"], note["species"]) == (
        "section_A",
        "donor_id",
        "heart",
        "Homo sapiens",
    )
    assert list(found.uns["spatial"]) == ["section_A"]
    image = sti.data.SlideImage.from_anndata(found)
    assert image is not None
    assert sti.io.read(tmp_path / "file.h5ad", images=False).uns["spatial"]["section_A"]["images"] == {}


def test_cellxgene_of_a_donor_that_is_not_known(slide):
    whole, _ = cellxgene(slide)
    whole.obs["donor_id"] = "unknown"
    assert sti.io.read(whole).uns[NOTE]["donor_key"] == ""


def test_cellxgene_with_no_spot_under_tissue(slide):
    whole, _ = cellxgene(slide)
    whole.obs["in_tissue"] = 0
    with pytest.raises(ValueError, match="is 0 for all 72 spots"):
        sti.io.read(whole)


# HEST-1k


def test_hest(slide, tmp_path):
    write_hest(tmp_path, {"TENX1": slide}, pixel_size_um_estimated=1.0)
    found = sti.io.read(tmp_path / "st" / "TENX1.h5ad")
    assert_holds(found, slide)
    assert_ready(found, slide)
    note = found.uns[NOTE]
    assert note["format"] == "HEST-1k"
    assert (note["tissue"], note["species"], note["donor"]) == ("Breast", "Homo sapiens", "a study: Patient 1")
    assert found.obs["donor"].unique().tolist() == ["a study: Patient 1"]
    library = found.uns["spatial"]["TENX1"]
    assert library["images"]["hires"].max() == 100
    assert library["scalefactors"]["tissue_hires_scalef"] == 0.1
    assert library["metadata"]["source_image_path"] == str(tmp_path / "wsis" / "TENX1.tif")
    # Patches come from the whole image.
    patches = sti.data.SlideImage.from_anndata(found)
    assert patches is not None
    assert "in_tissue" not in found.obs


def test_hest_with_array_positions_that_were_numbered_again(slide, tmp_path):
    slide.obs["array_row"] = np.random.default_rng(0).permutation(slide.obs["array_row"].to_numpy())
    write_hest(tmp_path, {"TENX1": slide})
    found = sti.io.read(tmp_path / "st" / "TENX1.h5ad", images=False)
    assert "array_row" not in found.obs
    assert found.uns[NOTE]["dropped"] == {"array positions that contradict the pixels": slide.n_obs}
    sti.pp.compact_grid(found)
    assert found.uns["grid"]["slides"]["source"].tolist() == ["spatial"]


def test_hest_with_x_and_y_exchanged(tmp_path):
    wide = visium(5, 30, seed=1)
    write_hest(tmp_path, {"NCBI1": wide})
    path = tmp_path / "st" / "NCBI1.h5ad"
    changed = ad.read_h5ad(path)
    changed.obsm["spatial"] = changed.obsm["spatial"][:, ::-1].copy()
    changed.write_h5ad(path)
    with pytest.raises(ValueError, match="lie outside of the image 'NCBI1.tif'.*exchanged all lie inside"):
        sti.io.read(path)


# STimage-1K4M


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
def test_stimage_1k4m(slide, tmp_path, kind):
    slide.var_names = [*slide.var_names[:-1], slide.var_names[0]]  # symbols of several genes
    write_stimage_1k4m(tmp_path, {"GSE1_GSM2": slide})
    Image.new("RGB", (900, 800), (10, 20, 30)).save(tmp_path / "Visium/image/GSE1_GSM2.png", format=kind)
    for file in ("coord/GSE1_GSM2_coord.csv", "gene_exp/GSE1_GSM2_count.csv"):
        found = sti.io.read(tmp_path / "Visium" / file)
        found.obs_names = found.obs_names.str.removeprefix("GSE1_GSM2_")
        genes = [*slide.var_names[:-1], f"{slide.var_names[0]}-1"]
        assert_holds(found, slide, genes=genes)
        del slide.obs["array_row"], slide.obs["array_col"]
        assert_ready(found, slide)
        slide = visium_again(slide)
    note = found.uns[NOTE]
    facts = {name: note[name] for name in ("slide", "species", "tissue", "technology", "study", "donor")}
    assert facts == {
        "slide": "GSE1_GSM2", "species": "human", "tissue": "brain", "technology": "Visium", "study": "1", "donor": "",
    }  # fmt: skip
    library = found.uns["spatial"]["GSE1_GSM2"]
    assert library["scalefactors"]["spot_diameter_fullres"] == 55
    assert library["images"]["hires"].shape == (800, 900, 3)
    assert np.abs(library["images"]["hires"].reshape(-1, 3).astype(int) - [10, 20, 30]).max() <= 2


def visium_again(slide):
    adata = slide.copy()
    fresh = visium(9, 8, n_genes=12, seed=3)
    adata.obs[["array_row", "array_col"]] = fresh.obs[["array_row", "array_col"]]
    return adata


def test_stimage_1k4m_names_of_legacy_spots_are_array_positions_if_they_agree(tmp_path):
    row, col = (part.ravel() for part in np.mgrid[3:13, 5:17])
    names = [f"{c}x{r}" for r, c in zip(row, col, strict=True)]
    rng = np.random.default_rng(0)
    adata = ad.AnnData(
        sparse.csr_matrix(rng.poisson(3.0, (len(row), 6)).astype(np.float32)), obs=pd.DataFrame(index=names)
    )
    adata.obsm["spatial"] = np.column_stack([col, row]) * 220.0 + rng.normal(0, 8, (len(row), 2)).round(2)
    write_stimage_1k4m(tmp_path, {"true": adata}, technology="ST")
    found = sti.io.read(tmp_path / "ST/coord/true_coord.csv")
    assert found.obs["array_col"].tolist() == [int(name.split("_")[1].split("x")[0]) for name in found.obs_names]
    adata.obsm["spatial"] = adata.obsm["spatial"][rng.permutation(adata.n_obs)]
    write_stimage_1k4m(tmp_path, {"false": adata}, technology="ST")
    assert "array_col" not in sti.io.read(tmp_path / "ST/coord/false_coord.csv").obs


def test_stimage_1k4m_that_does_not_fit(slide, tmp_path):
    write_stimage_1k4m(tmp_path, {"a": slide, "b": slide[:30].copy()})
    counts, coord = (tmp_path / "Visium" / part for part in ("gene_exp/a_count.csv", "coord/a_coord.csv"))
    text = counts.read_text()
    counts.write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match="has 12 genes, but line .* numbers: the file is cut off"):
        sti.io.read(counts)
    pd.read_csv(tmp_path / "Visium/gene_exp/b_count.csv", index_col=0).T.to_csv(counts)
    with pytest.raises(ValueError, match="are not the files of one slide, or the table of counts has genes as rows"):
        sti.io.read(counts)
    counts.write_text(text)
    pd.read_csv(coord, index_col=0)[5:].to_csv(coord)
    found = sti.io.read(counts)
    assert found.uns[NOTE]["dropped"] == {"spots without coordinates": 5}
    assert found.n_obs == slide.n_obs - 5
    coord.unlink()
    with pytest.raises(FileNotFoundError, match="Slide 'a' of STimage-1K4M lacks .*a_coord.csv"):
        sti.io.read(counts)


def test_a_copy_of_a_collection_is_no_slide(slide, tmp_path):
    write_stimage_1k4m(tmp_path, {"a": slide})
    with pytest.raises(ValueError, match="is a copy of STimage-1K4M, which holds many slides"):
        sti.io.read(tmp_path)


# Space Ranger


@pytest.mark.parametrize("positions", ["tissue_positions.csv", "tissue_positions_list.csv", "tissue_positions.parquet"])
@pytest.mark.parametrize("prefix", ["", "V1_Human_Heart_"])
def test_space_ranger(slide, tmp_path, positions, prefix):
    folder = tmp_path / "patient_3" / "outs"
    write_positions(folder / "spatial" / positions, slide)
    write_10x_h5(folder / f"{prefix}filtered_feature_bc_matrix.h5", slide)
    name = prefix.rstrip("_") or "patient_3"
    for path in (folder, folder / f"{prefix}filtered_feature_bc_matrix.h5", folder.parent):
        found = sti.io.read(path)
        assert_holds(found, slide)
        assert_ready(found, slide)
        assert found.uns[NOTE]["slide"] == name
        assert list(found.uns["spatial"]) == [name]
    assert found.var["gene_ids"].iloc[1] == "ENSG00000000001"


@pytest.mark.parametrize("form", ["h5", "packed", "unpacked"])
def test_raw_matrix_loses_what_is_not_under_tissue(slide, tmp_path, form):
    inside = np.arange(slide.n_obs) % 3 > 0
    write_positions(tmp_path / "spatial" / "tissue_positions.csv", slide, in_tissue=inside)
    if form == "h5":
        write_10x_h5(tmp_path / "raw_feature_bc_matrix.h5", slide)
    else:
        write_10x_folder(tmp_path / "raw_feature_bc_matrix", slide, packed=form == "packed")
    found = sti.io.read(tmp_path)
    assert_holds(found, slide, inside)
    assert found.uns[NOTE]["dropped"] == {"spots outside of tissue (in_tissue is 0)": (~inside).sum()}
    # A filtered matrix beside it is the one that is meant.
    write_10x_h5(tmp_path / "filtered_feature_bc_matrix.h5", slide[inside])
    assert sti.io.read(tmp_path).uns[NOTE]["counts"] == "filtered_feature_bc_matrix.h5"


def test_antibodies_are_left_out_with_a_note(slide, tmp_path):
    kinds = ["Gene Expression"] * 9 + ["Antibody Capture"] * 3
    write_positions(tmp_path / "spatial" / "tissue_positions.csv", slide)
    write_10x_h5(tmp_path / "filtered_feature_bc_matrix.h5", slide, kinds=kinds)
    found = sti.io.read(tmp_path)
    assert_holds(found, slide, genes=slide.var_names[:9])
    assert found.uns[NOTE]["dropped"] == {"features of type Antibody Capture": 3}
    write_10x_h5(tmp_path / "filtered_feature_bc_matrix.h5", slide, kinds=["Antibody Capture"] * 12)
    with pytest.raises(ValueError, match="no features of type 'Gene Expression', only 'Antibody Capture'"):
        sti.io.read(tmp_path)


def test_pictures_are_read_where_they_are_there(slide, tmp_path):
    write_positions(tmp_path / "spatial" / "tissue_positions.csv", slide)
    write_10x_h5(tmp_path / "filtered_feature_bc_matrix.h5", slide)
    factors = {"tissue_hires_scalef": 0.5, "tissue_lowres_scalef": 0.1, "spot_diameter_fullres": 55.0}
    (tmp_path / "spatial" / "scalefactors_json.json").write_text(json.dumps(factors))
    (library,) = sti.io.read(tmp_path).uns["spatial"].values()
    assert library == {"images": {}, "scalefactors": factors}
    Image.new("RGB", (60, 50), (1, 2, 3)).save(tmp_path / "spatial" / "tissue_lowres_image.png")
    (library,) = sti.io.read(tmp_path).uns["spatial"].values()
    assert {name: image.shape for name, image in library["images"].items()} == {"lowres": (50, 60, 3)}
    (library,) = sti.io.read(tmp_path, images=False).uns["spatial"].values()
    assert library["images"] == {}


def test_segmented_cells_of_visium_hd(slide, tmp_path):
    shapely = pytest.importorskip("shapely")
    folder = tmp_path / "lung" / "outs" / "segmented_outputs"
    folder.mkdir(parents=True)
    cells = slide.copy()
    cells.obs_names = [f"cellid_{number:09d}-1" for number in range(1, slide.n_obs + 1)]
    write_10x_h5(folder / "filtered_feature_cell_matrix.h5", cells)
    features = [
        {
            "type": "Feature",
            "properties": {"cell_id": number},
            "geometry": json.loads(shapely.to_geojson(shapely.Point(xy).buffer(3 + number % 4, quad_segs=8))),
        }
        for number, xy in enumerate(slide.obsm["spatial"], 1)
    ]
    path = folder / "cell_segmentations.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features[::-1]}))
    found = sti.io.read(folder)
    np.testing.assert_allclose(found.obsm["spatial"], slide.obsm["spatial"], atol=1e-6)
    np.testing.assert_array_equal(dense(found), dense(slide))
    assert (found.uns[NOTE]["slide"], found.uns[NOTE]["technology"]) == ("lung_segmented_outputs", "Visium HD")
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features[1:]}))
    with pytest.raises(ValueError, match=r"has no outline of 1 of 72 cells \(e.g. 'cellid_000000001-1'\)"):
        sti.io.read(folder)


def test_space_ranger_that_is_not_whole(slide, tmp_path):
    write_10x_h5(tmp_path / "A_filtered_feature_bc_matrix.h5", slide)
    (tmp_path / "A_spatial.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="has no positions beside it.*Unpack 'A_spatial.tar.gz' first"):
        sti.io.read(tmp_path)
    write_positions(tmp_path / "spatial" / "tissue_positions.csv", slide[5:])
    with pytest.raises(ValueError, match=r"5 of 72 are missing, e.g. 'spot"):
        sti.io.read(tmp_path)
    write_10x_h5(tmp_path / "B_filtered_feature_bc_matrix.h5", slide)
    with pytest.raises(ValueError, match="has matrices of several samples.*pass the file of one of them"):
        sti.io.read(tmp_path)


def test_probes_are_refused(slide, tmp_path):
    write_10x_h5(tmp_path / "raw_probe_bc_matrix.h5", slide)
    for path in (tmp_path, tmp_path / "raw_probe_bc_matrix.h5"):
        with pytest.raises(ValueError, match="has counts of probes, several of which belong to one gene"):
            sti.io.read(path)


# Options and paths


def test_options_that_would_be_without_effect(slide, tmp_path):
    slide.write_h5ad(tmp_path / "a.h5ad")
    for options, name in (({"table": "t"}, "table"), ({"bin_size": 5}, "bin_size")):
        with pytest.raises(ValueError, match=f"`{name}` does not apply to AnnData, which takes 'layer'"):
            sti.io.read(tmp_path / "a.h5ad", **options)


def test_damaged_files(slide, tmp_path):
    (tmp_path / "torn.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40))
    with pytest.raises(ValueError, match=r"torn.h5ad': it cannot be read \(OSError: "):
        sti.io.read(tmp_path / "torn.h5ad")
    write_hest(tmp_path / "copy", {"A": slide, "B": slide})
    (tmp_path / "copy" / "metadata" / "A.json").write_text("{")
    assert sti.io.list_slides(tmp_path / "copy")["species"].tolist() == ["", "Homo sapiens"]
    with pytest.raises(ValueError, match="A.json' is no JSON .* download it again"):
        sti.io.read(tmp_path / "copy" / "st" / "A.h5ad")


def test_home(slide, tmp_path, monkeypatch):
    slide.write_h5ad(tmp_path / "a.h5ad")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sti.io.read("~/a.h5ad").n_obs == slide.n_obs


def test_what_is_of_no_format(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no '.*nowhere'"):
        sti.io.read(tmp_path / "nowhere")
    (tmp_path / "note.txt").write_text("")
    with pytest.raises(ValueError, match="of no other format that is read.*it has 'note.txt'"):
        sti.io.read(tmp_path)
    (tmp_path / "all.zip").write_bytes(b"")
    with pytest.raises(ValueError, match="It is packed: unpack it"):
        sti.io.read(tmp_path / "all.zip")
    (tmp_path / "transcripts.csv").write_text("")
    with pytest.raises(ValueError, match=r"It has molecules \('transcripts.csv'\) and no counts of cells"):
        sti.io.read(tmp_path)
    with pytest.raises(TypeError, match="`source` must be a path, found int"):
        sti.io.read(3)
