"""Views of a slide row of windows by row of windows, against the same written out for whole slides."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from slides import random_slide

from stimage.data import Corpus, crop, select_window_genes, window_positions
from stimage.models import _codebook, _readout, _tiles, _views
from stimage.models._readout import Readout
from stimage.models._views import VIEWS, Band, plan_repeats, stream_views, views_of
from stimage.modules import AutoencoderConfig, MaskedAutoencoder

OPTIONS = {"tile_size": 6, "n_repeats": 2, "n_genes": None, "batch_size": 5, "seed": 3}


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


def hidden_sets(name, n_sites, rng):
    if name == "visible":
        return [np.zeros(n_sites, dtype=bool)]
    if name == "context":
        half = rng.permutation(n_sites) % 2 == 0
        return [half, ~half]
    part = rng.permutation(n_sites) % 10
    return [part != 0, part != 1]


@torch.no_grad()
def whole_views(module, slide, names, *, tile_size, n_repeats, n_genes, batch_size, seed):
    dense = slide.expression[np.arange(slide.n_sites)].toarray()
    views = {}
    for name in names:
        rng = np.random.default_rng([seed, VIEWS.index(name)])
        total, times = 0, 0
        for _ in range(1 if name == "visible" and n_genes is None else n_repeats):
            genes = np.arange(dense.shape[1])
            if n_genes is not None:
                genes = np.flatnonzero(slide.measured)
                variance = (dense[slide.active] ** 2).mean(axis=0) - slide.gene_mean**2
                genes = genes[select_window_genes(np.maximum(variance, 0)[genes], n_genes, rng=rng)]
            centred = torch.as_tensor((dense - slide.gene_mean)[:, genes].astype(np.float32))
            tokens = module.genes(centred[None], torch.as_tensor(genes)[None])[0]
            for hidden in hidden_sets(name, slide.n_sites, rng):
                counts = np.ones(slide.n_sites, dtype=bool) if name == "visible" else hidden
                total = total + np.where(counts[:, None], whole_pass(module, slide, tokens, hidden, tile_size), 0)
                times = times + counts[:, None]
        views[name] = total / times
    return views


def assert_same_views(module, slide, names=VIEWS, **changes):
    options = {**OPTIONS, **changes}
    found = views_of(module, slide, names, np.arange(slide.n_sites), **options)
    expected = whole_views(module, slide, names, **options)
    assert list(found) == list(names)
    for name in names:
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


@pytest.mark.parametrize("layout", ["hex", "square"])
@pytest.mark.parametrize("shape", [(17, 9), (6, 14), (3, 4), (13, 4), (2, 11)])
def test_streamed_views_are_those_of_the_whole_slide(module, layout, shape):
    slide = random_slide(*shape, layout=layout, parity=1, seed=sum(shape))
    assert_same_views(module, slide)


@pytest.mark.parametrize("tile_size", [2, 5, 7, 30])
def test_sizes_of_windows(module, tile_size):
    assert_same_views(module, random_slide(15, 8, seed=1), tile_size=tile_size)


@pytest.mark.parametrize("n_genes", [2, 5])
def test_draws_of_genes(module, n_genes):
    assert_same_views(module, random_slide(14, 7, unmeasured=1, seed=2), n_genes=n_genes)


@pytest.mark.parametrize("decoder_layers", [1, 2])
def test_models_with_a_decoder(decoder_layers):
    assert_same_views(random_module(decoder_layers=decoder_layers), random_slide(14, 7, seed=4))


def test_slides_with_little_to_see(module):
    # Windows without a visible site, rows without tissue, and few sites with counts.
    slide = random_slide(20, 9, holes=0.7, empty=0.8, seed=5)
    raster = slide.raster.copy()
    raster[5:13] = -1
    assert_same_views(module, replace(slide, raster=raster))
    assert_same_views(random_module(decoder_layers=1), replace(slide, raster=raster))


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
    assert_same_views(module, shuffled)


def test_sites_that_the_raster_does_not_show(module):
    slide = random_slide(12, 9, seed=7)
    slide = slide.restrict(np.arange(12)[:, None] + np.arange(9) > 6)
    shown = np.isin(np.arange(slide.n_sites), slide.raster)
    assert 0 < shown.sum() < slide.n_sites
    views = views_of(module, slide, VIEWS, np.arange(slide.n_sites), **OPTIONS)
    expected = whole_views(module, slide, VIEWS, **OPTIONS)
    for name in VIEWS:
        assert np.isnan(views[name][~shown]).all()
        np.testing.assert_allclose(views[name][shown], expected[name][shown], atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_batch_size_does_not_matter(module, batch_size, monkeypatch):
    monkeypatch.setattr(_tiles, "CPU_BATCH", 1000)
    slide = random_slide(16, 9, seed=8)
    expected, found = (
        views_of(module, slide, VIEWS, np.arange(slide.n_sites), **{**OPTIONS, "batch_size": size})
        for size in (7, batch_size)
    )
    for name in VIEWS:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


def test_every_site_is_told_once_and_in_bands(module):
    slide = random_slide(23, 8, seed=9)
    rows_of_bands = []
    for sites, views in stream_views(module, slide, ["context"], **OPTIONS):
        assert len(sites) == len(views["context"])
        rows_of_bands.append(slide.site_index[sites, 0])
    assert len(rows_of_bands) == 7
    for before, after in zip(rows_of_bands, rows_of_bands[1:], strict=False):
        assert before.max() < after.min()
    assert sum(map(len, rows_of_bands)) == slide.n_sites


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
    views_of(module, watched, VIEWS, np.arange(slide.n_sites), **OPTIONS)
    reads = watched.expression.reads
    np.testing.assert_array_equal(np.concatenate(reads), np.arange(slide.n_sites))
    assert max(map(len, reads)) <= 6 * 8


@pytest.mark.parametrize("n_genes", [None, 3])
def test_expression_on_disk(module, tmp_path, n_genes):
    slide = random_slide(14, 8, seed=11)
    Corpus([slide], [f"gene{i}" for i in range(6)]).write(tmp_path / "corpus", target_sum=slide.target_sum)
    (stored,) = Corpus.open(tmp_path / "corpus")
    assert type(stored.expression) is not type(slide.expression)
    expected, found = (
        views_of(module, one, VIEWS, np.arange(slide.n_sites), **{**OPTIONS, "n_genes": n_genes})
        for one in (slide, stored)
    )
    for name in VIEWS:
        np.testing.assert_allclose(found[name], expected[name], atol=1e-6)


class Weighed(Band):
    """A band that notes the largest number of bytes in its tensors."""

    most = 0

    def extend(self, stop):
        super().extend(stop)
        tensors = [*self.tokens, *self.totals.values(), *self.weights.values()]
        Weighed.most = max(Weighed.most, sum(part.untyped_storage().nbytes() for part in tensors))


def held_while_streaming(module, slide):
    """Largest number of bytes in the tensors of a band, and in numpy arrays at any time."""
    slide.active, slide.gene_mean  # noqa: B018 - of the slide, however it is embedded
    Weighed.most = 0
    tracemalloc.start()
    for _ in stream_views(module, slide, VIEWS, **OPTIONS):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return Weighed.most, peak


def test_memory_does_not_grow_with_the_rows(module, monkeypatch):
    monkeypatch.setattr(_views, "Band", Weighed)
    short, tall = (random_slide(n_rows, 8, holes=0.0, seed=12) for n_rows in (15, 90))
    held_while_streaming(module, short)  # what is made once
    (tensors, arrays), (more_tensors, more_arrays) = (held_while_streaming(module, slide) for slide in (short, tall))
    assert more_tensors == tensors > 0
    # A byte for each repeat, and two numbers while one is drawn; the views of a site are 192 bytes.
    assert more_arrays - arrays < 32 * (tall.n_sites - short.n_sites)


def test_repeats_are_kept_as_bytes():
    slide = random_slide(10, 10, seed=13)
    repeats, draws = plan_repeats(slide, VIEWS, n_repeats=3, n_genes=None, seed=0)
    assert [repeat.view for repeat in repeats] == ["visible", *["context"] * 3, *["surroundings"] * 3]
    assert all(repeat.part.nbytes == slide.n_sites for repeat in repeats)
    assert draws == [None]
    sites = np.arange(slide.n_sites)
    for repeat in repeats[1:]:
        (first, _), (second, _) = repeat.passes(sites)
        assert (first | second).all()
        share = 0.5 if repeat.view == "context" else 0.9
        assert abs(first.mean() - share) < 0.02


# The part of the model that a window needs


@pytest.mark.parametrize("decoder_layers", [0, 1, 2])
@pytest.mark.parametrize("n_layers", [1, 3])
def test_leading_visible_and_trailing_told_sites(decoder_layers, n_layers):
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
        for n_told in (11, 6, 1):
            found = module(tokens, positions, tissue, hidden, n_visible=5, n_told=n_told)
            assert found.shape == (3, n_told, 16)
            told = tissue[:, -n_told:]
            torch.testing.assert_close(found[told], expected[:, -n_told:][told], rtol=1e-5, atol=1e-5)


# The readout of a slide of very many sites


def test_a_readout_is_fitted_on_some_sites_of_a_huge_slide(module, monkeypatch):
    slide = random_slide(24, 20, empty=0.1, seed=14)
    options = {"tile_size": 8, "n_repeats": 1, "batch_size": 32, "seed": 0}
    monkeypatch.setattr(_codebook, "N_STARTS", 1)
    everything = Readout.fit(module, [slide], **options)
    fitted = []
    fit = _readout.Codebook.fit
    monkeypatch.setattr(_readout.Codebook, "fit", lambda views, seed: fitted.append(views) or fit(views, seed=seed))
    monkeypatch.setattr(_readout, "MOST_SITES", 150)
    some = Readout.fit(module, [slide], **options)
    assert {len(view) for view in fitted[0]} == {150}
    for name in VIEWS:
        assert some.scales[name] != everything.scales[name]
        assert some.scales[name] == pytest.approx(everything.scales[name], rel=0.3)
