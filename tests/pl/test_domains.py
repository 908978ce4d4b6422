import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
from helpers import assert_unchanged
from matplotlib.colors import to_hex, to_rgb
from matplotlib.image import imread

import stimage as sti
from stimage.pl._palette import PALETTE


def drawn(ax):
    """Centres (patches x 2), radius and colours of the circles on axes."""
    (collection,) = ax.collections
    boxes = [path.get_extents() for path in collection.get_paths()]
    centres = np.array([[(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2] for box in boxes])
    return centres, boxes[0].width / 2, [to_hex(color) for color in collection.get_facecolor()]


def with_image(adata, scale=0.1):
    size = np.ceil(adata.obsm["spatial"].max(axis=0) * scale).astype(int) + 20
    image = np.full((size[1], size[0], 3), 230, dtype=np.uint8)
    image[: size[1] // 2] = (190, 140, 180)
    adata.uns["spatial"] = {
        "library": {
            "images": {"lowres": image[::2, ::2], "hires": image},
            "scalefactors": {
                "tissue_hires_scalef": scale,
                "tissue_lowres_scalef": scale / 2,
                "spot_diameter_fullres": 70.0,
            },
        }
    }


def test_images(tissue, sections, assert_looks_like):
    tissue.obs["other"] = np.where(tissue.obsm["spatial"][:, 0] > 700, "right", "left")
    assert_looks_like(sti.pl.domains(tissue, color=["domain", "other"]), "domains_two_keys")
    sections.obs.loc[sections.obs_names[:30], "domain"] = np.nan
    assert_looks_like(sti.pl.domains(sections, color="domain", ncols=2), "domains_slides")


def test_tissue_image(tissue, assert_looks_like):
    with_image(tissue)
    assert_looks_like(sti.pl.domains(tissue, color="domain"), "domains_tissue_image")


def test_each_observation_where_it_is_and_in_the_colour_of_its_label(tissue):
    tissue.obs.loc[tissue.obs_names[:5], "domain"] = np.nan
    with assert_unchanged(tissue):
        figure = sti.pl.domains(tissue, color="domain")
    (ax,) = figure.axes
    centres, radius, colors = drawn(ax)
    np.testing.assert_allclose(centres, tissue.obsm["spatial"], atol=1e-6)
    codes = tissue.obs["domain"].cat.codes
    assert colors == [PALETTE[code].lower() if code >= 0 else "#d9d9d9" for code in codes]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "domain_1",
        "domain_2",
        "domain_3",
        "not annotated",
    ]
    low, high = ax.get_ylim()
    assert low > high  # downwards
    assert ax.get_aspect() == 1


@pytest.mark.parametrize("grid", [True, False])
@pytest.mark.parametrize("layout", ["hex", "square"])
def test_neighbours_nearly_touch(layout, grid):
    adata = sti.datasets.simulate_tissue(n_rows=16, n_cols=12, n_genes=40, n_domains=3, layout=layout, pitch=50)
    if grid:
        sti.pp.compact_grid(adata)
    _, radius, _ = drawn(sti.pl.domains(adata, color="domain").axes[0])
    assert 0.9 * 50 < 2 * radius <= 50


def test_on_an_image_spots_have_their_true_place_and_size(tissue):
    with_image(tissue, scale=0.1)
    ax = sti.pl.domains(tissue, color="domain").axes[0]
    centres, radius, _ = drawn(ax)
    np.testing.assert_allclose(centres, 0.1 * tissue.obsm["spatial"], atol=1e-6)
    assert 2 * radius == pytest.approx(7.0)
    (image,) = ax.images
    np.testing.assert_array_equal(image.get_array(), tissue.uns["spatial"]["library"]["images"]["hires"])
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    del tissue.uns["spatial"]["library"]["images"]["hires"]
    centres, _, _ = drawn(sti.pl.domains(tissue, color="domain").axes[0])
    np.testing.assert_allclose(centres, 0.05 * tissue.obsm["spatial"], atol=1e-6)
    assert not sti.pl.domains(tissue, color="domain", img=False).axes[0].images


@pytest.mark.parametrize("color, n_panels", [("domain", 3), (["domain", "slide"], 6)])
def test_a_panel_per_slide_and_key(sections, color, n_panels):
    figure = sti.pl.domains(sections, color=color, ncols=2)
    assert len(figure.axes) == n_panels
    names = list(sections.obs["slide"].cat.categories)
    assert [ax.get_title() for ax in figure.axes] == names * (n_panels // 3)
    for ax, name in zip(figure.axes, names, strict=False):
        np.testing.assert_allclose(drawn(ax)[0], sections.obsm["spatial"][sections.obs["slide"] == name], atol=1e-6)
    assert sum(ax.get_legend() is not None for ax in figure.axes) == n_panels // 3


def test_libraries_are_found_by_the_name_of_the_slide(sections):
    with_image(sections)
    library = sections.uns["spatial"].pop("library")
    sections.uns["spatial"] = {"slide_2": library, "slide_9": library}
    assert [len(ax.images) for ax in sti.pl.domains(sections, color="domain").axes] == [0, 1, 0]
    with pytest.raises(KeyError, match="slide_9"):
        sti.pl.domains(sections, color="domain", img=True)


def test_colours_depend_on_the_category_only(tissue):
    whole = drawn(sti.pl.domains(tissue, color="domain").axes[0])[2]
    part = tissue[tissue.obs["domain"] != "domain_1"].copy()
    part.obs["domain"] = part.obs["domain"].cat.set_categories(tissue.obs["domain"].cat.categories)
    kept = (tissue.obs["domain"] != "domain_1").to_numpy()
    assert drawn(sti.pl.domains(part, color="domain").axes[0])[2] == [c for c, k in zip(whole, kept, strict=True) if k]
    part.obs.loc[part.obs_names[:3], "domain"] = np.nan
    assert "#d9d9d9" in drawn(sti.pl.domains(part, color="domain", palette=["red"] * 3).axes[0])[2]
    tissue.uns["domain_colors"] = ["red", "green", "blue"]
    assert set(drawn(sti.pl.domains(tissue, color="domain").axes[0])[2]) == {
        to_hex(c) for c in ("red", "green", "blue")
    }
    palette = {"domain_3": "#111111", "domain_1": "#222222", "domain_2": "#333333"}
    colors = drawn(sti.pl.domains(tissue, color="domain", palette=palette).axes[0])[2]
    assert colors == [palette[name] for name in tissue.obs["domain"]]


def test_palette_can_be_told_apart_without_red_or_green_cones():
    # Linear RGB as seen with protanopia and deuteranopia: Machado et al. 2009, severity 1.
    matrices = {
        "normal": np.eye(3),
        "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    }  # fmt: skip
    from skimage.color import rgb2lab

    rgb = np.array([to_rgb(color) for color in PALETTE])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    for matrix in matrices.values():
        seen = np.clip(linear @ np.transpose(matrix), 0, 1)
        seen = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
        lab = rgb2lab(seen[None])[0]
        distance = np.linalg.norm(lab[:, None] - lab, axis=-1) + 1e3 * np.eye(len(lab))
        assert distance.min() > 5  # twice the just noticeable difference of 2.3


@pytest.mark.parametrize("image", [False, True])
def test_many_observations_look_the_same(tissue, tmp_path, monkeypatch, image):
    if image:
        with_image(tissue)
    pictures = []
    for most in (10_000, 1):
        monkeypatch.setattr("stimage.pl._domains._MANY", most)
        sti.pl.domains(tissue, color="domain", save=tmp_path / f"{most}.png")
        pictures.append(imread(tmp_path / f"{most}.png"))
    assert pictures[0].shape == pictures[1].shape
    # Circles are drawn in another way, so that their edges are smoothed a little differently.
    different = np.abs(pictures[0] - pictures[1]).max(axis=2)
    assert (different > 0.3).mean() < 0.01
    assert different.mean() < 0.02


def test_many_categories(tissue):
    tissue.obs["label"] = [f"c{i % 45}" for i in range(tissue.n_obs)]
    figure = sti.pl.domains(tissue, color="label")
    assert len(set(drawn(figure.axes[0])[2])) == 45


def test_saved_and_closed(tissue, tmp_path):
    before = plt.get_fignums()
    sti.pl.domains(tissue, color="domain", save=tmp_path / "domains.png")
    assert imread(tmp_path / "domains.png").shape[0] > 300
    assert plt.get_fignums() == before


def test_chosen_slides(sections):
    names = ["slide_3", "slide_1"]
    with assert_unchanged(sections):
        figure = sti.pl.domains(sections, color="domain", slides=names)
    assert [ax.get_title() for ax in figure.axes] == names
    for ax, name in zip(figure.axes, names, strict=True):
        np.testing.assert_allclose(drawn(ax)[0], sections[sections.obs["slide"] == name].obsm["spatial"], atol=1e-6)
    alone = sti.pl.domains(sections, color="domain", slides="slide_2")
    assert [ax.get_title() for ax in alone.axes] == ["slide_2: domain"]
    with pytest.raises(
        KeyError, match="`slides` names 'slide_9'.*`slide_key`='slide'.*'slide_1', 'slide_2', 'slide_3'"
    ):
        sti.pl.domains(sections, color="domain", slides=["slide_1", "slide_9"])
    for wrong in ([], ["slide_1", "slide_1"]):
        with pytest.raises(ValueError, match="`slides` must name at least one slide and none twice"):
            sti.pl.domains(sections, color="domain", slides=wrong)
    del sections.uns["grid"]
    with pytest.raises(KeyError, match="'slide_1'.*`slide_key` is not given"):
        sti.pl.domains(sections, color="domain", slides="slide_1")


def test_many_slides_are_drawn_when_they_are_named():
    slide = np.repeat(np.arange(200), 6)
    adata = ad.AnnData(np.ones((1200, 2)), obs={"slide": slide.astype(str), "label": np.tile(list("ab"), 600)})
    adata.obsm["spatial"] = np.tile([[0.0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]], (200, 1))
    with pytest.raises(ValueError, match="`adata` has 200 slides, a figure shows 40 .*`slides=`"):
        sti.pl.domains(adata, color="label", slide_key="slide")
    figure = sti.pl.domains(adata, color="label", slide_key="slide", slides=["7", "3", "199"])
    assert [ax.get_title() for ax in figure.axes] == ["7", "3", "199"]


def test_errors(tissue):
    with pytest.raises(KeyError, match=r"stimage.tl.domains\(adata\)"):
        sti.pl.domains(tissue)
    with pytest.raises(KeyError, match="available.*domain"):
        sti.pl.domains(tissue, color="no")
    with pytest.raises(KeyError, match="img"):
        sti.pl.domains(tissue, color="domain", img=True)
    with pytest.raises(KeyError, match="slide_key"):
        sti.pl.domains(tissue, color="domain", slide_key="no")
    with pytest.raises(KeyError, match="spatial_key"):
        sti.pl.domains(tissue, color="domain", spatial_key="no")
    with pytest.raises(ValueError, match="palette"):
        sti.pl.domains(tissue, color="domain", palette=["red"])
    with pytest.raises(ValueError, match="no-colour"):
        sti.pl.domains(tissue, color="domain", palette=["red", "blue", "no-colour"])
    with pytest.raises(ValueError, match="color"):
        sti.pl.domains(tissue, color=[])
    tissue.obs["depth"] = np.asarray(tissue.X.sum(axis=1)).ravel().astype(float)
    with pytest.raises(TypeError, match="depth.*numbers"):
        sti.pl.domains(tissue, color="depth")
    with pytest.raises(TypeError, match="AnnData"):
        sti.pl.domains(tissue.obs, color="domain")


@pytest.mark.parametrize("name", ["her2st_A1", "img-MOB_Rep11", "STARmap_mPFC_BZ5"])
def test_real_slides(shared_data, name):
    adata = ad.read_h5ad(shared_data / name / f"{name}.h5ad")
    sti.pp.compact_grid(adata)
    ax = sti.pl.domains(adata, color="label").axes[0]
    assert len(drawn(ax)[0]) == adata.n_obs
    assert len(ax.images) == name.startswith("img")
