"""Image files of all kinds show what another library shows of them, or are refused."""

import pickle
import warnings

import numpy as np
import pytest

from stimage.data import SlideImage

tifffile = pytest.importorskip("tifffile")
Image = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")

WIDTH, HEIGHT = 90, 70


def picture(seed=0):
    """Smooth RGB picture without symmetry."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([x * 2, y * 3, (x + 2 * y) % 256], axis=-1).astype(np.uint8)


def whole(path):
    """The picture as patches show it, at its own resolution."""
    image = SlideImage(path)
    width, height = image.size
    side = min(width, height)
    corner = image.patches(np.array([[0, 0, side, side]], float), side)[0][0]
    other = image.patches(np.array([[width - side, height - side, width, height]], float), side)[0][0]
    return image, corner, other


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["tiled.tif", "strips.tif", "pyramid.tif", "photo.png"])
def test_orientation_is_what_pillow_makes_of_it(tmp_path, orientation, kind):
    stored, path = picture(), tmp_path / kind
    tag = [(274, "H", 1, orientation, True)]
    if kind == "photo.png":
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(stored).save(path, exif=exif)
    elif kind == "pyramid.tif":
        with tifffile.TiffWriter(path) as file:
            file.write(stored, photometric="rgb", tile=(16, 16), subifds=1, extratags=tag)
            file.write(stored[::2, ::2], photometric="rgb", tile=(16, 16), subfiletype=1)
    else:
        tiles = {"tile": (16, 32), "compression": "zlib"} if kind == "tiled.tif" else {"rowsperstrip": 7}
        tifffile.imwrite(path, stored, photometric="rgb", extratags=tag, **tiles)
    upright = Image.fromarray(stored)
    upright.getexif()[274] = orientation
    expected = np.asarray(ImageOps.exif_transpose(upright))
    image, corner, other = whole(path)
    assert image.size == expected.shape[1::-1]
    side = min(expected.shape[:2])
    np.testing.assert_array_equal(corner, expected[:side, :side])
    np.testing.assert_array_equal(other, expected[-side:, -side:])
    again = pickle.loads(pickle.dumps(image)).patches(np.array([[0, 0, side, side]], float), side)[0][0]
    np.testing.assert_array_equal(again, corner)


def test_features_of_another_orientation_are_others(tmp_path):
    prints = []
    for orientation in (1, 3):
        path = tmp_path / f"{orientation}.tif"
        tifffile.imwrite(path, picture(), photometric="rgb", extratags=[(274, "H", 1, orientation, True)])
        prints.append(SlideImage(path).fingerprint)
    assert prints[0] != prints[1]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, bool])
def test_zero_may_be_white(tmp_path, dtype):
    grey = picture()[..., 0].astype(np.uint16)
    stored = grey > 90 if dtype is bool else grey if dtype is np.uint8 else grey * 257
    stored = stored.astype(dtype)
    tifffile.imwrite(
        tmp_path / "white.tif", ~stored if dtype is bool else np.iinfo(dtype).max - stored, photometric="miniswhite"
    )
    tifffile.imwrite(tmp_path / "black.tif", stored, photometric="minisblack")
    np.testing.assert_array_equal(whole(tmp_path / "white.tif")[1], whole(tmp_path / "black.tif")[1])


@pytest.mark.parametrize("said", ["largest", "ome"])
def test_twelve_bits(tmp_path, said):
    pixels = picture().astype(np.uint16) * 16
    path = tmp_path / "twelve.ome.tif"
    if said == "largest":
        tifffile.imwrite(path, pixels, photometric="rgb", metadata=None, extratags=[(281, "H", 3, (4095,) * 3, True)])
    else:
        tifffile.imwrite(path, pixels, photometric="rgb", metadata={"axes": "YXS", "SignificantBits": 12})
        if "SignificantBits" not in tifffile.tiffcomment(path):
            text = tifffile.tiffcomment(path).replace('Type="uint16"', 'Type="uint16" SignificantBits="12"')
            tifffile.tiffcomment(path, text.encode())
    expected = np.rint(pixels / 4095 * 255)
    side = min(WIDTH, HEIGHT)
    assert np.abs(whole(path)[1].astype(int) - expected[:side, :side]).max() <= 1


@pytest.mark.parametrize(("kind", "code"), [("UNSPECIFIED", 0), ("ASSOCALPHA", 1), ("UNASSALPHA", 2)])
def test_a_fourth_channel_is_what_the_file_says(tmp_path, kind, code):
    rgb, fourth = picture().astype(float), np.full((HEIGHT, WIDTH, 1), 128.0)
    stored = rgb * fourth / 255 if code == 1 else rgb
    pixels = np.concatenate([np.rint(stored), fourth], axis=-1).astype(np.uint8)
    path = tmp_path / "four.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=[kind])
    expected = rgb if code == 0 else rgb * 128 / 255 + 255 * (1 - 128 / 255)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = whole(path)[1]
    assert any("fourth channel" in str(one.message) for one in caught) == (code == 0)
    side = min(WIDTH, HEIGHT)
    assert np.abs(found.astype(int) - expected[:side, :side]).max() <= 2


def test_four_planes_of_fluorescence_are_refused(tmp_path):
    planes = np.stack([picture()[..., 0]] * 4)
    tifffile.imwrite(tmp_path / "four.ome.tif", planes, photometric="minisblack", metadata={"axes": "CYX"})
    with pytest.raises(ValueError, match="four channels that are not marked as RGB"):
        SlideImage(tmp_path / "four.ome.tif")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.95, 0.999])
@pytest.mark.parametrize(
    "options", [{}, {"tile": (32, 32)}, {"tile": (16, 16), "compression": "zlib"}, {"rowsperstrip": 5}]
)
def test_a_file_cut_off_is_refused_and_named(tmp_path, share, options):
    path = tmp_path / "image.tif"
    tifffile.imwrite(
        path, np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8), photometric="rgb", **options
    )
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="image.tif.*cut off|image.tif.*cannot be"):
        whole(path)


@pytest.mark.parametrize("axes", ["CYX", "YX"])
def test_large_stacks_of_imagej_are_read(tmp_path, axes):
    rgb = picture()
    planes = np.ascontiguousarray(np.moveaxis(rgb, -1, 0)) if axes == "CYX" else rgb[..., 0]
    tifffile.imwrite(tmp_path / "stack.tif", planes, imagej=True, metadata={"axes": axes}, truncate=True)
    expected = rgb if axes == "CYX" else np.repeat(rgb[..., :1], 3, axis=2)
    np.testing.assert_array_equal(whole(tmp_path / "stack.tif")[1], expected[:HEIGHT, :HEIGHT])
