from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from slides import random_slide

from stimage.data import (
    Corpus,
    WindowDataModule,
    WindowSpec,
    cut_window,
    split_by_block,
    split_by_slide,
    window_origins,
)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 99), st.integers(1, 5), st.sampled_from([0.05, 0.1, 0.2]), st.sampled_from([0.0, 0.3]))
def test_no_training_site_comes_within_the_buffer(seed, buffer, validation_size, holes):
    slide = random_slide(24, 26, holes=holes, seed=seed)
    training, validation = split_by_block(slide, validation_size, buffer=buffer, seed=seed)
    sites = [np.argwhere(part.raster >= 0) for part in (training, validation)]
    assert cdist(*sites, metric="chebyshev").min() > buffer
    assert len(sites[0]) >= 0.25 * slide.n_sites
    assert 0.5 * validation_size <= len(sites[1]) / slide.n_sites < 2 * validation_size
    # The block is whole: all tissue of its bounding box.
    (top, left), (bottom, right) = sites[1].min(axis=0), sites[1].max(axis=0)
    assert (slide.raster[top : bottom + 1, left : right + 1] >= 0).sum() == len(sites[1])


def test_training_windows_show_nothing_of_the_block():
    slide = random_slide(24, 24, seed=3)
    spec = WindowSpec(window=4, n_genes=6)
    training, validation = split_by_block(slide, 0.1, buffer=4)
    block = np.argwhere(validation.raster >= 0)
    for top, left in window_origins(training, 4, 0.0):
        window = cut_window(training, top, left, spec, np.random.default_rng(0))
        seen = np.argwhere(window.observed.reshape(4, 4)) + [top, left]
        assert cdist(seen, block, metric="chebyshev").min() > 4


def test_training_does_not_depend_on_the_block():
    slide = random_slide(24, 24, seed=3)
    corpus = Corpus([slide], list("abcdef"))
    options = {"batch_size": 4, "windows_per_epoch": 8, "validation_size": 0.1}
    data = WindowDataModule(corpus, WindowSpec(window=4, n_genes=3), **options)
    left = np.isin(np.arange(slide.n_sites), data.training_slides[0].raster)
    changed = slide.expression.toarray()
    changed[~left] += 5
    changed = replace(slide, expression=type(slide.expression)(changed))
    other = WindowDataModule(Corpus([changed], corpus.genes), data.spec, **options)
    np.testing.assert_array_equal(other.training_slides[0].gene_mean, data.training_slides[0].gene_mean)
    np.testing.assert_array_equal(other.validation_slides[0].gene_mean, data.training_slides[0].gene_mean)
    assert (other.validation_slides[0].expression != data.validation_slides[0].expression).nnz
    for first, second in zip(data.train_dataloader(), other.train_dataloader(), strict=True):
        for field in first:
            np.testing.assert_array_equal(first[field], second[field])


def test_same_seed_gives_the_same_block():
    slide = random_slide(30, 30)
    first, again = (split_by_block(slide, 0.1, buffer=2, seed=4)[1].raster for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_too_small_for_a_block():
    with pytest.raises(ValueError, match=r"'slide' \(8 x 8 sites\) is too small.*buffer of 6.*`validation_size=0`"):
        split_by_block(random_slide(8, 8), 0.1, buffer=6)


@settings(deadline=None)
@given(st.integers(2, 12), st.floats(0.01, 0.99), st.integers(0, 20))
def test_slides_go_to_one_side(n_slides, validation_size, seed):
    slides = [random_slide(2, 2, name=str(i)) for i in range(n_slides)]
    training, validation = split_by_slide(slides, validation_size, seed=seed)
    assert training
    assert validation
    assert sorted(slide.name for slide in training + validation) == sorted(slide.name for slide in slides)
    assert abs(len(validation) - validation_size * n_slides) <= 1


def test_one_slide_cannot_be_split_by_slide():
    with pytest.raises(ValueError, match="at least two slides, got 1"):
        split_by_slide([random_slide()], 0.5)


@pytest.mark.parametrize(("n_slides", "whole"), [(4, False), (5, True)])
def test_whole_slides_are_held_out_when_there_are_enough(n_slides, whole):
    slides = [random_slide(20, 20, name=str(i), seed=i) for i in range(n_slides)]
    data = WindowDataModule(
        Corpus(slides, list("abcdef")), WindowSpec(window=3, n_genes=2), windows_per_epoch=4, validation_size=0.2
    )
    names = [{slide.name for slide in part} for part in (data.training_slides, data.validation_slides)]
    if whole:
        assert not names[0] & names[1]
        assert names[0] | names[1] == {slide.name for slide in slides}
    else:
        assert names[0] == names[1] == {slide.name for slide in slides}
