from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from slides import random_slide

from stimage.data import PairedSlide
from stimage.models.alignment import _image_basis
from stimage.models.alignment._image_basis import ImageBasis

COLOURS = (2, 3)


def features(n_spots, n_features, n_colours, *, rank=4, colour_scale=1.0, seed=0):
    """A few directions and noise; the last columns are colours, which have directions of their own."""
    rng = np.random.default_rng(seed)
    spread = 3.0 ** -np.arange(rank)
    values = (rng.normal(size=(n_spots, rank)) * spread) @ np.random.default_rng(9).normal(size=(rank, n_features))
    colours = colour_scale * rng.normal(size=(n_spots, n_colours)) * 2.0 ** -np.arange(n_colours)
    return (np.hstack([values, colours]) + 1e-3 * rng.normal(size=(n_spots, n_features + n_colours))).astype(np.float32)


def slides(n=2, **options):
    found = []
    for seed in range(n):
        slide = random_slide(9, 8, seed=seed)
        images = [features(slide.n_sites, 20, k, seed=seed, **options) for k in COLOURS]
        found.append(PairedSlide(slide, sparse.identity(slide.n_sites, format="csr"), *images))
    return found


def fit(data, n_components=3, **options):
    return ImageBasis.fit(
        data, n_colours=COLOURS, n_components=n_components, **{"spot_context": True, "seed": 0, **options}
    )


def slow_axes(values, n_components):
    """Principal axes over the standard deviation along the first one, by numpy."""
    centred = values.astype(np.float64) - values.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    return axes[:n_components].T / (singular[0] / np.sqrt(len(values) - 1))


def same_up_to_signs(found, expected, **options):
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, **options)


def test_axes_are_those_of_a_full_decomposition():
    data = slides()
    basis = fit(data)
    for level, n_colours in zip(("spot_image", "niche_image"), COLOURS, strict=True):
        values = np.concatenate([getattr(slide, level) for slide in data])
        axes = getattr(basis, level)
        assert axes.shape == (20 + n_colours, 3 + n_colours if n_colours < 3 else 6)
        assert axes.dtype == np.float32
        blocks = slow_axes(values[:, :20], 3), slow_axes(values[:, 20:], min(3, n_colours))
        same_up_to_signs(axes[:20, :3], blocks[0], atol=1e-3)
        same_up_to_signs(axes[20:, 3:], blocks[1], atol=1e-3)
        # Neither block sees the other.
        assert not axes[20:, :3].any()
        assert not axes[:20, 3:].any()


@pytest.mark.parametrize("colour_scale", [1e-2, 1.0, 100.0])
def test_colours_count_as_much_as_features(colour_scale):
    """Each block has a first component of spread one, however many columns it has and however large they are."""
    data = slides(colour_scale=colour_scale)
    seen = np.concatenate([fit(data)(slide)["niche_image"] for slide in data])
    spread = seen.std(axis=0, ddof=1)
    np.testing.assert_allclose(spread[[0, 3]], 1, rtol=0.01)
    assert (spread[[1, 2, 4, 5]] < 1).all()


@pytest.mark.parametrize("spot_context", [True, False])
def test_what_is_seen_of_a_slide(spot_context):
    data = slides()
    basis = fit(data, spot_context=spot_context)
    slide = data[1]
    seen = basis(slide)
    spot, niche = slide.spot_image @ basis.spot_image, slide.niche_image @ basis.niche_image
    np.testing.assert_allclose(seen["spot_image"], np.hstack([spot, niche]) if spot_context else spot, rtol=1e-6)
    np.testing.assert_allclose(seen["niche_image"], niche, rtol=1e-6)
    assert (basis.n_spot_image, basis.n_niche_image) == (seen["spot_image"].shape[1], niche.shape[1])


def test_pixels_are_passed_through():
    pixels = np.random.default_rng(0).integers(256, size=(72, 4, 4, 3), dtype=np.uint8)
    data = [replace(slide, spot_image=pixels[: slide.n_spots]) for slide in slides()]
    basis = fit(data, spot_context=False)
    assert basis.spot_image is None
    assert sorted(basis(data[0])) == ["niche_image"]
    assert sorted(basis.tensors()) == ["niche_image"]
    np.testing.assert_array_equal(basis.niche_image, fit(slides()).niche_image)


def test_niches_left_out():
    data = [replace(slide, niche_image=None) for slide in slides()]
    basis = fit(data, spot_context=False)
    assert basis.niche_image is None
    assert sorted(basis(data[0])) == sorted(basis.tensors()) == ["spot_image"]
    assert basis.n_spot_image == 5


def test_no_more_components_than_there_are():
    few = slides(1)
    few = [replace(few[0], spot_image=few[0].spot_image[:4], niche_image=few[0].niche_image[:4])]
    basis = fit(few, n_components=50)
    assert (basis.n_spot_image, basis.n_niche_image) == (3 + 2 + 3 + 3, 3 + 3)
    assert np.isfinite(basis.spot_image).all()
    assert fit(slides(), n_components=50).niche_image.shape == (23, 23)


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")
def test_features_that_do_not_vary():
    data = [replace(slide, niche_image=np.zeros_like(slide.niche_image)) for slide in slides()]
    assert np.isfinite(fit(data).niche_image).all()
    assert not fit(data)(data[0])["niche_image"].any()


def test_many_spots_are_sampled(monkeypatch):
    data = slides()
    everything = fit(data)
    monkeypatch.setattr(_image_basis, "_MOST_SPOTS", 60)
    sampled, again, other = fit(data), fit(data), fit(data, seed=1)
    np.testing.assert_array_equal(sampled.niche_image, again.niche_image)
    assert not np.array_equal(sampled.niche_image, other.niche_image)
    # The same first direction, from other spots.
    first = sampled.niche_image[:, 0] / np.linalg.norm(sampled.niche_image[:, 0])
    expected = everything.niche_image[:, 0] / np.linalg.norm(everything.niche_image[:, 0])
    assert 0.98 < abs(first @ expected) < 1 - 1e-7
