from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from stimage import datasets, pp
from stimage.benchmark import (
    counting_noise_floor,
    evaluate_regions,
    model_predictor,
    nearest_spots,
    reconstruction_scores,
)
from stimage.data import site_positions
from stimage.models import STImage

METHODS = ["closed-form fill", "inverse distance", "kriging", "mean of 16 nearest spots", "mean of the window"]


@pytest.fixture
def slide():
    """Expression, positions, sites and library size of a slide with a gradient, in random order."""
    order = np.random.default_rng(0).permutation(400)
    rows, cols = (index.ravel()[order] for index in np.indices((20, 20)))
    rng = np.random.default_rng(1)
    rates = rng.gamma(1, 2, 40) * np.exp(0.1 * np.outer(rows, rng.normal(size=40)))
    counts = rng.poisson(rates)
    library_size = counts.sum(axis=1) + 100
    expression = np.log1p(1e4 * counts / library_size[:, None])
    sites = np.column_stack([rows, cols])
    return expression, sites[:, ::-1].astype(float), sites, library_size


def test_what_predictors_see_and_how_they_are_scored(slide):
    expression, positions, sites, library_size = slide
    seen = []

    def spy(shown, where, hidden):
        seen.append((shown.copy(), where, hidden))
        return nearest_spots(shown, where, hidden, n_neighbors=4)

    options = {"library_size": library_size, "region_sizes": [4, 6], "window_sizes": [5, 12], "n_repeats": 2}
    records = evaluate_regions(expression, positions, sites, predictors={"spy": spy}, **options)
    assert len(records) == 6 * 3 * 2  # six methods, three pairs, two places: 6 in 5 is skipped
    assert sorted(records["method"].unique()) == [*METHODS, "spy"]
    mine = records[records["method"] == "spy"].reset_index(drop=True)
    assert len(seen) == len(mine) == 6
    for (shown, where, hidden), (_, row) in zip(seen, mine.iterrows(), strict=True):
        assert np.isnan(shown[hidden]).all()
        spots = [int(np.flatnonzero((positions == place).all(axis=1))[0]) for place in where]
        np.testing.assert_allclose(shown[~hidden], expression[spots][~hidden])
        region = sites[spots][hidden]
        assert hidden.sum() == row["n_hidden"] == row["region_size"] ** 2
        assert (np.ptp(region, axis=0) == row["region_size"] - 1).all()
        assert len(spots) == row["window_size"] ** 2 == row["n_hidden"] + row["n_visible"]
        truth = expression[spots][hidden]
        scores = reconstruction_scores(nearest_spots(shown, where, hidden, n_neighbors=4), truth)
        for metric in ("mse", "mae", "pearson"):
            assert row[metric] == pytest.approx(scores[metric])
        totals = library_size[spots][hidden]
        floor = counting_noise_floor(np.rint(np.expm1(truth) * totals[:, None] / 1e4), totals)
        assert row["floor"] == pytest.approx(floor)
        assert row["excess"] == pytest.approx(row["mse"] - floor)
    assert records["excess"].mean() > 0


def test_sparse_dense_and_seeds(slide):
    expression, positions, sites, library_size = slide
    options = {"library_size": library_size, "region_sizes": [5], "window_sizes": [10], "n_repeats": 3}
    dense = evaluate_regions(expression, positions, sites, **options)
    pd.testing.assert_frame_equal(
        dense, evaluate_regions(sparse.csr_matrix(expression), positions, sites + 7, **options)
    )
    assert not dense.equals(evaluate_regions(expression, positions, sites, **options, seed=1))


def test_spots_without_counts_are_left_out(slide):
    expression, positions, sites, library_size = slide
    library_size = library_size.copy()
    library_size[5], expression[5] = 0, 0
    options = {"library_size": library_size, "region_sizes": [4], "window_sizes": [20], "n_repeats": 1}
    records = evaluate_regions(expression, positions, sites, **options)
    assert (records["n_hidden"] + records["n_visible"] == 399).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"predictors": {"cheat": lambda x, p, h: x[h]}},
            r"`predictors\['cheat'\]` returned values that are not finite",
        ),
        ({"predictors": {"odd": lambda x, p, h: x[~h]}}, r"`predictors\['odd'\]` returned shape"),
        ({"region_sizes": [25], "window_sizes": [30]}, "`region_sizes` has 25, the slide is 20 x 20"),
        ({"region_sizes": [20], "window_sizes": [21]}, "leaves no spot visible"),
        ({"region_sizes": [9], "window_sizes": [9]}, "nothing would be visible"),
        ({"library_size": np.ones(3)}, "`library_size` has 3 rows"),
    ],
)
def test_bad_input(slide, change, message):
    expression, positions, sites, library_size = slide
    options = {"library_size": library_size, "region_sizes": [4], "window_sizes": [10], "n_repeats": 1}
    with pytest.raises(ValueError, match=message):
        evaluate_regions(expression, positions, sites, **{**options, **change})


def test_sites_must_be_whole_numbers(slide):
    expression, positions, sites, library_size = slide
    with pytest.raises(ValueError, match="`sites` must be whole numbers"):
        evaluate_regions(expression, positions, sites.astype(float), library_size=library_size)


def test_a_model_sees_the_window_only():
    adata = datasets.simulate_tissue(n_rows=16, n_cols=14, n_genes=60, seed=0)
    pp.compact_grid(adata)
    model = STImage(adata, window=6, n_pool_genes=40, n_genes=20)
    slide = model.corpus[0]
    genes = np.array([5, 0, 11])
    positions = site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity)
    predict = model_predictor(model, slide, genes)
    rng = np.random.default_rng(0)
    order = rng.permutation(slide.n_sites)
    hidden = np.zeros(slide.n_sites, dtype=bool)
    hidden[rng.permutation(slide.n_sites)[:9]] = True
    found = predict(np.zeros((slide.n_sites, 3)), positions[order], hidden[order])
    expected = np.zeros((slide.n_sites, 40))
    expected[hidden] = model.reconstruct(slide, hidden)
    np.testing.assert_allclose(found, expected[order][hidden[order]][:, genes], rtol=1e-5)

    inside = (slide.site_index < 8).all(axis=1)
    part = inside & hidden
    assert 0 < part.sum() < hidden.sum()
    found = predict(np.zeros((inside.sum(), 3)), positions[inside], part[inside])
    noise = rng.gamma(1, 1, slide.expression.shape).astype(np.float32)
    noise[inside & ~part] = slide.expression[inside & ~part].toarray()
    other = replace(slide, expression=sparse.csr_matrix(noise))
    again = model_predictor(model, other, genes)(np.zeros((inside.sum(), 3)), positions[inside], part[inside])
    np.testing.assert_allclose(found, again, rtol=1e-5)
