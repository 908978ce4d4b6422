import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers import assert_unchanged

import stimage as sti


@pytest.fixture
def predicted(tissue):
    rng = np.random.default_rng(0)
    values = (rng.random(tissue.shape) * np.linspace(0.1, 1, tissue.n_vars)).astype(np.float32)
    values[:, 3] = np.nan
    tissue.layers["stimage_predicted"] = values
    return tissue


def with_picture(adata, scale=0.1):
    size = np.ceil(adata.obsm["spatial"].max(axis=0) * scale).astype(int) + 20
    image = np.full((size[1], size[0], 3), 230, dtype=np.uint8)
    scales = {"tissue_hires_scalef": scale, "spot_diameter_fullres": 70.0}
    adata.uns["spatial"] = {"library": {"images": {"hires": image}, "scalefactors": scales}}
    return image


def test_values_are_drawn_where_they_are(predicted):
    names = predicted.var_names[[5, 9]].tolist()
    with assert_unchanged(predicted):
        figure = sti.pl.expression(predicted, genes=names)
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == names
    for ax, gene in zip(panels, names, strict=True):
        (spots,) = ax.collections
        np.testing.assert_allclose(spots.get_offsets(), predicted.obsm["spatial"])
        np.testing.assert_allclose(spots.get_array(), predicted[:, gene].layers["stimage_predicted"].ravel())
    assert not plt.get_fignums()


def test_genes_that_vary_most_by_default(predicted):
    figure = sti.pl.expression(predicted)
    spread = predicted.layers["stimage_predicted"].astype(float).std(axis=0)
    expected = predicted.var_names[np.argsort(-np.nan_to_num(spread, nan=-1))[:3]].tolist()
    assert [ax.get_title() for ax in figure.axes if ax.get_title()] == expected


def test_the_picture_beside_it(predicted):
    image = with_picture(predicted)
    figure = sti.pl.expression(predicted, genes="GENE00002")
    first = figure.axes[0]
    (shown,) = first.images
    assert shown.get_extent() == [0, image.shape[1] / 0.1, image.shape[0] / 0.1, 0]
    assert not sti.pl.expression(predicted, genes="GENE00002", img=False).axes[0].images


def test_a_data_frame_and_one_number_for_each_place(predicted):
    frame = pd.DataFrame(
        predicted.layers.pop("stimage_predicted")[:, :2], predicted.obs_names, ["GENE00001", "GENE00002"]
    )
    predicted.obsm["stimage_predicted"] = frame
    figure = sti.pl.expression(predicted)
    assert sorted(ax.get_title() for ax in figure.axes if ax.get_title()) == ["GENE00001", "GENE00002"]
    predicted.obs["score"] = np.arange(predicted.n_obs, dtype=float)
    (panel,) = (ax for ax in sti.pl.expression(predicted, key="score").axes if ax.get_title())
    np.testing.assert_array_equal(panel.collections[0].get_array(), predicted.obs["score"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"key": "absent"}, KeyError, "No prediction"),
        ({"genes": ["OTHER"]}, KeyError, "there is no 'OTHER'"),
        ({"genes": ["GENE00004"]}, ValueError, "'GENE00004' was not predicted"),
        ({"genes": []}, ValueError, "at least 1"),
        ({"ncols": 0}, ValueError, "`ncols`"),
    ],
)
def test_refused(predicted, options, error, message):
    with pytest.raises(error, match=message):
        sti.pl.expression(predicted, **options)


def test_several_slides(sections):
    sections.layers["stimage_predicted"] = np.log1p(sections.X.toarray())
    with pytest.raises(ValueError, match="has 3 slides"):
        sti.pl.expression(sections)
