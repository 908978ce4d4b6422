import sys

import numpy as np
import pytest
from anndata import AnnData, read_h5ad
from PIL import Image

import stimage as sti

spatialdata = pytest.importorskip("spatialdata")

from spatialdata import SpatialData  # noqa: E402
from spatialdata.datasets import blobs  # noqa: E402
from spatialdata.models import Image2DModel, Labels2DModel, ShapesModel, TableModel  # noqa: E402
from spatialdata.transformations import Affine, Identity, Scale, Sequence, Translation  # noqa: E402

MICRONS = 0.5  # per pixel
ORIGIN = (300.0, 120.0)


def pixels(height=400, width=600, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(50, 206, (height // 20, width // 20, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def image_element(picture, transformation, **options):
    return Image2DModel.parse(
        np.moveaxis(picture, 2, 0), dims=("c", "y", "x"), transformations={"global": transformation}, **options
    )


def section(*, picture=None, origin=ORIGIN, transformation=None, n=15, **options):
    """Circles in microns on an image that lies at an origin of its own, and a table of them in another order."""
    picture = pixels() if picture is None else picture
    rng = np.random.default_rng(1)
    xy = np.array(origin) + rng.uniform(0.1, 0.9, (n, 2)) * np.array(picture.shape[1::-1]) * MICRONS
    names = np.array([f"spot{i}" for i in range(n)])
    circles = ShapesModel.parse(xy, geometry=0, radius=5.0, index=names, transformations={"global": Identity()})
    order = rng.permutation(n)
    table = AnnData(rng.poisson(2.0, (n, 6)).astype(np.float32))
    table.obs_names = names[order]
    table.obs["region"] = "spots"
    table.obs["region"] = table.obs["region"].astype("category")
    table.obs["instance"] = names[order]
    table = TableModel.parse(table, region="spots", region_key="region", instance_key="instance")
    placed = Sequence([Scale([MICRONS, MICRONS], ("x", "y")), Translation(list(origin), ("x", "y"))])
    image = image_element(picture, transformation or placed, **options)
    return SpatialData(images={"tissue": image}, shapes={"spots": circles}, tables={"table": table}), xy[order]


def test_positions_are_those_of_the_annotated_shapes():
    sdata, xy = section()
    adata = sti.pp.from_spatialdata(sdata)
    np.testing.assert_allclose(adata.obsm["spatial"], xy)
    assert adata.obsm["spatial"].dtype == np.float64
    assert adata.obs["region"].tolist() == ["spots"] * adata.n_obs
    assert "spatial" not in adata.uns
    np.testing.assert_array_equal(adata.X, sdata.tables["table"].X)
    assert "spatial" not in sdata.tables["table"].obsm
    adata.X[0] = 0
    assert sdata.tables["table"].X[0].any()


def test_labels_and_several_regions():
    """Against centroids computed from the pixels, in a coordinate system that is scaled and flipped."""
    labels = np.zeros((60, 80), dtype=np.int32)
    labels[5:15, 10:30] = 7
    labels[40:50, 60:64] = 3
    labels[30:31, 0:1] = 12
    flipped = Affine([[2, 0, 100], [0, -2, 50], [0, 0, 1]], ("x", "y"), ("x", "y"))
    table = AnnData(np.ones((5, 2), np.float32))
    table.obs["where"] = ["cells", "spots", "cells", "spots", "cells"]
    table.obs["where"] = table.obs["where"].astype("category")
    table.obs["which"] = [12, 0, 3, 1, 7]
    sdata = SpatialData(
        labels={"cells": Labels2DModel.parse(labels, dims=("y", "x"), transformations={"aligned": flipped})},
        shapes={
            "spots": ShapesModel.parse(
                np.array([[1.0, 2.0], [3.0, 4.0]]), geometry=0, radius=1.0, transformations={"aligned": Identity()}
            )
        },
        tables={"counts": TableModel.parse(table, region=["cells", "spots"], region_key="where", instance_key="which")},
    )
    adata = sti.pp.from_spatialdata(sdata, table="counts", coordinate_system="aligned")
    for i, label in ((0, 12), (2, 3), (4, 7)):
        y, x = (index.mean() + 0.5 for index in np.nonzero(labels == label))  # a pixel's middle
        np.testing.assert_allclose(adata.obsm["spatial"][i], [2 * x + 100, -2 * y + 50])
    np.testing.assert_allclose(adata.obsm["spatial"][[1, 3]], [[1, 2], [3, 4]])
    assert sti.pp.build_niches(adata, slide_key="where", copy=True).uns["niche"]["slides"].index.tolist() == [
        "cells",
        "spots",
    ]


@pytest.mark.parametrize("scale_factors", [None, [2, 2]])
def test_patches_lie_where_the_image_does(scale_factors):
    picture = pixels()
    sdata, xy = section(picture=picture, scale_factors=scale_factors)
    image = sti.data.SlideImage.from_spatialdata(sdata, "tissue")
    assert image.scale == pytest.approx(1 / MICRONS)
    assert image.origin == pytest.approx(ORIGIN)
    assert image.size == (600, 400)
    boxes = sti.data.square_boxes(xy, 40 * MICRONS)
    patches, padded = image.patches(boxes, 40)
    direct = sti.data.SlideImage(picture).patches((boxes - np.tile(ORIGIN, 2)) / MICRONS, 40)
    np.testing.assert_allclose(patches.astype(int), direct[0], atol=1)
    np.testing.assert_allclose(padded, direct[1], atol=1e-6)
    if scale_factors:  # a patch of few pixels is cut from a coarse level, whose pixels are means of blocks
        assert image._source.sizes == [(600, 400), (300, 200), (150, 100)]
        blocks = picture.reshape(100, 4, 150, 4, 3).mean(axis=(1, 3))
        (patch,), _ = image.patches(np.array([[*ORIGIN, ORIGIN[0] + 150, ORIGIN[1] + 150]]), 75)
        np.testing.assert_allclose(patch[5:-5, 5:-5].astype(float), blocks[5:70, 5:70], atol=3)


def test_patches_are_read_lazily():
    import dask.array

    computed = []

    def block(block_info=None):
        computed.append(block_info[None]["chunk-location"])
        return np.full((3, 100, 100), 100, dtype=np.uint8)

    lazy = dask.array.map_blocks(
        block, chunks=((3,), (100,) * 20, (100,) * 20), dtype=np.uint8, meta=np.empty((0, 0, 0))
    )
    element = Image2DModel.parse(lazy, dims=("c", "y", "x"), transformations={"global": Identity()})
    image = sti.data.SlideImage.from_spatialdata(SpatialData(images={"large": element}), "large")
    computed.clear()
    image.patches(sti.data.square_boxes(np.array([[950.0, 1050.0], [950.0, 1080.0], [960.0, 1060.0]]), 30), 32)
    assert computed == [(0, 10, 9)]


@pytest.mark.parametrize("scale_factors", [None, [2, 2]])
@pytest.mark.parametrize("origin", [ORIGIN, (0.0, 0.0), (-30.3, -60.6)])
def test_the_rendering_lies_under_the_spots(scale_factors, origin):
    """Patches from the reduced image in uns agree with those from the element itself."""
    picture = pixels(1800, 3000)
    sdata, _ = section(picture=picture, origin=origin, scale_factors=scale_factors)
    adata = sti.pp.from_spatialdata(sdata, image="tissue")
    library = adata.uns["spatial"]["spots"]
    hires, scale = library["images"]["hires"], library["scalefactors"]["tissue_hires_scalef"]
    assert hires.dtype == np.uint8
    assert 1000 <= max(hires.shape) <= 2000
    assert 1 / scale / MICRONS == pytest.approx(round(1 / scale / MICRONS))
    assert library["scalefactors"]["spot_diameter_fullres"] == pytest.approx(10.0)
    rendered = sti.data.SlideImage.from_anndata(adata)
    assert rendered.scale == scale
    assert np.allclose(np.array(hires.shape[1::-1]) / scale, np.array(origin) + [1500, 900], atol=2)
    boxes = sti.data.square_boxes(adata.obsm["spatial"], 60.0)
    patches = rendered.patches(boxes, 16)[0].astype(float)
    direct = sti.data.SlideImage.from_spatialdata(sdata, "tissue").patches(boxes, 16)[0].astype(float)
    assert np.abs(patches - direct).mean() < 6
    assert np.abs(patches - direct[::-1]).mean() > 15


def test_figures_and_files_work_with_the_result(tmp_path):
    sdata, _ = section()
    adata = sti.pp.from_spatialdata(sdata, image={"spots": "tissue"})
    sti.pp.build_niches(adata)
    assert sti.pl.niches(adata).axes[0].get_title() == "spots"
    assert len(sti.pl.domains(adata, color="region").axes[0].images) == 1
    adata.write_h5ad(tmp_path / "section.h5ad")
    read = read_h5ad(tmp_path / "section.h5ad")
    assert sti.data.SlideImage.from_anndata(read).fingerprint == sti.data.SlideImage.from_anndata(adata).fingerprint


def test_blobs():
    sdata = blobs()
    adata = sti.pp.from_spatialdata(sdata, image="blobs_multiscale_image")
    labels = np.asarray(sdata["blobs_labels"])
    expected = [np.array(np.nonzero(labels == label))[::-1].mean(axis=1) + 0.5 for label in adata.obs["instance_id"]]
    np.testing.assert_allclose(adata.obsm["spatial"], expected, rtol=1e-6)
    assert adata.uns["spatial"]["blobs_labels"]["images"]["hires"].shape == (512, 512, 3)
    image = sti.data.SlideImage.from_spatialdata(sdata, "blobs_image")
    patches, _ = image.patches(np.array([[100.0, 50, 132, 82]]), 32)
    stored = np.moveaxis(np.asarray(sdata["blobs_image"]), 0, 2)[50:82, 100:132]
    np.testing.assert_allclose(patches[0], 255 * stored, atol=1)


def test_channels_are_taken_by_name():
    picture = pixels(40, 60)
    mixed = image_element(picture[:, :, ::-1], Identity(), c_coords=["b", "g", "r"])
    image = sti.data.SlideImage.from_spatialdata(SpatialData(images={"tissue": mixed}), "tissue")
    np.testing.assert_array_equal(image.patches(np.array([[0.0, 0, 30, 30]]), 30)[0][0], picture[:30, :30])


@pytest.mark.parametrize(
    "matrix",
    [[[0, -1, 0], [1, 0, 0]], [[1, 0.1, 0], [0, 1, 0]], [[-1, 0, 600], [0, 1, 0]], [[1, 0, 0], [0, 1.1, 0]]],
    ids=["rotated", "sheared", "flipped", "stretched"],
)
def test_other_transformations_are_refused(matrix):
    sdata, _ = section(transformation=Affine([*matrix, [0, 0, 1]], ("x", "y"), ("x", "y")))
    for read in (
        lambda: sti.data.SlideImage.from_spatialdata(sdata, "tissue"),
        lambda: sti.pp.from_spatialdata(sdata, image="tissue"),
    ):
        with pytest.raises(ValueError, match="must be a scale, one for both axes, and a translation, found"):
            read()


def test_errors():
    sdata, _ = section()
    with pytest.raises(TypeError, match="`sdata` must be a SpatialData, found AnnData"):
        sti.pp.from_spatialdata(sdata.tables["table"])
    with pytest.raises(KeyError, match="`table`='counts'.*'table'"):
        sti.pp.from_spatialdata(sdata, table="counts")
    with pytest.raises(KeyError, match="`coordinate_system`='nowhere'.*'global'"):
        sti.pp.from_spatialdata(sdata, coordinate_system="nowhere")
    with pytest.raises(KeyError, match="`image`='spots' is not an image.*'tissue'"):
        sti.pp.from_spatialdata(sdata, image="spots")
    with pytest.raises(KeyError, match="regions 'cells' that the table has not.*'spots'"):
        sti.pp.from_spatialdata(sdata, image={"cells": "tissue"})
    with pytest.raises(KeyError, match="is not an image"):
        sti.data.SlideImage.from_spatialdata(sdata, "nothing")
    with pytest.raises(TypeError, match="SpatialData"):
        sti.data.SlideImage.from_spatialdata("sdata", "tissue")
    sdata.tables["table"].obs["instance"] = ["gone", *sdata.tables["table"].obs["instance"][1:]]
    with pytest.raises(ValueError, match="1 observations annotate instances of 'spots' that are not there.*'gone'"):
        sti.pp.from_spatialdata(sdata)
    del sdata.tables["table"].uns["spatialdata_attrs"]
    with pytest.raises(ValueError, match="annotates no shapes or labels"):
        sti.pp.from_spatialdata(sdata)
    far, _ = section(transformation=Translation([-10_000, 0], ("x", "y")))
    with pytest.raises(ValueError, match="none of it is on the positive side"):
        sti.pp.from_spatialdata(far, image="tissue")


def test_the_missing_package_is_named_with_its_extra(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "spatialdata"]:
        monkeypatch.setitem(sys.modules, name, None)
    for read in (
        lambda: sti.pp.from_spatialdata(None),
        lambda: sti.data.SlideImage.from_spatialdata(None, "tissue"),
    ):
        with pytest.raises(ImportError, match=r"spatialdata.*stimage\[spatialdata\]"):
            read()
