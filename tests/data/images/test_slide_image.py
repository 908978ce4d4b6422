import pickle
import re
import tracemalloc
import warnings

import numpy as np
import pytest
import tifffile
from anndata import AnnData, read_h5ad
from helpers import assert_unchanged
from PIL import Image

from stimage.data import SlideImage, square_boxes
from stimage.data.images._tiff import TiffSource


def tissue_image(height=300, width=400, seed=0):
    """A smooth random RGB image, whose reductions resemble it; no interpolation of it overshoots black or white."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(50, 206, (height // 20, width // 20, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def slow_patch(pixels, box, size):
    """The whole image with a wide white border, then Pillow's resize of the box."""
    border = 1000
    padded = np.full((pixels.shape[0] + 2 * border, pixels.shape[1] + 2 * border, 3), 255, dtype=np.uint8)
    padded[border:-border, border:-border] = pixels
    box = tuple(np.asarray(box) + border)
    return np.asarray(Image.fromarray(padded).resize((size, size), Image.Resampling.BICUBIC, box=box))


def random_boxes(n, extent=(400, 300), seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.uniform(-50, np.array(extent) + 50, (n, 2))
    sides = rng.uniform(5, 250, (n, 2))
    return np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)


def slide(n=50, seed=0, extent=(400, 300), library=None):
    """Spots inside an image of this extent, with a library."""
    rng = np.random.default_rng(seed)
    adata = AnnData(np.ones((n, 2), np.float32))
    adata.obsm["spatial"] = rng.uniform(0.1, 0.9, (n, 2)) * extent
    if library is not None:
        adata.uns["spatial"] = {"library": library}
    return adata


@pytest.mark.parametrize("size", [16, 64, 224])
def test_patches_against_resizing_the_padded_image(size):
    pixels = tissue_image()
    boxes = random_boxes(40)
    patches, padded = SlideImage(pixels).patches(boxes, size)
    assert patches.dtype == np.uint8
    assert padded.dtype == np.float32
    for patch, box, share in zip(patches, boxes, padded, strict=True):
        off = np.abs(patch.astype(int) - slow_patch(pixels, box, size))
        # Pillow chooses by the image's size whether rows or columns are resized first. Where the first of them overshoots
        # white, as it may at the border of the image, the order is seen in single values.
        assert off.max() <= 2 or (share and (off > 2).mean() < 1e-3)
        assert off.mean() < 0.2
        inside = max(min(box[2], 400) - max(box[0], 0), 0) * max(min(box[3], 300) - max(box[1], 0), 0)
        assert share == pytest.approx(1 - inside / ((box[2] - box[0]) * (box[3] - box[1])), abs=1e-6)
    assert (padded == 0).any()
    assert (padded > 0.1).any()


def test_scale_and_origin_map_boxes_to_pixels():
    pixels = tissue_image()
    boxes = random_boxes(10)
    expected = SlideImage(pixels).patches(boxes, 32)
    moved = SlideImage(pixels, scale=0.25, origin=(1000, -500)).patches(boxes * 4 + [1000, -500, 1000, -500], 32)
    np.testing.assert_allclose(moved[0].astype(int), expected[0], atol=1)
    np.testing.assert_allclose(moved[1], expected[1], atol=1e-6)


def test_over_the_border_is_white_and_never_left_out():
    image = SlideImage(np.zeros((100, 200, 3), np.uint8))
    centres = [[0, 50], [200, 100], [100, 50], [-500, 50]]
    patches, padded = image.patches(square_boxes(np.array(centres), 40), 20)
    np.testing.assert_allclose(padded, [0.5, 0.75, 0, 1])
    assert (patches[0][:, :8] == 255).all()
    assert (patches[0][:, 12:] == 0).all()
    assert (patches[2] == 0).all()
    assert (patches[3] == 255).all()


def test_batches_are_the_patches_in_order():
    image = SlideImage(tissue_image())
    boxes = random_boxes(10)
    batches = list(image.iter_patches(boxes, 8, batch_size=4))
    assert [len(pixels) for pixels, _ in batches] == [4, 4, 2]
    patches, padded = image.patches(boxes, 8)
    np.testing.assert_array_equal(np.concatenate([pixels for pixels, _ in batches]), patches)
    np.testing.assert_array_equal(np.concatenate([share for _, share in batches]), padded)
    nothing = image.patches(np.empty((0, 4)), 8)
    assert nothing[0].shape == (0, 8, 8, 3)
    assert nothing[1].shape == (0,)


def write_pyramid(path, pixels, **options):
    options = {"tile": (64, 64), "photometric": "rgb", **options}
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(pixels, subifds=2, **options)
        for factor in (2, 4):
            file.write(np.ascontiguousarray(pixels[::factor, ::factor]), subfiletype=1, **options)


TIFF_FORMS = {
    "tiles": {"tile": (64, 64), "compression": "deflate", "photometric": "rgb"},
    "tiles, predictor": {"tile": (32, 48), "compression": "lzw", "predictor": True, "photometric": "rgb"},
    "tiles, as they are": {"tile": (64, 64), "photometric": "rgb"},
    "strips": {"rowsperstrip": 7, "compression": "deflate", "photometric": "rgb"},
    "one strip as it is": {"photometric": "rgb"},
    "big-endian": {"photometric": "rgb", "byteorder": ">", "bigtiff": True},
    "planes": {"tile": (64, 64), "photometric": "rgb", "planarconfig": "separate", "compression": "deflate"},
    "planes as they are": {"photometric": "rgb", "planarconfig": "separate"},
    "OME, a page per channel": {"ome": True, "metadata": {"axes": "CYX"}, "photometric": "minisblack"},
    "OME, tiles": {"ome": True, "metadata": {"axes": "YXS"}, "photometric": "rgb", "tile": (64, 64)},
}


@pytest.mark.parametrize("form", TIFF_FORMS)
def test_tiff_equals_the_array(tmp_path, form):
    pixels = tissue_image()
    path = tmp_path / "slide.tif"
    as_planes = "planes" in form or "channel" in form
    tifffile.imwrite(path, np.moveaxis(pixels, 2, 0) if as_planes else pixels, **TIFF_FORMS[form])
    image = SlideImage(path)
    assert isinstance(image._source, TiffSource)
    assert image.size == (400, 300)
    boxes = random_boxes(20)
    expected, padded = SlideImage(pixels).patches(boxes, 48)
    for other in (image, pickle.loads(pickle.dumps(image))):
        patches, shares = other.patches(boxes, 48)
        np.testing.assert_array_equal(patches, expected)
        np.testing.assert_array_equal(shares, padded)


@pytest.mark.parametrize("compression", [None, "deflate", "jpeg"])
def test_pyramid_is_read_at_the_level_that_is_fine_enough(tmp_path, compression):
    pixels = tissue_image(512, 640)
    path = tmp_path / "slide.tif"
    write_pyramid(path, pixels, compression=compression)
    image = SlideImage(path)
    assert image._source.sizes == [(640, 512), (320, 256), (160, 128)]
    levels = [pixels[::factor, ::factor] for factor in (1, 2, 4)]
    for side, level in [(30, 0), (64, 0), (127, 0), (128, 1), (250, 1), (256, 2), (500, 2)]:
        (patch,), _ = image.patches(square_boxes(np.array([[300.0, 260.0]]), side), 64)
        (expected,), _ = SlideImage(levels[level]).patches(
            square_boxes(np.array([[300.0, 260.0]]), side) / 2**level, 64
        )
        off = np.abs(patch.astype(int) - expected)
        assert off.mean() < 8 if compression == "jpeg" else off.max() == 0
    # Arrays at several resolutions are the same thing.
    from_arrays = SlideImage(levels).patches(random_boxes(20), 32)
    if compression != "jpeg":
        np.testing.assert_array_equal(from_arrays[0], image.patches(random_boxes(20), 32)[0])


def test_jpeg_tiles_in_ycbcr(tmp_path):
    """Colours as scanners store them: subsampled, with tables shared by the tiles."""
    pixels = tissue_image()
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, pixels, tile=(64, 64), photometric="rgb", compression="jpeg", subsampling=(2, 2))
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].photometric.name == "YCBCR"
    image = SlideImage(path)
    assert isinstance(image._source, TiffSource)
    patches, _ = image.patches(np.array([[20.0, 30, 148, 158]]), 128)
    off = patches[0].astype(int) - np.asarray(Image.open(path))[30:158, 20:148]  # libtiff
    assert np.abs(off).mean() < 3
    assert np.abs(patches[0].astype(int) - pixels[30:158, 20:148]).mean() < 10


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_absent_tiles_are_white(tmp_path, dtype):
    """Some scanners leave out tiles without tissue."""
    tiles = [np.full((64, 64, 3), 7 if dtype == np.uint8 else 7 * 257, dtype), None, None, None]
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(
            iter(tiles), shape=(128, 128, 3), dtype=dtype, tile=(64, 64), photometric="rgb", compression="deflate"
        )
    patches, padded = SlideImage(path).patches(np.array([[0.0, 0, 128, 128]]), 128)
    assert (patches[0, :60, :60] == 7).all()
    assert (patches[0, 68:] == 255).all()
    assert padded[0] == 0


def test_sizes_of_levels_may_be_rounded(tmp_path):
    """The third level of 1001 pixels has 250, and a pixel of it is 4 wide, not 4.004."""
    pixels = np.zeros((1001, 1001, 3), np.uint8)
    pixels[:, 500:504] = 255
    coarse = np.zeros((250, 250, 3), np.uint8)
    coarse[:, 125] = 255
    (patch,), _ = SlideImage([pixels, coarse]).patches(square_boxes(np.array([[502.0, 502.0]]), 36), 9)
    assert (patch[:, 4] == 255).all()
    assert (patch[:, [3, 5]] == 0).all()


def test_a_patch_of_a_large_tiff_reads_its_tiles_only(tmp_path):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4096, 4096, 3), dtype=np.uint8)  # 50 MB
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", compression="zlib", compressionargs={"level": 1})
    boxes = square_boxes(np.array([[2000.0, 2000.0], [2010.0, 2010.0]]), 100)
    SlideImage(path).patches(boxes, 64)  # imports
    tracemalloc.start()
    image = SlideImage(path)
    patches, _ = image.patches(boxes, 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(patches, SlideImage(pixels).patches(boxes, 64)[0])
    # Of 256 tiles the first patch touches the four around (1792..2303, ...), the second no other one.
    assert set(image._source._cache.blocks) == {(0, 0, row * 16 + column) for row in (7, 8) for column in (7, 8)}
    assert peak < 3e6


def test_decoded_tiles_are_kept_within_bounds(tmp_path, monkeypatch):
    pixels = tissue_image()
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, pixels, tile=(32, 32), photometric="rgb", compression="deflate")
    monkeypatch.setattr("stimage.data.images._blocks.CACHE_BYTES", 5 * 32 * 32 * 3)
    image = SlideImage(path)
    boxes = random_boxes(10)
    np.testing.assert_array_equal(image.patches(boxes, 32)[0], SlideImage(pixels).patches(boxes, 32)[0])
    cache = image._source._cache
    assert len(cache.blocks) == 5
    assert cache.n_bytes == sum(block.nbytes for block in cache.blocks.values())


def test_other_files_are_decoded_on_first_use(tmp_path):
    pixels = tissue_image()
    path = tmp_path / "slide.png"
    Image.fromarray(pixels).save(path)
    image = SlideImage(path)
    assert image.size == (400, 300)
    path.write_bytes(path.read_bytes()[:2000])  # cut off after it was opened
    with pytest.raises(ValueError, match="slide.png.*cannot be decoded"):
        image.patches(random_boxes(1), 8)


def test_pillow_keeps_its_limit(tmp_path, monkeypatch):
    pixels = tissue_image()
    path = tmp_path / "slide.png"
    Image.fromarray(pixels).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    boxes = random_boxes(5)
    image = SlideImage(path)
    np.testing.assert_array_equal(image.patches(boxes, 16)[0], SlideImage(pixels).patches(boxes, 16)[0])
    assert Image.MAX_IMAGE_PIXELS == 1000
    with pytest.raises(Image.DecompressionBombError):
        Image.open(path)


def grey(pixels):
    return pixels[:, :, 0]


COLOURS = {
    "grey": (grey, lambda p: np.repeat(p[:, :, :1], 3, axis=2)),
    "one channel": (lambda p: p[:, :, :1], lambda p: np.repeat(p[:, :, :1], 3, axis=2)),
    "16 bit": (lambda p: p.astype(np.uint16) * 257, lambda p: p),
    "16-bit grey": (lambda p: grey(p).astype(np.uint16) * 257, lambda p: np.repeat(p[:, :, :1], 3, axis=2)),
    "float": (lambda p: p.astype(np.float32) / 255, lambda p: p),
    "opaque": (lambda p: np.dstack([p, np.full(p.shape[:2], 255, np.uint8)]), lambda p: p),
    "transparent": (lambda p: np.dstack([p, np.zeros(p.shape[:2], np.uint8)]), lambda p: np.full_like(p, 255)),
    "half": (
        lambda p: np.dstack([p, np.full(p.shape[:2], 51, np.uint8)]),  # a fifth
        lambda p: np.rint(0.2 * p + 0.8 * 255).astype(np.uint8),
    ),
    "black and white": (lambda p: grey(p) > 127, lambda p: np.repeat((p[:, :, :1] > 127) * np.uint8(255), 3, axis=2)),
}


@pytest.mark.parametrize("colours", COLOURS)
@pytest.mark.parametrize("form", ["array", "png", "tiff"])
def test_colours_become_rgb(tmp_path, colours, form):
    stored, expected = (convert(tissue_image(60, 80)) for convert in COLOURS[colours])
    source = stored
    if form == "png":
        if colours in ("16 bit", "float"):
            pytest.skip("Pillow has no such PNG")
        source = tmp_path / "slide.png"
        Image.fromarray(stored.squeeze()).save(source)
    if form == "tiff":
        source = tmp_path / "slide.tif"
        kind = "rgb" if stored.ndim == 3 and stored.shape[2] >= 3 else "minisblack"
        alpha = {"extrasamples": ["unassalpha"]} if stored.shape[2:] == (4,) else {}
        tifffile.imwrite(source, stored, photometric=kind, tile=(32, 32), **alpha)
    boxes = np.array([[10.0, 10, 42, 42]])
    patches, _ = SlideImage(source).patches(boxes, 32)
    np.testing.assert_array_equal(patches[0], expected[10:42, 10:42])


@pytest.mark.parametrize("mode", ["P", "CMYK"])
def test_other_modes_of_pillow(tmp_path, mode):
    picture = Image.fromarray(tissue_image(60, 80)).convert(mode)
    path = tmp_path / ("slide.png" if mode == "P" else "slide.tif")
    picture.save(path)
    patches, _ = SlideImage(path).patches(np.array([[10.0, 10, 42, 42]]), 32)
    np.testing.assert_array_equal(patches[0], np.asarray(picture.convert("RGB"))[10:42, 10:42])


def test_fingerprint_tells_images_apart(tmp_path):
    pixels = tissue_image()
    path, copy, other = (tmp_path / name for name in ("a.png", "b.png", "c.png"))
    Image.fromarray(pixels).save(path)
    copy.write_bytes(path.read_bytes())
    Image.fromarray(pixels[::-1]).save(other)
    assert SlideImage(path).fingerprint == SlideImage(copy).fingerprint
    assert re.fullmatch("[0-9a-f]{64}", SlideImage(path).fingerprint)
    changed = pixels.copy()
    changed[-1, -1, -1] ^= 1
    assert SlideImage(pixels.copy()).fingerprint == SlideImage(np.asfortranarray(pixels)).fingerprint
    different = [
        SlideImage(path),
        SlideImage(other),
        SlideImage(pixels),
        SlideImage(changed),
        SlideImage(pixels.reshape(400, 300, 3)),
        SlideImage(pixels, scale=0.5),
        SlideImage(pixels, origin=(1, 0)),
    ]
    assert len({image.fingerprint for image in different}) == len(different)


@pytest.fixture
def library(tmp_path):
    """A library whose full-resolution image is a file, and hires and lowres renderings of it."""
    pixels = tissue_image(600, 800)
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    renderings = {
        name: np.asarray(Image.fromarray(pixels).resize((round(800 * scale), round(600 * scale))))
        for name, scale in (("hires", 0.5), ("lowres", 0.125))
    }
    return {
        "images": renderings,
        "scalefactors": {"tissue_hires_scalef": 0.5, "tissue_lowres_scalef": 0.125, "spot_diameter_fullres": 40.0},
        "metadata": {"source_image_path": "slide.png"},
    }


def test_resolutions_agree(library, tmp_path):
    adata = slide(extent=(800, 600), library=library)
    boxes = square_boxes(adata.obsm["spatial"], 160.0)
    with assert_unchanged(adata):
        images = {
            name: SlideImage.from_anndata(adata, image_dir=tmp_path, resolution=name)
            for name in ("fullres", "hires", "lowres")
        }
        auto = SlideImage.from_anndata(adata, image_dir=str(tmp_path))
    assert [image.scale for image in images.values()] == [1.0, 0.5, 0.125]
    assert auto.fingerprint == images["fullres"].fingerprint
    patches = {name: image.patches(boxes, 20)[0].astype(int) for name, image in images.items()}
    assert np.abs(patches["hires"] - patches["fullres"]).mean() < 2
    assert np.abs(patches["lowres"] - patches["fullres"]).mean() < 8
    shuffled = patches["fullres"][np.random.default_rng(0).permutation(len(boxes))]
    assert np.abs(shuffled - patches["fullres"]).mean() > 30


def test_auto_takes_the_best_that_is_there(library, tmp_path, monkeypatch):
    adata = slide(extent=(800, 600), library=library)
    with pytest.warns(UserWarning, match="hires.*no file.*slide.png.*image_dir"):  # no such file in this folder
        assert SlideImage.from_anndata(adata).scale == 0.5
    monkeypatch.chdir(tmp_path)
    assert SlideImage.from_anndata(adata).scale == 1.0
    monkeypatch.undo()
    library["metadata"]["source_image_path"] = str(tmp_path / "slide.png")
    assert SlideImage.from_anndata(adata).scale == 1.0
    library["metadata"]["source_image_path"] = "/another/machine/slide.png"
    assert SlideImage.from_anndata(adata, image_dir=tmp_path).scale == 1.0
    del library["metadata"]["source_image_path"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert SlideImage.from_anndata(adata).scale == 0.5
        del library["images"]["hires"]
        assert SlideImage.from_anndata(adata).scale == 0.125


def test_libraries_by_slide(library, tmp_path):
    """Spots of another slide may lie outside this one's image."""
    adata = slide(extent=(800, 600))
    adata.obs["section"] = ["a", "b"] * 25
    adata.obsm["spatial"][1::2] += 5000
    adata.uns["spatial"] = {"a": library, "c": library}
    image = SlideImage.from_anndata(adata, library_id="a", slide_key="section", image_dir=tmp_path)
    assert image.size == (800, 600)
    with pytest.raises(ValueError, match="25 of 50 spots lie outside"):
        SlideImage.from_anndata(adata, library_id="a", image_dir=tmp_path)
    with pytest.raises(KeyError, match="no slide 'c'.*'a', 'b'"):
        SlideImage.from_anndata(adata, library_id="c", slide_key="section")


def test_errors_of_libraries(library, tmp_path):
    adata = slide(extent=(800, 600), library=library)
    libraries = adata.uns["spatial"]
    with pytest.raises(TypeError, match="AnnData"):
        SlideImage.from_anndata(libraries)
    with pytest.raises(ValueError, match="`resolution` must be one of"):
        SlideImage.from_anndata(adata, resolution="best")
    with pytest.raises(TypeError, match="`image_dir` must be a path"):
        SlideImage.from_anndata(adata, image_dir=3)
    with pytest.raises(KeyError, match="'nothing'.*'library'"):
        SlideImage.from_anndata(adata, library_id="nothing")
    with pytest.raises(FileNotFoundError, match=r"no file 'slide.png': pass its folder with `image_dir=`"):
        SlideImage.from_anndata(adata, resolution="fullres")
    with pytest.raises(FileNotFoundError, match="elsewhere/slide.png"):
        SlideImage.from_anndata(adata, resolution="fullres", image_dir=tmp_path / "elsewhere")
    libraries["second"] = library
    with pytest.raises(KeyError, match="'library', 'second'.*`library_id=`"):
        SlideImage.from_anndata(adata)
    del libraries["second"], library["images"]["lowres"]
    with pytest.raises(KeyError, match="`resolution`='lowres'.*'hires'"):
        SlideImage.from_anndata(adata, resolution="lowres")
    del library["scalefactors"]["tissue_hires_scalef"]
    with pytest.raises(KeyError, match="no 'tissue_hires_scalef'.*spot_diameter_fullres"):
        SlideImage.from_anndata(adata, resolution="hires")
    library["scalefactors"]["tissue_hires_scalef"] = 0.0
    with pytest.raises(ValueError, match="tissue_hires_scalef.*positive number, found 0"):
        SlideImage.from_anndata(adata, resolution="hires")
    library["images"], library["metadata"] = {}, {}
    with pytest.raises(KeyError, match="no image: 'images' holds none.*source_image_path"):
        SlideImage.from_anndata(adata)
    adata.uns["spatial"] = {}
    with pytest.raises(KeyError, match="No tissue image"):
        SlideImage.from_anndata(adata)


def test_image_and_spots_must_agree(library, tmp_path):
    adata = slide(extent=(800, 600), library=library)
    # A rendering in place of the original: smaller than the frame of the coordinates.
    Image.fromarray(library["images"]["hires"]).save(tmp_path / "slide.png")
    with pytest.raises(ValueError, match=r"fullres image, 400 x 300 pixels.*400 x 300, the hires.*makes it 800 x 600"):
        SlideImage.from_anndata(adata, image_dir=tmp_path)
    # Even where nothing else tells the size, spots outside do.
    library["images"] = {"hires": library["images"]["hires"]}
    library["scalefactors"]["tissue_hires_scalef"] = 1.0
    with pytest.raises(ValueError, match=r"lie outside the hires image.*scale of 1 they reach from .* 400 x 300"):
        SlideImage.from_anndata(adata, resolution="hires")
    library["scalefactors"]["tissue_hires_scalef"] = 0.5
    adata.obsm["spatial"][0] = [-7.9, 100]  # within 1 % of 400 pixels after scaling
    SlideImage.from_anndata(adata, resolution="hires")
    adata.obsm["spatial"][0] = [-8.1, 100]
    with pytest.raises(ValueError, match="1 of 50 spots"):
        SlideImage.from_anndata(adata, resolution="hires")


def test_errors_of_images(tmp_path):
    image = SlideImage(tissue_image())
    for boxes, match in [
        (np.zeros((3, 2)), "four columns"),
        ([[0, 0, 5, np.nan]], "number 0"),
        ([[0, 0, 5, 5], [5, 0, 5, 5]], "1 are not, e.g. number 1"),
    ]:
        with pytest.raises(ValueError, match=match):
            image.iter_patches(boxes, 8)  # before the first batch is asked for
    with pytest.raises(ValueError, match="`size`"):
        image.patches(random_boxes(1), 0)
    with pytest.raises(ValueError, match="`scale`"):
        SlideImage(tissue_image(), scale=0)
    with pytest.raises(FileNotFoundError, match="nothing.png"):
        SlideImage(tmp_path / "nothing.png")
    with pytest.raises(TypeError, match="`image` must be"):
        SlideImage(5)
    with pytest.raises(ValueError, match="1, 3 or 4"):
        SlideImage(np.zeros((5, 5, 7), np.uint8))
    with pytest.raises(TypeError, match="int64"):
        SlideImage(np.zeros((5, 5, 3), np.int64))
    with pytest.raises(ValueError, match=r"in \[0, 1\], found 0 to 200"):
        SlideImage(np.linspace(0, 200, 75).reshape(5, 5, 3)).patches(np.array([[0.0, 0, 5, 5]]), 5)
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="text.png.*not an image"):
        SlideImage(tmp_path / "text.png")
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((5, 64, 64), np.uint8), photometric="minisblack")
    with pytest.raises(ValueError, match="stack.tif.*in one plane, found axes"):
        SlideImage(tmp_path / "stack.tif")
    tifffile.imwrite(tmp_path / "cut.tif", tissue_image(), tile=(64, 64), compression="deflate", photometric="rgb")
    content = (tmp_path / "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="cut.tif"):
        SlideImage(tmp_path / "cut.tif").patches(random_boxes(5), 32)
    for width in (0, [1, 2, 3], np.nan):
        with pytest.raises(ValueError, match="`width`"):
            square_boxes(np.zeros((2, 2)), width)


@pytest.mark.parametrize("library_name, extra", [("PIL", "pillow"), ("tifffile", "tifffile")])
def test_missing_libraries_are_named_with_the_extra(tmp_path, monkeypatch, library_name, extra):
    import sys

    tifffile.imwrite(tmp_path / "slide.tif", tissue_image(), photometric="rgb")
    for name in [name for name in sys.modules if name.partition(".")[0] == library_name]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"{library_name}.*stimage\[image\]"):
        SlideImage(tmp_path / "slide.tif").patches(random_boxes(1), 8)


def test_real_section(shared_data):
    folder = shared_data / "img-her2st_C2"
    adata = read_h5ad(folder / "img-her2st_C2.h5ad")
    full = SlideImage.from_anndata(adata, image_dir=folder)
    assert full.size == (9274, 9911)
    assert full.scale == 1.0
    hires = SlideImage.from_anndata(adata, resolution="hires")
    diameter = adata.uns["spatial"]["C2"]["scalefactors"]["spot_diameter_fullres"]
    # A hires pixel is 8 wide, so spots are looked at together with what is around them.
    boxes = square_boxes(adata.obsm["spatial"][::20], 4 * diameter)
    patches = full.patches(boxes, 32)[0].astype(float)
    rendered = hires.patches(boxes, 32)[0].astype(float)
    assert np.abs(patches - rendered).mean() < 6
    # Tissue is stained: spots are darker than the glass in the corners of the slide.
    spots = full.patches(square_boxes(adata.obsm["spatial"], diameter), 16)[0]
    corner, _ = full.patches(np.array([[0.0, 0, 500, 500]]), 16)
    assert np.median(spots) < np.median(corner) - 20
