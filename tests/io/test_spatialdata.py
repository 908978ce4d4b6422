"""SpatialData in the shapes that spatialdata-io gives it."""

import numpy as np
import pandas as pd
import pytest
from helpers import assert_unchanged
from scipy import sparse
from slides import visium

import stimage as sti

spatialdata = pytest.importorskip("spatialdata")

from spatialdata.models import Image2DModel, Labels2DModel, ShapesModel, TableModel  # noqa: E402
from spatialdata.transformations import Identity, Scale, Translation  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
NOTE = "stimage_source"


def circles(adata, transformations, radius=27.5):
    return ShapesModel.parse(
        adata.obsm["spatial"], geometry=0, radius=radius, index=np.arange(adata.n_obs), transformations=transformations
    )


def table(adata, region, *, region_key="region", instances=None):
    adata = adata.copy()
    adata.obs[region_key] = pd.Categorical([region] * adata.n_obs)
    adata.obs["instance"] = np.arange(adata.n_obs) if instances is None else instances
    del adata.obsm["spatial"]
    return TableModel.parse(adata, region=region, region_key=region_key, instance_key="instance")


def visium_sdata(adata, dataset="heart", *, bins=()):
    """Visium, or Visium HD with a table for each bin size: nothing is in 'global'."""
    systems = {
        dataset: Identity(),
        f"{dataset}_downscaled_hires": Scale([0.1, 0.1], axes=("x", "y")),
        f"{dataset}_downscaled_lowres": Scale([0.03, 0.03], axes=("x", "y")),
    }
    pixels = np.full((3, 60, 60), 7, np.uint8)
    images = {
        f"{dataset}_hires_image": Image2DModel.parse(
            pixels, dims=("c", "y", "x"), transformations={f"{dataset}_downscaled_hires": Identity()}
        )
    }
    names = {f"square_{size:03}um": f"{dataset}_square_{size:03}um" for size in bins} or {"table": dataset}
    shapes = {region: circles(adata, systems) for region in names.values()}
    tables = {name: table(adata, region) for name, region in names.items()}
    return spatialdata.SpatialData(images=images, shapes=shapes, tables=tables)


def test_visium(tmp_path):
    slide = visium(9, 8, seed=1)
    visium_sdata(slide).write(tmp_path / "P1.zarr")
    for source in (tmp_path / "P1.zarr", visium_sdata(slide)):
        found = sti.io.read(source)
        np.testing.assert_array_equal(found.X.toarray(), slide.X.toarray())
        np.testing.assert_allclose(found.obsm["spatial"], slide.obsm["spatial"])
        assert "in 'heart'" in found.uns[NOTE]["coordinates"]
        sti.pp.compact_grid(found)
        assert found.uns["grid"]["slides"]["layout"].tolist() == ["hex"]
    assert sti.io.read(tmp_path / "P1.zarr").uns[NOTE]["slide"] == "P1"
    small = sti.io.read(tmp_path / "P1.zarr", coordinate_system="heart_downscaled_hires")
    np.testing.assert_allclose(small.obsm["spatial"], 0.1 * slide.obsm["spatial"])
    corpus = sti.pp.build_corpus(tmp_path / "P1.zarr", tmp_path / "corpus", genes=slide.var_names)
    assert [s.name for s in corpus] == ["P1"]


def test_visium_hd_tables_are_listed(tmp_path):
    sdata = visium_sdata(visium(6, 6), bins=(8, 16))
    with pytest.raises(ValueError, match="has 2 tables: pass one of 'square_008um', 'square_016um' as `table=`"):
        sti.io.read(sdata)
    assert sti.io.read(sdata, table="square_016um").uns[NOTE]["counts"] == "table 'square_016um', X"
    with pytest.raises(KeyError, match="`table`='square_002um' is not a table of the SpatialData: 'square_008um'"):
        sti.io.read(sdata, table="square_002um")


def labels(size=120, step=20, radius=3, first=1):
    """Discs on a raster; their numbers and centres."""
    y, x = np.mgrid[:size, :size]
    pixels, centres, number = np.zeros((size, size), np.int32), {}, first
    for row in range(step // 2, size, step):
        for col in range(step // 2, size, step):
            pixels[(y - row) ** 2 + (x - col) ** 2 <= radius**2] = number
            centres[number] = (col + 0.5, row + 0.5)
            number += 1
    return pixels, centres


def counts_of(n, seed=0):
    adata = visium(6, n // 6 + 1, seed=seed)[:n].copy()
    adata.X = sparse.csr_matrix(adata.X)
    return adata


def test_xenium_annotates_labels_in_global():
    pixels, centres = labels()
    adata = counts_of(len(centres))
    element = Labels2DModel.parse(
        pixels, dims=("y", "x"), transformations={"global": Scale([2.0, 2.0], axes=("x", "y"))}
    )
    numbers = np.array(list(centres))[::-1]
    sdata = spatialdata.SpatialData(
        labels={"cell_labels": element}, tables={"table": table(adata, "cell_labels", instances=numbers)}
    )
    found = sti.io.read(sdata)
    np.testing.assert_allclose(found.obsm["spatial"], 2.0 * np.array([centres[n] for n in numbers]))
    assert found.uns[NOTE]["slide_key"] == "slide"


def test_merscope_annotates_polygons(tmp_path):
    import geopandas
    import shapely

    adata = counts_of(30)
    squares = geopandas.GeoDataFrame(
        geometry=[shapely.box(x - 2, y - 2, x + 2, y + 2) for x, y in adata.obsm["spatial"]]
    )
    shapes = ShapesModel.parse(squares, transformations={"global": Translation([5.0, 7.0], axes=("x", "y"))})
    sdata = spatialdata.SpatialData(shapes={"cells": shapes}, tables={"table": table(adata, "cells")})
    found = sti.io.read(sdata)
    np.testing.assert_allclose(found.obsm["spatial"], adata.obsm["spatial"] + [5, 7])


def test_cosmx_fields_are_one_slide():
    """A table over the labels of each field of view, which lie beside each other in 'global'."""
    import anndata as ad

    elements, parts, expected = {}, [], []
    for field in (1, 2):
        pixels, centres = labels()
        shift = {"global": Translation([130.0 * field, 0.0], axes=("x", "y")), str(field): Identity()}
        elements[f"{field}_labels"] = Labels2DModel.parse(pixels, dims=("y", "x"), transformations=shift)
        part = counts_of(len(centres), seed=field)
        part.obs_names = [f"{n}_{field}" for n in centres]
        part.obs["fov"], part.obs["instance"] = f"{field}_labels", list(centres)
        parts.append(part)
        expected.append(np.array(list(centres.values())) + [130.0 * field, 0])
    both = ad.concat(parts)
    both.obs["fov"] = pd.Categorical(both.obs["fov"])
    del both.obsm["spatial"]
    parsed = TableModel.parse(both, region=list(elements), region_key="fov", instance_key="instance")
    found = sti.io.read(spatialdata.SpatialData(labels=elements, tables={"table": parsed}))
    np.testing.assert_allclose(found.obsm["spatial"], np.concatenate(expected))
    assert found.uns[NOTE]["slide_key"] == "slide"
    assert found.obs["slide"].nunique() == 1


def test_coordinate_systems_that_cannot_be_told_apart_are_listed():
    adata = visium(5, 5)
    systems = {"one": Identity(), "two": Scale([2.0, 2.0], axes=("x", "y"))}
    sdata = spatialdata.SpatialData(shapes={"spots": circles(adata, systems)}, tables={"table": table(adata, "spots")})
    with pytest.raises(ValueError, match="'spots': 'one', 'two'.*pass `coordinate_system=`"):
        sti.io.read(sdata)
    np.testing.assert_allclose(sti.io.read(sdata, coordinate_system="two").obsm["spatial"], 2 * adata.obsm["spatial"])
    with pytest.raises(KeyError, match="`coordinate_system`='three' is not in the SpatialData"):
        sti.io.read(sdata, coordinate_system="three")


def test_the_image_that_lies_under_the_spots(tmp_path):
    adata = visium(9, 8)
    pixels = np.full((3, 900, 900), 50, np.uint8)
    image = Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations={"global": Identity()})
    sdata = spatialdata.SpatialData(
        images={"he": image},
        shapes={"spots": circles(adata, {"global": Identity()})},
        tables={"table": table(adata, "spots")},
    )
    assert sti.io.read(sdata).uns["spatial"]["spots"]["images"]["hires"].max() == 50
    assert "spatial" not in sti.io.read(sdata, images=False).uns


def test_tables_that_cannot_be_used():
    adata = visium(5, 5)
    shapes = {"spots": circles(adata, {"global": Identity()})}
    with pytest.raises(ValueError, match="has no table: count molecules"):
        sti.io.read(spatialdata.SpatialData(shapes=shapes))
    lost = spatialdata.SpatialData(shapes=shapes, tables={"table": table(adata, "other")})
    with pytest.raises(KeyError, match="annotates 'other', which is not in the SpatialData"):
        sti.io.read(lost)
    logged = adata.copy()
    logged.layers["counts"] = logged.X.copy()
    logged.X = np.log1p(logged.X)
    sdata = spatialdata.SpatialData(shapes=shapes, tables={"table": table(logged, "spots")})
    with assert_unchanged(sdata.tables["table"]):
        found = sti.io.read(sdata)
    assert found.uns[NOTE]["counts"] == "table 'table', layers['counts']"
    np.testing.assert_array_equal(found.X.toarray(), adata.X.toarray())
