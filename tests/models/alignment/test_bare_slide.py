"""Predictions on an image without spots against those at spots in the same places, and masks against painted tissue."""

from dataclasses import replace

import numpy as np
import pytest
from stained import PITCH, SCALE, aligner_of, apart, stained_tissue, tiny_encoder

from stimage import pp, tl
from stimage.data import SlideImage
from stimage.data.sampling._paired_slide import standardised_features
from stimage.models import STAlign
from stimage.models.alignment.bare_slide._places import _Scratch, tissue_lattice
from stimage.models.alignment.bare_slide._tissue_mask import find_tissue

MICROMETRES = 200.0
"""Between the spots of the simulated slides."""


@pytest.fixture(scope="module")
def section():
    (adata,) = apart(stained_tissue(9, 8))
    return adata


@pytest.fixture(scope="module")
def model(section):
    return aligner_of(section)


def picture(adata):
    """The image of a section, and micrometres of one of its pixels."""
    (library,) = adata.uns["spatial"].values()
    return library["images"]["hires"], MICROMETRES / (PITCH * SCALE)


def glass(width=400, height=300):
    """A slide with two pieces of tissue, a speck and a black border; the tissue is purple, the glass nearly white."""
    rng = np.random.default_rng(0)
    pixels = np.full((height, width, 3), (243, 241, 244), dtype=np.int16)
    tissue = np.zeros((height, width), dtype=bool)
    tissue[40:220, 60:180] = tissue[100:260, 240:360] = True
    pixels[tissue] = (180, 110, 170)
    pixels[10:13, 300:303] = (150, 60, 140)
    pixels += rng.integers(-6, 7, size=pixels.shape, dtype=np.int16)
    pixels[:, :15] = 0
    return np.clip(pixels, 0, 255).astype(np.uint8), tissue


class TestTissue:
    def test_painted_tissue_is_found(self):
        pixels, tissue = glass()
        found = find_tissue(SlideImage(pixels), 20)
        assert found.scale == pytest.approx(0.4)
        y, x = (np.mgrid[: found.mask.shape[0], : found.mask.shape[1]] + 0.5) / found.scale
        expected = tissue[y.astype(int), x.astype(int)]
        assert (found.mask == expected).mean() > 0.98
        assert not found.mask[: int(20 * found.scale), int(290 * found.scale) :].any()  # a speck is no tissue
        assert not found.mask[:, : int(10 * found.scale)].any()  # nor is a black border

    def test_a_picture_without_glass_is_tissue_everywhere(self):
        rng = np.random.default_rng(0)
        pixels = np.clip(rng.normal((180, 110, 170), 12, (200, 200, 3)), 0, 255).astype(np.uint8)
        assert find_tissue(SlideImage(pixels), 20).mask.mean() > 0.99

    @pytest.mark.parametrize("value", [0, 128, 255])
    def test_nothing_is_stained(self, value):
        with pytest.raises(ValueError, match="No tissue was found in `image`.*`tissue='all'`"):
            find_tissue(SlideImage(np.full((100, 100, 3), value, dtype=np.uint8)), 20)

    def test_share_by_counting(self):
        pixels, _ = glass()
        found = find_tissue(SlideImage(pixels), 8)
        assert found.scale == 1
        centres = np.random.default_rng(1).uniform(0, 300, (50, 2)).round()
        for (x, y), share in zip(centres.astype(int), found.share(centres, 30), strict=True):
            part = found.mask[max(y - 15, 0) : max(y + 15, 0), max(x - 15, 0) : max(x + 15, 0)]
            assert share == pytest.approx(part.sum() / 900)

    def test_large_images_have_small_overviews(self):
        pixels, _ = glass()
        found = find_tissue(SlideImage(np.kron(pixels, np.ones((4, 4, 1), dtype=np.uint8))), 8 * 16)
        assert max(found.pixels.shape) <= 101


class TestLattice:
    def test_places_are_those_on_tissue(self):
        pixels, tissue = glass()
        lattice = tissue_lattice(SlideImage(pixels), 10, everywhere=False)
        assert np.abs(np.diff(np.unique(lattice.centres[:, 0]))).min() == pytest.approx(10)
        sites = np.zeros((30, 40), dtype=bool)
        sites[tuple(lattice.sites.T)] = True
        expected = tissue.reshape(30, 10, 40, 10).mean(axis=(1, 3)) > 0.5
        assert (sites == expected).mean() > 0.98
        x, y = (lattice.centres / 10).astype(int).T
        np.testing.assert_array_equal(np.column_stack([y, x]), lattice.sites)

    def test_everywhere(self):
        lattice = tissue_lattice(SlideImage(glass()[0]), 50, everywhere=True)
        assert len(lattice.centres) == 8 * 6 and lattice.share.min() == 1

    @pytest.mark.parametrize(
        ("pitch", "message"),
        [(0.01, "choose a larger one"), (350, "choose a smaller one"), (150, "too little for two")],
    )
    def test_refused(self, pitch, message):
        pixels = glass()[0]
        pixels[:, 200:] = 245
        with pytest.raises(ValueError, match=message):
            tissue_lattice(SlideImage(pixels), pitch, everywhere=False)


def test_standardised_as_in_memory():
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(500, 7)) * [1, 1e-5, 100, 1, 1, 0, 3] + [1e4, 0, -3, 0, 7, 2, 0]).astype(np.float32)
    scratch = _Scratch(500, features[:1])
    for part in np.array_split(features, 9):
        scratch.append(part)
    found = np.concatenate([scratch.standardised(slice(start, start + 50)) for start in range(0, 500, 50)])
    np.testing.assert_allclose(found, standardised_features(features), atol=1e-3)


@pytest.mark.parametrize("method", ["regression", "retrieval"])
def test_as_for_spots_in_the_same_places(section, model, method):
    """An AnnData with spots at the places, and niches that are boxes of the typical size around them."""
    pixels, size = picture(section)
    found = tl.predict_expression(
        aligner=model,
        image=pixels,
        micrometres_per_pixel=size,
        spot_distance=MICROMETRES,
        method=method,
        n_neighbors=5,
    )
    spots = found.copy()
    (library,) = spots.uns["spatial"].values()
    library["images"]["hires"], library["scalefactors"]["tissue_hires_scalef"] = pixels, 1.0
    pp.build_niches(spots)
    distance = MICROMETRES / size
    half = model.patch_scale.niche_width * distance / 2
    spots.obsm["niche_bbox"] = np.column_stack([spots.obsm["spatial"] - half, spots.obsm["spatial"] + half])
    expected = model.predict_expression(spots, method=method, n_neighbors=5)
    np.testing.assert_allclose(found.layers["stimage_predicted"], expected, atol=2e-3)
    assert found.layers["stimage_predicted"].std(axis=0).max() > 0.01


def test_what_comes_back(section, model, tmp_path):
    from PIL import Image

    pixels, size = picture(section)
    Image.fromarray(pixels).save(tmp_path / "biopsy.png")
    path = tmp_path / "biopsy.png"
    options = {"micrometres_per_pixel": size, "spot_distance": MICROMETRES, "pitch": 100.0}
    found = tl.predict_expression(None, model, image=path, **options)
    assert found.var_names.tolist() == model.genes.tolist()
    assert found.X.nnz == 0
    grid = found.uns["grid"]
    assert grid["slides"]["layout"].iloc[0] == "square"
    assert grid["summary"]["pitch_micrometres"].iloc[0] == pytest.approx(100, rel=0.01)
    assert list(found.uns["spatial"]) == ["biopsy"]
    again = SlideImage.from_anndata(found)  # finds the file, and every place in it
    assert again.size == SlideImage(path).size
    assert SlideImage.from_anndata(found, resolution="hires").scale <= 1
    notes = found.uns["stimage"]["stimage_predicted"]
    assert notes["model_id"] == model.model_id and notes["image_sha256"] == SlideImage(path).fingerprint
    assert (notes["pitch"], notes["spot_distance"], notes["tissue"]) == (100.0, MICROMETRES, "otsu")
    found.write_h5ad(tmp_path / "predicted.h5ad")
    # Twice as dense, about four times as many places; an array gives the same.
    coarse = tl.predict_expression(None, model, image=pixels, **{**options, "pitch": 200.0})
    assert 3 < found.n_obs / coarse.n_obs < 5
    np.testing.assert_array_equal(
        tl.predict_expression(None, model, image=pixels, **options).layers["stimage_predicted"],
        found.layers["stimage_predicted"],
    )


@pytest.mark.parametrize("options", [{"niches": False}, {"train_image_encoder": True}, {"spot_context": True}])
def test_other_aligners(section, options):
    other = aligner_of(section, **options, image_encoder=tiny_encoder())
    pixels, size = picture(section)
    found = tl.predict_expression(
        None, other, image=pixels, micrometres_per_pixel=size, spot_distance=MICROMETRES, tissue="all"
    )
    assert np.isfinite(found.layers["stimage_predicted"]).all()


def test_the_scale_of_the_training_slides(section, model, tmp_path):
    """Known where the grid knows micrometres, and kept with the model."""
    known = section.copy()
    pp.compact_grid(known, micrometres_per_unit=1.25)
    other = aligner_of(known)
    assert other.patch_scale.spot_distance == pytest.approx(1.25 * PITCH)
    other.save(tmp_path / "model")
    loaded = STAlign.load(tmp_path / "model", image_encoder=tiny_encoder())
    assert loaded.patch_scale == other.patch_scale
    boxes = section.obsm["niche_bbox"]
    width = np.median((boxes[:, 2:] - boxes[:, :2]).max(axis=1)) / PITCH
    assert model.patch_scale.niche_width == pytest.approx(width, rel=1e-6)
    pixels, size = picture(section)
    found = tl.predict_expression(None, loaded, image=pixels, micrometres_per_pixel=size)
    assert found.uns["stimage"]["stimage_predicted"]["pitch"] == pytest.approx(1.25 * PITCH)
    loaded.patch_scale = replace(loaded.patch_scale, spot_distance=None)
    with pytest.raises(ValueError, match="`spot_distance` is needed.*100 on Visium"):
        tl.predict_expression(None, loaded, image=pixels, micrometres_per_pixel=size)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image": None}, TypeError, "`adata` must be an AnnData.*or pass `image`"),
        ({"micrometres_per_pixel": None}, ValueError, "`micrometres_per_pixel` is needed"),
        ({"micrometres_per_pixel": 0.0}, ValueError, "`micrometres_per_pixel`"),
        ({"pitch": -1.0}, ValueError, "`pitch`"),
        ({"tissue": "some"}, ValueError, "`tissue` must be one of"),
        ({"copy": True}, ValueError, "`copy=True` is of `adata`"),
        ({"image": "absent.png"}, FileNotFoundError, "absent.png"),
        ({"aligner": None}, TypeError, "`aligner` must be"),
    ],
)
def test_refused_options(section, model, changes, error, message):
    pixels, size = picture(section)
    options = {"aligner": model, "image": pixels, "micrometres_per_pixel": size, "spot_distance": MICROMETRES}
    with pytest.raises(error, match=message):
        tl.predict_expression(**{**options, **changes})


def test_spots_or_an_image(section, model):
    with pytest.raises(ValueError, match="exclude one another"):
        tl.predict_expression(section, model, image=picture(section)[0], micrometres_per_pixel=1.0)
    with pytest.raises(ValueError, match="are of an `image`, which is not given"):
        tl.predict_expression(section, model, pitch=100.0)
