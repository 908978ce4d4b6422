import os
from pathlib import Path

import numpy as np
import pytest
import torch
from stained import TINY, prepared, tiny_encoder

from stimage.data import SlideImage, square_boxes
from stimage.models import PatchSpec, STAlign
from stimage.models.alignment._image_features import (
    default_cache,
    encoder_id,
    named_encoder,
    patch_colours,
    patch_features,
)

CENTRES = np.array([[20.0, 20], [70, 30], [40, 55], [2, 60]])  # the patch of the last one reaches over the border
BOXES = [square_boxes(CENTRES, 16), square_boxes(CENTRES, 32)]


def pixels_of(seed=0):
    return np.random.default_rng(seed).integers(256, size=(80, 100, 3), dtype=np.uint8)


@pytest.fixture
def image():
    return SlideImage(pixels_of())


@pytest.fixture
def features(image, tmp_path):
    """Features of the boxes under other circumstances; kept in a folder of their own unless said otherwise."""

    def features(image=image, boxes=BOXES, encoder=None, cache=tmp_path / "cache"):
        encoder = tiny_encoder() if encoder is None else encoder
        return patch_features(image, boxes, encoder, cache=cache, description="Patches")

    return features


def slow_features(pixels, boxes, encoder):
    """Patch by patch; boxes that need no resizing are cut by indexing."""
    rows = []
    for box in boxes:
        x0, y0, x1, y1 = box.astype(int)
        patch = np.full((y1 - y0, x1 - x0, 3), 255, dtype=np.uint8)
        for y in range(max(y0, 0), min(y1, len(pixels))):
            for x in range(max(x0, 0), min(x1, pixels.shape[1])):
                patch[y - y0, x - x0] = pixels[y, x]
        with torch.no_grad():
            rows.append((encoder(torch.from_numpy(patch)[None])[0].numpy(), slow_colours(patch)))
    features, colours = zip(*rows, strict=True)
    return np.array(features), np.array(colours)


def slow_colours(patch):
    """Beer and Lambert: optical density is minus the logarithm of the share of light that comes through."""
    density = [[-np.log((int(pixel[c]) + 1) / 256) for row in patch for pixel in row] for c in range(3)]
    return [np.mean(d) for d in density] + [np.std(d) for d in density]


def test_features_patch_by_patch(features):
    encoder = tiny_encoder()
    found = features(boxes=[square_boxes(CENTRES, 16)])
    expected, colours = slow_features(pixels_of(), square_boxes(CENTRES, 16), encoder)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[:, :24], expected, atol=1e-5)
    np.testing.assert_allclose(found[:, 24:], colours, atol=1e-4)


def test_kinds_are_side_by_side_with_colours_last(features):
    """In this order the colours of a spot are its last columns, whatever the number of kinds."""
    both, small, large = features(), features(boxes=BOXES[:1]), features(boxes=BOXES[1:])
    expected = [small[:, :24], large[:, :24], small[:, 24:], large[:, 24:]]
    np.testing.assert_allclose(both, np.hstack(expected), atol=1e-6)
    spec = PatchSpec(spot_widths=(0.5, 1.0), niche_widths=(1.0,))
    assert spec.n_colours == (both.shape[1] - 2 * 24, small.shape[1] - 24) == (12, 6)


def test_more_patches_than_a_batch(features):
    centres = np.random.default_rng(0).uniform(20, 60, (75, 2))
    found = features(boxes=[square_boxes(centres, 16), square_boxes(centres, 24)])
    assert found.shape == (75, 60)
    for spot in (0, 31, 32, 74):
        alone = features(boxes=[square_boxes(centres[[spot]], 16), square_boxes(centres[[spot]], 24)])
        np.testing.assert_allclose(found[[spot]], alone, atol=1e-5)


def test_an_encoder_in_training_is_evaluated(features):
    encoder = tiny_encoder()
    encoder.backbone.add_module("dropout", torch.nn.Dropout(0.5))
    np.testing.assert_array_equal(features(encoder=encoder.train(), cache=None), features(cache=None))


@pytest.mark.parametrize("shape", [(1, 4, 4, 3), (3, 5, 2, 3)])
def test_colours_in_a_loop(shape):
    pixels = np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)
    found = patch_colours(pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [slow_colours(patch) for patch in pixels], rtol=1e-4)


def test_colours_of_glass_and_of_ink():
    white, black = (patch_colours(np.full((1, 4, 4, 3), value, dtype=np.uint8))[0] for value in (255, 0))
    np.testing.assert_allclose(white, 0, atol=1e-6)
    np.testing.assert_allclose(black, [np.log(256)] * 3 + [0] * 3, atol=1e-5)


def test_the_second_time_they_are_read(features, image, tmp_path, monkeypatch):
    first = features()
    (path,) = (tmp_path / "cache").iterdir()
    assert path.suffix == ".npy"
    np.testing.assert_array_equal(np.load(path), first)
    monkeypatch.setattr(SlideImage, "iter_patches", None)  # nothing is cut any more
    np.testing.assert_array_equal(features(), first)
    np.testing.assert_array_equal(features(image=SlideImage(pixels_of()), encoder=tiny_encoder()), first)
    with pytest.raises(TypeError):
        features(cache=tmp_path / "other")


def test_nothing_is_kept_without_a_folder(features, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(features(cache=None), features())
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_other_images_boxes_and_encoders_have_other_files(features, tmp_path):
    cut = pixels_of()
    cut[-1, -1] ^= 1
    with torch.no_grad():
        changed = tiny_encoder()
        changed.backbone[4].bias[3] += 1e-6
    variants = [
        {},
        {"image": SlideImage(cut)},
        {"image": SlideImage(pixels_of(), scale=0.5)},
        {"boxes": [BOXES[0], BOXES[1] + 1e-9]},
        {"boxes": BOXES[::-1]},
        {"boxes": [np.concatenate(BOXES)]},
        {"boxes": BOXES[:1]},
        {"encoder": tiny_encoder(seed=1)},
        {"encoder": changed},
    ]
    found = [features(**variant) for variant in variants]
    again = [features(**variant) for variant in variants]
    fresh = [features(**variant, cache=None) for variant in variants]
    for kept, read, expected in zip(found, again, fresh, strict=True):
        np.testing.assert_array_equal(kept, expected)
        np.testing.assert_array_equal(read, expected)
    assert len(list((tmp_path / "cache").iterdir())) == len(variants)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:20]),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes() + b"x"),
        lambda path: path.write_bytes(path.read_bytes().replace(b"(4, 60)", b"(4, 59)")),
        lambda path: path.write_bytes(path.read_bytes().replace(b"'<f4'", b"'|O' ")),
        lambda path: path.write_bytes(path.read_bytes().replace(b"}", b"{")),
        lambda path: np.save(path, np.zeros((4, 60), np.float32)),
        lambda path: path.write_bytes(bytes(1000)),
    ],
)
def test_damaged_files_are_made_again(features, tmp_path, damage):
    expected = features()
    (path,) = (tmp_path / "cache").iterdir()
    whole = path.read_bytes()
    damage(path)
    np.testing.assert_array_equal(features(), expected)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("position", [0, 7, 60, 100, 128, 300, 610, -33, -1])
def test_a_single_altered_bit_is_found(features, tmp_path, position):
    expected = features()
    (path,) = (tmp_path / "cache").iterdir()
    content = bytearray(path.read_bytes())
    content[position] ^= 0b1000
    path.write_bytes(content)
    np.testing.assert_array_equal(features(), expected)


def test_a_folder_that_cannot_be_written_to(features, tmp_path):
    (tmp_path / "file").write_text("taken")
    with pytest.warns(UserWarning, match="not kept.*file.*another `cache_dir`"):
        found = features(cache=tmp_path / "file" / "cache")
    np.testing.assert_array_equal(found, features(cache=None))


def test_features_that_are_not_finite_are_refused_and_not_kept(features, tmp_path):
    encoder = tiny_encoder()
    with torch.no_grad():
        next(encoder.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="Patches: the image encoder gives NaN or infinite features for 4 of 4 spots"):
        features(encoder=encoder)
    assert not list(tmp_path.rglob("*.npy"))


def test_nothing_half_written_is_left(features, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.warns(UserWarning, match="No space left"):
        features()
    assert list((tmp_path / "cache").iterdir()) == []


def test_where_features_are_kept(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/stimage/image_features")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache/stimage/image_features"


def test_encoders_are_told_by_weights_and_configuration():
    assert encoder_id(tiny_encoder()) == encoder_id(tiny_encoder())
    other = tiny_encoder()
    other.config = type(other.config)("tiny", 24, "tiny", input_size=32)
    assert len({encoder_id(encoder) for encoder in (tiny_encoder(), tiny_encoder(seed=1), other)}) == 3


def test_a_random_start_follows_the_seed():
    state = torch.get_rng_state()
    first, again, other = (encoder_id(named_encoder("resnet50", seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


def test_boxes_of_spots_and_niches():
    spec = PatchSpec(spot_widths=(0.5, 2.0), niche_widths=(1.5,))
    small, large = spec.spot_boxes(np.array([[100.0, 50.0]]), 40.0)
    np.testing.assert_allclose(small, [[90, 40, 110, 60]])
    np.testing.assert_allclose(large, [[60, 10, 140, 90]])
    (niche,) = spec.niche_boxes(np.array([[0.0, 10.0, 40.0, 30.0], [5.0, 0.0, 6.0, 8.0]]))
    np.testing.assert_allclose(niche, [[-10, -10, 50, 50], [-0.5, -2, 11.5, 10]])


@pytest.mark.parametrize("name", ["spot_widths", "niche_widths"])
@pytest.mark.parametrize("widths", [(), (0.0,), (1.0, -1.0), (np.nan,), ("wide",), [1.0], 1.0, (np.inf,)])
def test_widths_that_cannot_be(name, widths):
    with pytest.raises((ValueError, TypeError), match=f"`{name}` must be"):
        PatchSpec(**{name: widths})


@pytest.mark.filterwarnings("ignore:Image size")
def test_real_sections_are_seen_where_their_spots_are(shared_data, tmp_path):
    """Patches that Pillow cuts from the files, and what the encoder says of them, are what an aligner is shown."""
    pytest.importorskip("efficientnet_lite_pytorch")
    from anndata import read_h5ad
    from PIL import Image

    sections, images = [], []
    for name in ("C2", "C3"):
        folder = shared_data / f"img-her2st_{name}"
        adata = read_h5ad(folder / f"img-her2st_{name}.h5ad")
        middle = np.median(adata.obsm["spatial"], axis=0)
        nearest = np.argsort(np.linalg.norm(adata.obsm["spatial"] - middle, axis=1))[:14]
        adata = adata[np.sort(nearest)].copy()
        path = folder / Path(adata.uns["spatial"][name]["metadata"]["source_image_path"]).name
        adata.uns["spatial"][name]["metadata"]["source_image_path"] = str(path)
        sections.append(prepared(adata))
        images.append(Image.open(path).convert("RGB"))
    options = {"n_pool_genes": 200, "config": TINY, "patches": PatchSpec((1.0,), (1.5,))}
    model = STAlign(sections, **options, cache_dir=tmp_path)
    kept = [np.load(path) for path in tmp_path.iterdir()]
    assert len(kept) == 4  # spots and niches of each section

    for section, image in zip(sections, images, strict=True):
        xy = section.obsm["spatial"]
        distances = np.linalg.norm(xy[:, None] - xy, axis=2)
        pitch = np.median(np.sort(distances, axis=1)[:, 1])
        boxes = {"spot": [(x - pitch / 2, y - pitch / 2, x + pitch / 2, y + pitch / 2) for x, y in xy], "niche": []}
        for x0, y0, x1, y1 in section.obsm["niche_bbox"]:
            x, y, half = (x0 + x1) / 2, (y0 + y1) / 2, 0.75 * max(x1 - x0, y1 - y0)
            boxes["niche"].append((x - half, y - half, x + half, y + half))
        for parts in boxes.values():
            patches = [image.crop([round(side) for side in box]).resize((224, 224)) for box in parts]
            colours = patch_colours(np.stack([np.asarray(patch) for patch in patches]))
            (found,) = [features for features in kept if np.abs(features[:, -6:] - colours)[:, :3].max() < 0.02]
            with torch.no_grad():
                pixels = torch.from_numpy(np.stack([np.asarray(patch) for patch in patches[:4]]))
                expected = model.image_encoder(pixels).numpy()
            similarity = np.corrcoef(np.concatenate([expected, found[:, :-6]]))[:4, 4:]
            assert similarity.diagonal().min() > 0.95
            assert (similarity.argmax(axis=1) == np.arange(4)).all()
