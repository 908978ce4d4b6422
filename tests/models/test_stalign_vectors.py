"""What the vectors of an aligner are of: image or genes, of which spot, in which slide."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from stained import PITCH, SCALE, TINY, aligner_of, library, prepared, stained_tissue

from stimage import pp
from stimage.models import PatchSpec, STAlign

MODALITIES = ["image", "gene", "fused"]


@pytest.mark.parametrize("modality", MODALITIES)
def test_levels(aligner, stained, modality):
    spot, niche, both = (
        aligner.get_latent_representation(stained, modality=modality, level=level)
        for level in ("spot", "niche", "both")
    )
    assert both.dtype == np.float32
    assert spot.shape == niche.shape == (stained.n_obs, 16)
    np.testing.assert_array_equal(both, np.hstack([spot, niche]))
    np.testing.assert_array_equal(both, aligner.get_latent_representation(modality=modality))
    assert np.isfinite(both).all()
    assert len(np.unique(spot.round(4), axis=0)) == stained.n_obs
    assert np.abs(spot - niche).mean() > 0.1 * np.abs(spot).mean()


def test_defaults(aligner):
    expected = aligner.get_latent_representation(modality="fused", level="both")
    np.testing.assert_array_equal(aligner.get_latent_representation(), expected)


def test_the_image_alone(aligner, stained):
    """Whatever the counts: those of others, none, or something that is not counts."""
    expected = aligner.get_latent_representation(modality="image")
    predicted = aligner.predict_expression(stained)
    counts = stained.X.toarray()
    for other in (counts[::-1], 0 * counts, np.log1p(counts), -counts):
        stained.X = other.copy()
        np.testing.assert_array_equal(aligner.get_latent_representation(stained, modality="image"), expected)
        np.testing.assert_array_equal(aligner.predict_expression(stained), predicted)
    with pytest.raises(ValueError, match="negative values"):
        aligner.get_latent_representation(stained, modality="fused")


def test_genes_alone(aligner, stained):
    expected = aligner.get_latent_representation(modality="gene")
    del stained.uns["spatial"]
    np.testing.assert_array_equal(aligner.get_latent_representation(stained, modality="gene"), expected)
    for modality in ("image", "fused"):
        with pytest.raises(KeyError, match=r"No image.*uns\['spatial'\].*modality='gene'"):
            aligner.get_latent_representation(stained, modality=modality)


def test_the_image_is_seen_where_the_spot_is(stained):
    """Painting over one corner of the image changes the spots there, and others only by what is standard."""
    model = aligner_of(stained, patches=PatchSpec((1.0,), (1.0,)), spot_context=False)
    before = model.get_latent_representation(stained, modality="image", level="spot")
    x, y = stained.obsm["spatial"].T * SCALE
    left, top = np.quantile(x, 0.4), np.quantile(y, 0.4)
    pixels = stained.uns["spatial"]["slide_1"]["images"]["hires"].copy()
    pixels[: int(top), : int(left)] = (10, 200, 60)
    stained.uns["spatial"]["slide_1"]["images"]["hires"] = pixels
    after = model.get_latent_representation(stained, modality="image", level="spot")
    change = np.linalg.norm(after - before, axis=1)
    reach = PITCH * SCALE / 2
    painted = (x + reach < left) & (y + reach < top)
    spared = (x - reach > left) | (y - reach > top)
    assert painted.sum() >= 4
    assert spared.sum() >= 20
    assert np.median(change[painted]) > 2.5 * np.median(change[spared])
    assert change[painted].min() > np.quantile(change[spared], 0.9)


def test_another_resolution_gives_much_the_same(aligner, stained, tmp_path):
    """The image in a file, five times as large as the rendering; its path is relative to ``image_dir``."""
    from PIL import Image

    entry = stained.uns["spatial"]["slide_1"]
    rendering = Image.fromarray(entry["images"]["hires"])
    (tmp_path / "images").mkdir()
    large = rendering.resize([round(side / SCALE) for side in rendering.size], Image.Resampling.NEAREST)
    large.save(tmp_path / "images" / "slide.png")
    entry["metadata"] = {"source_image_path": "images/slide.png"}
    expected = aligner.get_latent_representation(modality="image")
    found = aligner.get_latent_representation(stained, modality="image", image_dir=tmp_path)
    assert not np.array_equal(found, expected)
    spread = np.linalg.norm(expected - expected.mean(axis=0), axis=1).mean()
    assert np.linalg.norm(found - expected, axis=1).mean() < 0.2 * spread


def test_spots_without_counts(stained):
    counts = stained.X.toarray()
    counts[[3, 20]] = 0
    stained.X = counts
    pp.build_niches(stained)
    model = aligner_of(stained)
    assert model.n_tokens_seen == 2 * (stained.n_obs - 2)
    for modality in MODALITIES:
        assert np.isfinite(model.get_latent_representation(modality=modality)).all()
    assert np.isfinite(model.predict_expression(stained, method="retrieval")).all()
    # Nothing is known of their genes, so they have the same vector.
    gene = model.get_latent_representation(modality="gene", level="spot")
    np.testing.assert_allclose(gene[3], gene[20], atol=1e-6)


def test_cells_in_bins():
    """Cells of one bin share its expression; each has an image of its own."""
    adata = stained_tissue(10, 10, layout="irregular", seed=1)
    pp.compact_grid(adata, layout="bins", bin_size=3 * PITCH)
    pp.build_niches(adata)
    model = aligner_of(adata)
    image, gene = (model.get_latent_representation(modality=name, level="spot") for name in ("image", "gene"))
    bins = adata.obs.groupby(["grid_row", "grid_col"]).indices.values()
    assert len(bins) < adata.n_obs / 2
    for members in bins:
        np.testing.assert_allclose(gene[members], np.tile(gene[members[0]], (len(members), 1)), atol=1e-5)
    assert len(np.unique(image.round(4), axis=0)) == adata.n_obs
    order = np.random.default_rng(0).permutation(adata.n_obs)
    found = model.get_latent_representation(adata[order].copy())
    np.testing.assert_allclose(found, model.get_latent_representation()[order], atol=1e-4)


@pytest.mark.filterwarnings("ignore:invalid value encountered in divide")
@pytest.mark.parametrize("n_obs", [2, 3, 6])
def test_a_few_spots(stained, n_obs):
    model = aligner_of(prepared(stained[:n_obs].copy()))
    assert np.isfinite(model.get_latent_representation()).all()
    assert np.isfinite(model.predict_expression(stained)).all()


def test_directions_without_spread_start_nothing(stained_parts):
    """Five spots in each of two slides: the ninth component of the expression is rounding."""
    few = [prepared(part[:5].copy()) for part in stained_parts]
    model = STAlign(few, image_encoder=None, n_pool_genes=40, config=TINY)
    for weights in model.module.parameters():
        assert torch.isfinite(weights).all()
        assert weights.abs().max() < 40


def test_spots_of_other_slides_may_lie_outside_an_image(stained_pair, stained_parts):
    larger = stained_pair.obs["slide"] == "slide_2"
    stained_pair.obsm["spatial"][larger] *= 2
    stained_parts[1].obsm["spatial"] *= 2
    entry = library(stained_parts[1], seed=1)
    stained_parts[1].uns["spatial"] = {"slide_2": entry}
    stained_pair.uns["spatial"]["slide_2"] = entry
    prepared(stained_pair, slide_key="slide")
    prepared(stained_parts[1])
    model = aligner_of(stained_pair)
    for part, name in zip(stained_parts, ["slide_1", "slide_2"], strict=True):
        expected = model.get_latent_representation(part, modality="image")
        found = model.get_latent_representation(modality="image")[stained_pair.obs["slide"] == name]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_slides_of_equal_name_in_several_anndata(stained_pair):
    """In a model's manifest they get a number; their images are those of their own AnnData."""
    other = prepared(stained_tissue(n_slides=2, seed=6), slide_key="slide")
    model = aligner_of([stained_pair, other])
    names = model.manifest["slides"]["name"].tolist()
    assert names == ["slide_1-1", "slide_2-1", "slide_1-2", "slide_2-2"]
    apart = [model.get_latent_representation(adata, modality="image") for adata in (stained_pair, other)]
    np.testing.assert_allclose(model.get_latent_representation(modality="image"), np.concatenate(apart), atol=1e-5)


def test_coordinates_of_another_name(aligner, stained):
    expected = aligner.get_latent_representation()
    stained.obsm["pixels"] = stained.obsm.pop("spatial")
    pp.compact_grid(stained, spatial_key="pixels")
    pp.build_niches(stained, spatial_key="pixels")
    np.testing.assert_allclose(aligner.get_latent_representation(stained), expected, atol=1e-6)


def test_niches_and_grid_of_another_name(aligner, stained):
    for key in ("grid_row", "grid_col"):
        del stained.obs[key]
    for field, key in ((stained.obsp, "niche_connectivities"), (stained.obsm, "niche_bbox"), (stained.uns, "grid")):
        del field[key]
    pp.compact_grid(stained, key_added="raster")
    pp.build_niches(stained, grid_key="raster", key_added="ring")
    STAlign.setup_anndata(stained, grid_key="raster")
    other = aligner_of(stained, niche_key="ring")
    assert other.model_id == aligner.model_id
    np.testing.assert_array_equal(other.get_latent_representation(stained), aligner.get_latent_representation())


def test_counts_in_a_layer(aligner, stained):
    stained.layers["counts"] = stained.X.copy()
    stained.X = np.log1p(stained.X.toarray())
    STAlign.setup_anndata(stained, layer="counts")
    np.testing.assert_array_equal(aligner.get_latent_representation(stained), aligner.get_latent_representation())
    assert aligner_of(stained).model_id == aligner.model_id
    del stained.layers["counts"]  # of no interest to the image
    expected = aligner.get_latent_representation(modality="image")
    np.testing.assert_array_equal(aligner.get_latent_representation(stained, modality="image"), expected)


def test_predictions_are_not_negative(aligner, stained):
    lower = copy.copy(aligner)
    lower.head = replace(aligner.head, intercept=aligner.head.intercept - 2)
    expected = np.maximum(aligner.predict_expression(stained) - 2, 0)
    assert (expected == 0).any()
    np.testing.assert_allclose(lower.predict_expression(stained), expected, atol=1e-5)
