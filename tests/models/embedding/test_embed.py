from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import assert_unchanged
from scipy import sparse

from stimage import pp
from stimage.data import Corpus, window_positions
from stimage.models.embedding._inference import project
from stimage.models.embedding._predicted import predicted_components
from stimage.models.embedding._site_vectors import stream_vectors
from stimage.models.embedding._tiles import tiles_of

MODES = ["visible", "context"]


@pytest.fixture
def slide(trained):
    """The slide that the model was trained on, with a fixed centre: changes of a site change nothing else."""
    (slide,) = trained.corpus
    return replace(slide, centre=slide.gene_mean)


def embed(model, slide, **options):
    """Embedding of the sites of one slide (observations and sites are the same here, in another order)."""
    rows = model.get_latent_representation(Corpus([slide], model.genes), **options)
    sites = np.empty_like(rows)
    sites[slide.site_of_observation] = rows
    return sites


def encoder_output(model, slide, mode, *, tile_size=16):
    """Vectors of the sites of a slide before the readout."""
    vectors = np.empty((slide.n_sites, model.autoencoder.dim), dtype=np.float32)
    options = {"tile_size": tile_size, "n_genes": None, "batch_size": 32, "seed": 0}
    for sites, part in stream_vectors(model.module, slide, mode, **options):
        vectors[sites] = part
    return vectors


def with_expression(slide, site, values):
    expression = slide.expression.toarray()
    expression[site] = values
    return replace(slide, expression=sparse.csr_matrix(expression))


@pytest.mark.parametrize("mode", MODES)
def test_shape_and_repeatability(trained, tissue, mode):
    with assert_unchanged(tissue):
        embedding = trained.get_latent_representation(tissue, mode=mode)
    dim = trained.autoencoder.dim
    assert embedding.shape == (tissue.n_obs, 60 if mode == "context" else dim)
    assert embedding.dtype == np.float32
    assert np.isfinite(embedding).all()
    np.testing.assert_array_equal(trained.get_latent_representation(tissue, mode=mode), embedding)
    np.testing.assert_array_equal(trained.get_latent_representation(mode=mode), embedding)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batch_size_does_not_matter(trained, mode, batch_size):
    embedding = trained.get_latent_representation(mode=mode)
    np.testing.assert_allclose(
        trained.get_latent_representation(mode=mode, batch_size=batch_size), embedding, atol=1e-5
    )


def test_seed_sets_what_is_hidden(trained):
    context, other = (trained.get_latent_representation(mode="context", seed=seed) for seed in (0, 1))
    assert not np.array_equal(context, other)
    visible, same = (trained.get_latent_representation(mode="visible", seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(visible, same)


def test_context_is_the_readout_of_predictions_and_the_default(trained, slide):
    embedding = embed(trained, slide, mode="context")
    np.testing.assert_array_equal(embed(trained, slide), embedding)
    options = {"tile_size": 16, "batch_size": 32, "seed": 0}
    predicted = predicted_components(trained.module, slide, trained.readout.axes, **options)
    np.testing.assert_array_equal(embedding, trained.readout(slide, predicted))


def test_gene_draws(trained):
    few, again, other = (trained.get_latent_representation(mode="visible", n_genes=10, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(few, again)
    assert not np.array_equal(few, other)
    everything = trained.get_latent_representation(mode="visible", n_genes=len(trained.genes))
    np.testing.assert_allclose(everything, trained.get_latent_representation(mode="visible"), atol=1e-4)


def window_vectors(model, slide, top, left, size):
    """Encoder output at the sites of one window, all of them visible, from a dense computation."""
    centred = slide.expression.toarray() - slide.gene_mean
    rows, cols = (index.ravel() for index in np.indices((size, size)))
    rows, cols = rows + top, cols + left
    inside = (rows >= 0) & (rows < slide.shape[0]) & (cols >= 0) & (cols < slide.shape[1])
    sites = np.where(inside, slide.raster[np.where(inside, rows, 0), np.where(inside, cols, 0)], -1)
    tissue = torch.from_numpy(sites >= 0).unsqueeze(0)
    module = model.module
    with torch.no_grad():
        tokens = module.genes(
            torch.from_numpy(centred[np.maximum(sites, 0)].astype(np.float32)).unsqueeze(0),
            torch.arange(len(model.genes)).unsqueeze(0),
        )
        positions = torch.from_numpy(window_positions(slide, top, left, size, size)).unsqueeze(0)
        vectors = module(tokens, positions, tissue, torch.zeros_like(tissue))[0].numpy()
    return {site: vectors[i] for i, site in enumerate(sites) if site >= 0}


def test_one_window_that_holds_the_slide(trained, slide):
    size = max(slide.shape) + 2
    vectors = window_vectors(trained, slide, 0, 0, size)
    expected = np.stack([vectors[site] for site in range(slide.n_sites)])
    np.testing.assert_allclose(embed(trained, slide, mode="visible", tile_size=size), expected, atol=1e-4)


def test_overlapping_windows_are_averaged(trained, slide):
    embedding = embed(trained, slide, mode="visible", tile_size=8)
    seen = {site: [] for site in range(slide.n_sites)}
    for tile in tiles_of(slide, 8):
        for site, vector in window_vectors(trained, slide, tile.top, tile.left, 8).items():
            seen[site].append(vector)
    assert min(map(len, seen.values())) >= 1
    assert np.mean([len(vectors) for vectors in seen.values()]) > 2
    for site, vectors in seen.items():
        vectors = np.stack(vectors)
        assert (embedding[site] >= vectors.min(axis=0) - 1e-4).all()
        assert (embedding[site] <= vectors.max(axis=0) + 1e-4).all()
        if len(vectors) == 1:
            np.testing.assert_allclose(embedding[site], vectors[0], atol=1e-4)


@pytest.mark.parametrize("size", [4, 5, 8, 30])
def test_windows_cover_the_slide(trained, slide, size):
    covered = set()
    for tile in tiles_of(slide, size):
        assert tile.sites.shape == (size, size)
        assert (tile.sites >= 0).any()
        covered |= set(tile.sites[tile.sites >= 0].tolist())
    assert covered == set(range(slide.n_sites))


def test_tokens_are_those_of_the_dense_expression(trained, slide):
    module, genes = trained.module, np.arange(0, len(trained.genes), 3)
    dense = slide.expression.toarray() - slide.gene_mean
    for chosen in (None, genes):
        subset = np.arange(len(trained.genes)) if chosen is None else chosen
        expected = module.genes(
            torch.from_numpy(dense[None, :, subset].astype(np.float32)), torch.from_numpy(subset).unsqueeze(0)
        )[0]
        np.testing.assert_allclose(project(module, slide, chosen).detach(), expected.detach(), atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_a_far_corner_changes_nothing(trained, slide, mode):
    distance = slide.site_index.sum(axis=1)
    corner = int(distance.argmin())
    changed = with_expression(slide, corner, slide.expression.toarray()[corner] + 3)
    before, after = (encoder_output(trained, part, mode, tile_size=8) for part in (slide, changed))
    # A window has 8 rows and columns: a site farther away than that shares none with the corner.
    far = (slide.site_index - slide.site_index[corner] >= 8).any(axis=1)
    assert far.sum() > 50
    np.testing.assert_allclose(after[far], before[far], atol=1e-6)
    assert not np.allclose(after[~far], before[~far], atol=1e-4)


def test_a_masked_site_is_not_known(trained, tissue, slide):
    (row, col), site = slide.site_index[slide.n_sites // 2], slide.n_sites // 2
    observation = int(np.flatnonzero(slide.site_of_observation == site)[0])
    assert (tissue.obs["grid_row"].iloc[observation], tissue.obs["grid_col"].iloc[observation]) == (row, col)
    # The same counts on other genes: the library size stays.
    counts = tissue.X.toarray()
    counts[observation] = counts[observation][np.random.default_rng(0).permutation(tissue.n_vars)]
    changed = tissue.copy()
    changed.X = sparse.csr_matrix(counts)
    (other,) = Corpus.from_anndata(changed, genes=trained.genes).to_target_sum(trained.target_sum)
    np.testing.assert_array_equal(other.library_size, slide.library_size)
    other = replace(other, centre=slide.gene_mean)
    assert abs(other.expression - slide.expression).max(axis=1).toarray().ravel().astype(bool).tolist() == [
        number == site for number in range(slide.n_sites)
    ]

    before, after = (encoder_output(trained, part, "context") for part in (slide, other))
    np.testing.assert_allclose(after[site], before[site], atol=1e-6)
    near = np.abs(slide.site_index - [row, col]).max(axis=1) == 1
    assert np.abs(after - before)[near].max() > 1e-4
    before, after = (embed(trained, part, mode="visible") for part in (slide, other))
    assert np.abs(after - before)[site].max() > 1e-2


def test_a_site_without_counts_is_described_by_its_surroundings(trained, tissue):
    counts = tissue.X.toarray()
    counts[[5, 100]] = 0
    tissue.X = sparse.csr_matrix(counts)
    for mode in MODES:
        assert np.isfinite(trained.get_latent_representation(tissue, mode=mode)).all()
    visible = trained.get_latent_representation(tissue, mode="visible")
    (slide,) = Corpus.from_anndata(tissue, genes=trained.genes)
    # What is stored for such a site is never read.
    site = int(slide.site_of_observation[5])
    np.testing.assert_array_equal(
        trained.get_latent_representation(Corpus([with_expression(slide, site, 9.0)], trained.genes), mode="visible"),
        visible,
    )


def test_observations_of_one_bin_share_an_embedding(trained, tissue):
    pp.compact_grid(tissue, layout="bins", bin_size=300.0)
    embedding = trained.get_latent_representation(tissue)
    site = tissue.obs["grid_row"].to_numpy() * 1000 + tissue.obs["grid_col"].to_numpy()
    assert len(np.unique(site)) < tissue.n_obs
    _, first, inverse = np.unique(site, return_index=True, return_inverse=True)
    np.testing.assert_array_equal(embedding, embedding[first][inverse])


def test_order_of_observations_and_genes_does_not_matter(trained, tissue):
    rng = np.random.default_rng(0)
    order = rng.permutation(tissue.n_obs)
    shuffled = tissue[order, rng.permutation(tissue.n_vars)].copy()
    np.testing.assert_allclose(
        trained.get_latent_representation(shuffled), trained.get_latent_representation(tissue)[order], atol=1e-5
    )


def test_slides_with_other_genes(trained, tissue):
    some = tissue[:, tissue.var_names.isin(trained.genes[:30]) | (np.arange(tissue.n_vars) < 5)].copy()
    assert np.isfinite(trained.get_latent_representation(some)).all()
    more = tissue.copy()
    more.var_names = [f"ENSG{i:011}" for i in range(more.n_vars)]
    with assert_unchanged(more), pytest.raises(ValueError, match="of the vocabulary .*Ensembl"):
        trained.get_latent_representation(more)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": "hidden"}, ValueError, "`mode` must be one of 'visible', 'context', found 'hidden'"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1"),
        ({"tile_size": 0}, ValueError, "`tile_size` must be at least 2"),
        ({"n_genes": 0}, ValueError, "`n_genes` must be at least 1"),
    ],
)
def test_invalid_options(trained, options, error, message):
    with pytest.raises(error, match=message):
        trained.get_latent_representation(**options)


def test_a_corpus_over_other_genes(trained, tissue):
    corpus = Corpus.from_anndata(tissue, genes=trained.genes[::-1])
    with pytest.raises(ValueError, match="corpus over other genes.*genes=model.genes"):
        trained.get_latent_representation(corpus)


# Reconstruction of hidden sites


def test_reconstruction_does_not_know_what_it_hides(trained, slide):
    slide = replace(slide, centre=None)
    hidden = (np.abs(slide.site_index - [11, 10]) <= 2).all(axis=1)
    filled = trained.reconstruct(slide, hidden, context=4)
    assert filled.shape == (hidden.sum(), len(trained.genes))
    assert np.isfinite(filled).all()
    assert (filled >= 0).all()
    changed = with_expression(slide, np.flatnonzero(hidden), 7.0)
    np.testing.assert_array_equal(trained.reconstruct(changed, hidden, context=4), filled)
    beside = int(np.flatnonzero(np.abs(slide.site_index - [11, 10]).max(axis=1) == 3)[0])
    assert not np.allclose(trained.reconstruct(with_expression(slide, beside, 7.0), hidden, context=4), filled)


def test_reconstruction_of_everything_but_a_few(trained, slide):
    slide = replace(slide, centre=None)
    hidden = np.arange(slide.n_sites) >= 10
    filled = trained.reconstruct(slide, hidden)
    assert filled.shape == (slide.n_sites - 10, len(trained.genes))
    assert np.isfinite(filled).all()
