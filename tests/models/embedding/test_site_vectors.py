"""Vectors of a slide row of tiles by row of tiles, against the same written out for whole slides."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from slides import random_slide

from stimage.data import Corpus, crop, select_window_genes, window_positions
from stimage.models.embedding import _site_vectors, _tiles
from stimage.models.embedding._site_vectors import EMBEDDING_MODES, N_REPEATS, SlideRows, plan_passes, stream_vectors
from stimage.modules import AutoencoderConfig, MaskedAutoencoder

OPTIONS = {"tile_size": 6, "n_genes": None, "batch_size": 5, "seed": 3}


def random_module(n_genes=6, **sizes):
    sizes = {"dim": 16, "n_layers": 2, "n_heads": 4, "dim_feedforward": 24, "decoder_feedforward": 24, **sizes}
    module = MaskedAutoencoder(n_genes, AutoencoderConfig(**sizes)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return module


@pytest.fixture(scope="module")
def module():
    return random_module()


# The reference: one pass over the whole slide after the other, one window at a time, all sites of it in the model.


def whole_pass(module, slide, tokens, hidden, size):
    def starts(length):
        if length <= size:
            return [(length - size) // 2]
        return sorted({*range(0, length - size, max(size // 2, 1)), length - size})

    from_border = np.minimum(np.arange(size), np.arange(size)[::-1]) + 1.0
    share = np.outer(from_border, from_border).ravel()
    total, weights = np.zeros(tokens.shape), np.zeros(len(tokens))
    for top in starts(slide.shape[0]):
        for left in starts(slide.shape[1]):
            sites = crop(slide.raster, top, left, size, size).ravel()
            tissue = sites >= 0
            if tissue.any():
                vectors = module(
                    tokens[sites.clip(0)][None],
                    torch.as_tensor(window_positions(slide, top, left, size, size))[None],
                    torch.as_tensor(tissue)[None],
                    torch.as_tensor((hidden | ~slide.active)[sites.clip(0)] & tissue)[None],
                )[0].numpy()
                total[sites[tissue]] += share[tissue, None] * vectors[tissue]
                weights[sites[tissue]] += share[tissue]
    return np.divide(total, weights[:, None], out=np.full_like(total, np.nan), where=weights[:, None] > 0)


def hidden_sets(mode, n_sites, rng):
    if mode == "visible":
        return [np.zeros(n_sites, dtype=bool)]
    half = rng.permutation(n_sites) % 2 == 0
    return [half, ~half]


@torch.no_grad()
def whole_vectors(module, slide, mode, *, tile_size, n_genes, batch_size, seed):
    dense = slide.expression[np.arange(slide.n_sites)].toarray()
    rng = np.random.default_rng([seed, EMBEDDING_MODES.index(mode)])
    total, times = 0, 0
    for _ in range(1 if mode == "visible" and n_genes is None else N_REPEATS):
        genes = np.arange(dense.shape[1])
        if n_genes is not None:
            genes = np.flatnonzero(slide.measured)
            variance = (dense[slide.active] ** 2).mean(axis=0) - slide.gene_mean**2
            genes = genes[select_window_genes(np.maximum(variance, 0)[genes], n_genes, rng=rng)]
        centred = torch.as_tensor((dense - slide.gene_mean)[:, genes].astype(np.float32))
        tokens = module.genes(centred[None], torch.as_tensor(genes)[None])[0]
        for hidden in hidden_sets(mode, slide.n_sites, rng):
            counts = np.ones(slide.n_sites, dtype=bool) if mode == "visible" else hidden
            total = total + np.where(counts[:, None], whole_pass(module, slide, tokens, hidden, tile_size), 0)
            times = times + counts[:, None]
    return total / times


def streamed_vectors(module, slide, mode, **options):
    """Vectors of all sites; NaN where the raster does not show them."""
    vectors = np.full((slide.n_sites, module.config.dim), np.nan, dtype=np.float32)
    for sites, part in stream_vectors(module, slide, mode, **options):
        assert part.dtype == np.float32
        vectors[sites] = part
    return vectors


def assert_same_vectors(module, slide, **changes):
    options = {**OPTIONS, **changes}
    for mode in EMBEDDING_MODES:
        found = streamed_vectors(module, slide, mode, **options)
        np.testing.assert_allclose(found, whole_vectors(module, slide, mode, **options), atol=1e-5)


@pytest.mark.parametrize("layout", ["hex", "square"])
@pytest.mark.parametrize("shape", [(17, 9), (6, 14), (3, 4), (13, 4), (2, 11)])
def test_streamed_vectors_are_those_of_the_whole_slide(module, layout, shape):
    slide = random_slide(*shape, layout=layout, parity=1, seed=sum(shape))
    assert_same_vectors(module, slide)


@pytest.mark.parametrize("tile_size", [2, 5, 7, 30])
def test_sizes_of_windows(module, tile_size):
    assert_same_vectors(module, random_slide(15, 8, seed=1), tile_size=tile_size)


@pytest.mark.parametrize("n_genes", [2, 5])
def test_draws_of_genes(module, n_genes):
    assert_same_vectors(module, random_slide(14, 7, unmeasured=1, seed=2), n_genes=n_genes)


@pytest.mark.parametrize("decoder_layers", [1, 2])
def test_models_with_a_decoder(decoder_layers):
    assert_same_vectors(random_module(decoder_layers=decoder_layers), random_slide(14, 7, seed=4))


def test_slides_with_little_to_see(module):
    # Windows without a visible site, rows without tissue, and few sites with counts.
    slide = random_slide(20, 9, holes=0.7, empty=0.8, seed=5)
    raster = slide.raster.copy()
    raster[5:13] = -1
    assert_same_vectors(module, replace(slide, raster=raster))
    assert_same_vectors(random_module(decoder_layers=1), replace(slide, raster=raster))


def test_sites_in_another_order(module):
    slide = random_slide(13, 8, seed=6)
    order = np.random.default_rng(0).permutation(slide.n_sites)
    number = np.append(np.argsort(order), -1).astype(np.int32)
    shuffled = replace(
        slide,
        expression=slide.expression[order],
        library_size=slide.library_size[order],
        raster=number[slide.raster],
    )
    assert_same_vectors(module, shuffled)


def test_sites_that_the_raster_does_not_show(module):
    slide = random_slide(12, 9, seed=7)
    slide = slide.restrict(np.arange(12)[:, None] + np.arange(9) > 6)
    shown = np.isin(np.arange(slide.n_sites), slide.raster)
    assert 0 < shown.sum() < slide.n_sites
    for mode in EMBEDDING_MODES:
        found = streamed_vectors(module, slide, mode, **OPTIONS)
        expected = whole_vectors(module, slide, mode, **OPTIONS)
        assert np.isnan(found[~shown]).all()
        np.testing.assert_allclose(found[shown], expected[shown], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_batch_size_does_not_matter(module, batch_size, monkeypatch):
    monkeypatch.setattr(_tiles, "CPU_BATCH", 1000)
    slide = random_slide(16, 9, seed=8)
    for mode in EMBEDDING_MODES:
        expected, found = (
            streamed_vectors(module, slide, mode, **{**OPTIONS, "batch_size": size}) for size in (7, batch_size)
        )
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_every_site_comes_once_from_the_first_rows_to_the_last(module):
    slide = random_slide(23, 8, seed=9)
    rows_of_parts = []
    for sites, vectors in stream_vectors(module, slide, "context", **OPTIONS):
        assert len(sites) == len(vectors)
        rows_of_parts.append(slide.site_index[sites, 0])
    assert len(rows_of_parts) == 7
    for before, after in zip(rows_of_parts, rows_of_parts[1:], strict=False):
        assert before.max() < after.min()
    assert sum(map(len, rows_of_parts)) == slide.n_sites


class Watched:
    """A CSR matrix that notes which rows are read."""

    def __init__(self, matrix):
        self.matrix, self.shape, self.reads = matrix, matrix.shape, []

    def __getitem__(self, rows):
        self.reads.append(np.arange(self.shape[0])[rows])
        return self.matrix[rows]


def test_rows_of_expression_are_read_once_and_few_at_a_time(module):
    slide = random_slide(30, 8, seed=10)
    watched = replace(slide, expression=Watched(slide.expression), centre=slide.gene_mean)
    streamed_vectors(module, watched, "context", **OPTIONS)
    reads = watched.expression.reads
    np.testing.assert_array_equal(np.concatenate(reads), np.arange(slide.n_sites))
    assert max(map(len, reads)) <= 6 * 8


@pytest.mark.parametrize("n_genes", [None, 3])
def test_expression_on_disk(module, tmp_path, n_genes):
    slide = random_slide(14, 8, seed=11)
    Corpus([slide], [f"gene{i}" for i in range(6)]).write(tmp_path / "corpus", target_sum=slide.target_sum)
    (stored,) = Corpus.open(tmp_path / "corpus")
    assert type(stored.expression) is not type(slide.expression)
    for mode in EMBEDDING_MODES:
        expected, found = (
            streamed_vectors(module, one, mode, **{**OPTIONS, "n_genes": n_genes}) for one in (slide, stored)
        )
        np.testing.assert_allclose(found, expected, atol=1e-6)


class Weighed(SlideRows):
    """Rows that note the largest number of bytes in their tensors."""

    most = 0

    def extend(self, stop):
        super().extend(stop)
        tensors = [*self.tokens, self.total, self.weights]
        Weighed.most = max(Weighed.most, sum(part.untyped_storage().nbytes() for part in tensors))


def held_while_streaming(module, slide):
    """Largest number of bytes in the tensors of rows, and in numpy arrays at any time."""
    slide.active, slide.gene_mean  # noqa: B018 - of the slide, however it is embedded
    Weighed.most = 0
    tracemalloc.start()
    for _ in stream_vectors(module, slide, "context", **OPTIONS):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return Weighed.most, peak


def test_memory_does_not_grow_with_the_rows(module, monkeypatch):
    monkeypatch.setattr(_site_vectors, "SlideRows", Weighed)
    short, tall = (random_slide(n_rows, 8, holes=0.0, seed=12) for n_rows in (15, 90))
    held_while_streaming(module, short)  # what is made once
    (tensors, arrays), (more_tensors, more_arrays) = (held_while_streaming(module, slide) for slide in (short, tall))
    assert more_tensors == tensors > 0
    # A byte for each pass, and two numbers while one is drawn; the vector of a site is 64 bytes.
    assert more_arrays - arrays < 32 * (tall.n_sites - short.n_sites)


def test_every_site_is_masked_once_in_each_repeat():
    slide = random_slide(10, 10, seed=13)
    ((genes, (visible,)),) = plan_passes(slide, "visible", n_genes=None, seed=0)
    assert genes is None
    assert not visible.any()
    ((genes, passes),) = plan_passes(slide, "context", n_genes=None, seed=0)
    assert genes is None
    assert len(passes) == 2 * N_REPEATS
    assert all(masked.nbytes == slide.n_sites for masked in passes)
    for first, second in zip(passes[::2], passes[1::2], strict=True):
        np.testing.assert_array_equal(first, ~second)
        assert abs(first.mean() - 0.5) < 0.02
    assert not np.array_equal(passes[0], passes[2])


# The part of the model that a window needs


@pytest.mark.parametrize("decoder_layers", [0, 1, 2])
@pytest.mark.parametrize("n_layers", [1, 3])
def test_leading_visible_and_trailing_output_sites(decoder_layers, n_layers):
    module = random_module(n_layers=n_layers, decoder_layers=decoder_layers)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(3, 11, 16, generator=generator)
    positions = torch.randn(3, 11, 2, generator=generator)
    tissue = torch.rand(3, 11, generator=generator) < 0.8
    hidden = (torch.arange(11) >= 5) | (torch.rand(3, 11, generator=generator) < 0.3)
    tissue[:, 0], hidden[:, 0] = True, False
    hidden &= tissue
    with torch.no_grad():
        expected = module(tokens, positions, tissue, hidden)
        for n_output in (11, 6, 1):
            found = module(tokens, positions, tissue, hidden, n_visible=5, n_output=n_output)
            assert found.shape == (3, n_output, 16)
            there = tissue[:, -n_output:]
            torch.testing.assert_close(found[there], expected[:, -n_output:][there], rtol=1e-5, atol=1e-5)
