import anndata as ad
import numpy as np
import pytest
from helpers import assert_unchanged
from matplotlib.colors import to_hex
from matplotlib.image import imread
from PIL import Image

import stimage as sti

SCALE = 0.1
RADIUS = 35.0


def stained(width, height, seed=0):
    """A coarse random pattern, so that a patch from the wrong place looks different."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(120, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


def library(seed=0):
    return {
        "images": {"hires": stained(200, 250, seed)},
        "scalefactors": {"tissue_hires_scalef": SCALE, "spot_diameter_fullres": 2 * RADIUS},
    }


@pytest.fixture
def with_niches(tissue):
    tissue.obsm["spatial"] = tissue.obsm["spatial"] - tissue.obsm["spatial"].min(axis=0) + 100
    tissue.uns["spatial"] = {"section": library()}
    sti.pp.build_niches(tissue)
    return tissue


def split(figure):
    """The panel of the slide and, by row, those of spots and niches."""
    slide, *panels = figure.axes
    return slide, panels[::2], panels[1::2]


def rectangles(ax):
    """Boxes (x0, y0, x1, y1) on the slide with their colours: of each spot, then of its niche."""
    corners = [(patch.get_xy(), patch.get_width(), patch.get_height()) for patch in ax.patches]
    boxes = [(x, y, x + width, y + height) for (x, y), width, height in corners]
    return list(zip(boxes, [to_hex(patch.get_edgecolor()) for patch in ax.patches], strict=True))


def test_image(with_niches, assert_looks_like):
    assert_looks_like(sti.pl.niches(with_niches), "niches_default")
    some = [with_niches.obs_names[i] for i in (0, 80)]
    assert_looks_like(sti.pl.niches(with_niches, spots=some), "niches_two_spots")


def test_boxes_and_spots_are_where_they_are_on_the_tissue(with_niches):
    names = with_niches.obs_names[[3, 100]].tolist()
    with assert_unchanged(with_niches):
        slide, spots, niches = split(sti.pl.niches(with_niches, spots=names))
    boxes = rectangles(slide)
    colors = [color for _, color in boxes[::2]]
    assert len(set(colors)) == 2
    for number, i in enumerate([3, 100]):
        x, y = with_niches.obsm["spatial"][i]
        (spot_box, spot_color), (niche_box, niche_color) = boxes[2 * number : 2 * number + 2]
        assert spot_color == niche_color
        np.testing.assert_allclose(spot_box, [x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS])
        np.testing.assert_allclose(niche_box, with_niches.obsm["niche_bbox"][i])
        everyone, *of_niches = slide.collections
        np.testing.assert_allclose(everyone.get_offsets(), with_niches.obsm["spatial"])
        members = with_niches.obsp["niche_connectivities"][i].indices
        np.testing.assert_allclose(of_niches[number].get_offsets(), with_niches.obsm["spatial"][members])
        for panel, box in ((spots[number], spot_box), (niches[number], niche_box)):
            assert (*panel.get_xlim(), *panel.get_ylim()[::-1]) == pytest.approx([box[0], box[2], box[1], box[3]])
            assert panel.get_aspect() == 1
            np.testing.assert_allclose(panel.images[0].get_extent(), [box[0], box[2], box[3], box[1]])
    low, high = slide.get_ylim()[::-1]
    assert low < high  # y points down


def test_panels_show_the_image_of_their_boxes(with_niches):
    """Each panel's pixels, at their place in the slide, are those of the whole image there."""
    slide, spots, niches = split(sti.pl.niches(with_niches))
    pixels = with_niches.uns["spatial"]["section"]["images"]["hires"].astype(float)
    assert len(spots) == len(niches) == 4
    for panel in [slide, *spots, *niches]:
        (shown,) = panel.images
        left, right, bottom, top = shown.get_extent()
        found = np.asarray(shown.get_array(), dtype=float)
        n_rows, n_columns = found.shape[:2]
        x = left + (np.arange(n_columns) + 0.5) * (right - left) / n_columns
        y = top + (np.arange(n_rows) + 0.5) * (bottom - top) / n_rows
        inside = np.ix_((y > 0) & (y < 2500), (x > 0) & (x < 2000))
        row, column = (
            np.floor(place[index.ravel()] * SCALE).astype(int) for place, index in zip((y, x), inside, strict=True)
        )
        assert np.abs(found[inside] - pixels[np.ix_(row, column)]).mean() < 5


def test_default_spots_are_spread_and_do_not_depend_on_the_order(with_niches):
    figure = sti.pl.niches(with_niches)
    boxes = np.array([box for box, _ in rectangles(figure.axes[0])[::2]])
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    middle = np.median(with_niches.obsm["spatial"], axis=0)
    assert {tuple(side) for side in (centres > middle).tolist()} == {
        (a, b) for a in (True, False) for b in (True, False)
    }
    shuffled = with_niches[np.random.default_rng(0).permutation(with_niches.n_obs)].copy()
    again = [box for box, _ in rectangles(sti.pl.niches(shuffled).axes[0])[::2]]
    np.testing.assert_array_equal(again, boxes)


def test_full_resolution_is_used_for_patches(with_niches, tmp_path):
    """The file is sharper than the rendering in the AnnData."""
    file = np.zeros((2500, 2000, 3), dtype=np.uint8)
    file[::2] = 255
    Image.fromarray(file).save(tmp_path / "slide.png")
    with_niches.uns["spatial"]["section"]["metadata"] = {"source_image_path": "slide.png"}
    _, spots, _ = split(sti.pl.niches(with_niches, image_dir=tmp_path))
    stripes = np.asarray(spots[0].images[0].get_array(), dtype=float)
    assert stripes.std() > 50
    _, spots, _ = split(sti.pl.niches(with_niches))
    assert np.asarray(spots[0].images[0].get_array(), dtype=float).std() < 50


def test_one_of_several_slides(sections):
    """Slides are called as their libraries; the others' spots are not drawn and may lie anywhere."""
    sections.obsm["spatial"] = np.abs(sections.obsm["spatial"]) + 50
    sections.obsm["spatial"][sections.obs["slide"] == "slide_2"] += 90_000
    sections.uns["spatial"] = {"slide_1": library(1), "slide_3": library(3)}
    sti.pp.build_niches(sections)
    spot = sections.obs_names[(sections.obs["slide"] == "slide_3").to_numpy()][5]
    by_name = sti.pl.niches(sections, library_id="slide_3", spots=[spot])
    by_spot = sti.pl.niches(sections, spots=[spot])
    for figure in (by_name, by_spot):
        assert figure.axes[0].get_title() == "slide_3"
        drawn = figure.axes[0].collections[0].get_offsets()
        np.testing.assert_allclose(drawn, sections.obsm["spatial"][sections.obs["slide"] == "slide_3"])
    one = sections[sections.obs["slide"] == "slide_1"].copy()
    one.uns["spatial"] = {"another": library(1)}
    assert sti.pl.niches(one).axes[0].get_title() == "another"
    with pytest.raises(KeyError, match="3 slides.*`library_id=` or `spots=`"):
        sti.pl.niches(sections)
    with pytest.raises(ValueError, match="name those of one slide"):
        sti.pl.niches(sections, spots=[spot, one.obs_names[0]])
    with pytest.raises(ValueError, match="not all of slide 'slide_1'"):
        sti.pl.niches(sections, spots=[spot], library_id="slide_1")
    with pytest.raises(KeyError, match="'slide_9' is not a slide"):
        sti.pl.niches(sections, library_id="slide_9")
    with pytest.raises(KeyError, match="slide_2"):
        sti.pl.niches(sections, library_id="slide_2")


def test_few_spots(with_niches):
    few = with_niches[[0, 40]].copy()
    sti.pp.build_niches(few)
    _, spots, _ = split(sti.pl.niches(few))
    assert len(spots) == 2


def test_saved(with_niches, tmp_path):
    sti.pl.niches(with_niches, save=tmp_path / "niches.png")
    assert imread(tmp_path / "niches.png").shape[0] > 300


def test_errors(with_niches):
    with pytest.raises(KeyError, match="'no_such_spot'.*not in adata.obs_names"):
        sti.pl.niches(with_niches, spots=["no_such_spot"])
    with pytest.raises(ValueError, match="at least one"):
        sti.pl.niches(with_niches, spots=[])
    with pytest.raises(KeyError, match=r"stimage.pp.build_niches\(adata\)"):
        sti.pl.niches(with_niches, niche_key="other")
    with pytest.raises(TypeError, match="AnnData"):
        sti.pl.niches(with_niches.obs)
    with_niches.obsm["spatial"] *= 10
    with pytest.raises(ValueError, match="lie outside the hires image"):
        sti.pl.niches(with_niches)
    del with_niches.uns["spatial"]
    with pytest.raises(KeyError, match="No tissue image"):
        sti.pl.niches(with_niches)


@pytest.mark.parametrize("name", ["img-her2st_A1", "img-MOB_Rep11"])
def test_real_slides(shared_data, name):
    adata = ad.read_h5ad(shared_data / name / f"{name}.h5ad")
    sti.pp.compact_grid(adata)
    sti.pp.build_niches(adata)
    slide, spots, _ = split(sti.pl.niches(adata, image_dir=shared_data / name))
    assert len(slide.collections[0].get_offsets()) == adata.n_obs
    assert len(spots) == 4
