import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_predict

from stimage.data import SlideImage, square_boxes
from stimage.datasets import simulate_tissue

SMALL = {"n_rows": 16, "n_cols": 14, "n_genes": 60, "n_domains": 3, "n_slides": 2, "seed": 5}


@pytest.fixture(scope="module")
def stained():
    return simulate_tissue(image=True, **SMALL)


def patches_of(adata, name, width):
    section = adata[adata.obs["slide"] == name].copy()
    image = SlideImage.from_anndata(section, library_id=name, slide_key="slide")
    pixels, _ = image.patches(square_boxes(section.obsm["spatial"], width), 32)
    return section, pixels.astype(float)


def test_counts_are_the_same_without_an_image(stained):
    plain = simulate_tissue(**SMALL)
    assert (plain.X != stained.X).nnz == 0
    assert plain.obs.equals(stained.obs)
    np.testing.assert_array_equal(plain.obsm["cell_types"], stained.obsm["cell_types"])
    assert "spatial" not in plain.uns


def test_every_slide_has_its_image(stained):
    assert list(stained.uns["spatial"]) == ["slide_1", "slide_2"]
    again = simulate_tissue(image=True, **SMALL).uns["spatial"]
    images = [stained.uns["spatial"][name]["images"]["hires"] for name in ("slide_1", "slide_2")]
    assert all(image.dtype == np.uint8 and image.ndim == 3 for image in images)
    assert np.array_equal(images[0], again["slide_1"]["images"]["hires"])
    assert not np.array_equal(images[0], images[1])


@pytest.mark.parametrize("layout", ["hex", "square"])
def test_spots_lie_on_tissue_and_corners_do_not(layout):
    adata = simulate_tissue(image=True, layout=layout, **{**SMALL, "n_slides": 1})
    library = adata.uns["spatial"]["slide_1"]
    image, scale = library["images"]["hires"].astype(int), library["scalefactors"]["tissue_hires_scalef"]
    x, y = np.floor(adata.obsm["spatial"] * scale).astype(int).T
    assert (image[y, x, 1] < 232).all()  # green is what both stains absorb
    corners = image[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 243).all()


@pytest.mark.parametrize("of", ["own", "other"])
def test_looks_tell_cell_types(stained, of):
    """A regression on colours of a spot's patch predicts its types; on those of another spot's patch it does not."""
    section, pixels = patches_of(stained, "slide_1", 137.0)
    looks = np.concatenate([pixels.mean(axis=(1, 2)), pixels.std(axis=(1, 2))], axis=1)
    looks = (looks - looks.mean(axis=0)) / looks.std(axis=0)
    if of == "other":
        looks = np.random.default_rng(0).permutation(looks)
    types = section.obsm["cell_types"]
    predicted = cross_val_predict(Ridge(10.0), looks, types)
    explained = 1 - ((predicted - types) ** 2).sum() / ((types - types.mean(axis=0)) ** 2).sum()
    assert explained > 0.15 if of == "own" else explained < 0.03


def test_single_cells_have_no_image():
    with pytest.raises(ValueError, match="`image`=True is not available for `layout`='irregular'"):
        simulate_tissue(image=True, layout="irregular", **SMALL)
