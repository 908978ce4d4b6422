import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from stimage.benchmark import (
    Split,
    _expression,
    evaluate_expression,
    mean_predictor,
    neighbor_predictor,
    random_split,
    ridge_predictor,
)

SECTIONS = ["C2", "C3", "C4"]
METHODS = ["gene mean", "ridge", "mean of 50 nearest images", "ridge, permuted spots"]


@pytest.fixture
def slides():
    """Expression that follows from features but for noise, features and slides, in random order."""
    rng = np.random.default_rng(0)
    slides = rng.permutation(np.repeat(["a", "b", "c"], [80, 90, 70]))
    features = rng.normal(size=(240, 8))
    expression = features @ rng.normal(size=(8, 60)) * rng.uniform(0.2, 1, 60) + rng.normal(size=(240, 60)) / 2 + 3
    return np.maximum(expression, 0), features, slides


def correlation(first, second):
    first, second = first - np.mean(first), second - np.mean(second)
    return (first @ second) / np.sqrt((first @ first) * (second @ second))


def test_what_predictors_get_and_how_they_are_scored(slides):
    expression, features, names = slides
    expression[names == "b", 5] = 1.5  # constant where it is tested, most variable in training
    expression[names != "b", 5] *= 10
    calls = []

    def spy(train, test, genes):
        prediction = ridge_predictor(expression, features, alpha=3.0)(train, test, genes)
        prediction[:, 1] = 0.5  # no correlation
        calls.append((train, test, genes, prediction))
        return prediction

    records = evaluate_expression(expression, features, names, predictors={"spy": spy}, n_genes=20)
    assert len(records) == 3 * (3 + 5 + 1)
    assert records["method"].unique().tolist() == [*METHODS, "spy"]
    mine = records[records["method"] == "spy"]
    assert set(mine["split"]) == {"a", "b", "c"}
    for (train, test, genes, prediction), (_, row) in zip(calls, mine.iterrows(), strict=True):
        np.testing.assert_array_equal(test, np.flatnonzero(names == row["split"]))
        np.testing.assert_array_equal(train, np.flatnonzero(names != row["split"]))
        variance = [np.var(expression[train, gene]) for gene in range(60)]
        assert sorted(genes) == genes.tolist() == sorted(sorted(range(60), key=lambda gene: -variance[gene])[:20])
        truth = expression[test][:, genes]
        scored = [gene for gene in range(20) if len(set(truth[:, gene])) > 1]
        assert row["n_genes_scored"] == len(scored) == (19 if row["split"] == "b" else 20)
        found = [0 if gene == 1 else correlation(prediction[:, gene], truth[:, gene]) for gene in scored]
        assert row["pearson"] == pytest.approx(np.mean(found))
        assert row["mse"] == pytest.approx(np.mean((prediction - truth) ** 2))
        assert row["mae"] == pytest.approx(np.mean(np.abs(prediction - truth)))
        assert row[["n_train", "n_test", "n_genes"]].tolist() == [len(train), len(test), 20]


def test_baselines_are_the_public_predictors(slides):
    expression, features, names = slides
    predictors = {
        "mean": mean_predictor(expression),
        "best ridge": ridge_predictor(expression, features, groups=names),
        "neighbors": neighbor_predictor(expression, features),
    }
    records = evaluate_expression(expression, features, names, predictors=predictors, permuted=False)
    table = records.set_index(["method", "split"])[["mse", "mae", "pearson"]]
    for baseline, method in zip(METHODS, predictors, strict=False):
        pd.testing.assert_frame_equal(table.loc[baseline], table.loc[method])
    alone = evaluate_expression(expression, None, names, predictors=predictors, baselines=False)
    assert alone["method"].unique().tolist() == list(predictors)
    alone = alone.set_index(["method", "split"])[["mse", "mae", "pearson"]]
    pd.testing.assert_frame_equal(alone.sort_index(), table.loc[[*predictors]].sort_index())


def test_the_gene_mean(slides):
    """Mean squared error is the variance and the squared distance of the means; there is no correlation."""
    expression, features, names = slides
    records = evaluate_expression(expression, features, names, n_genes=60)
    records = records[records["method"] == "gene mean"].set_index("split")
    for name in "abc":
        train, test = expression[names != name], expression[names == name]
        row = records.loc[name]
        assert row["mse"] == pytest.approx(np.mean(test.var(axis=0) + (train.mean(axis=0) - test.mean(axis=0)) ** 2))
        assert row["pearson"] == 0
        assert row["n_genes_scored"] == 60


def test_the_image_tells_and_permuted_images_do_not(slides):
    expression, features, names = slides
    records = evaluate_expression(expression, features, names, n_genes=50)
    means = records.groupby("method")[["pearson", "mse"]].mean()
    assert means.loc["ridge", "pearson"] > 0.8
    assert means.loc["mean of 50 nearest images", "pearson"] > 0.5
    assert means.loc["ridge", "mse"] < 0.5 * means.loc["gene mean", "mse"]
    control = records[records["method"] == METHODS[3]]
    assert len(control) == 3 * 5
    assert control["pearson"].nunique() == 15
    assert abs(control["pearson"].mean()) < 0.1
    assert means.loc[METHODS[3], "mse"] == pytest.approx(means.loc["gene mean", "mse"], rel=0.1)


def test_colour_of_real_sections_tells_expression(shared_data):
    """Mean and spread of the colour around each spot, three sections of one tumour."""
    adatas = [anndata.read_h5ad(shared_data / f"img-her2st_{name}" / f"img-her2st_{name}.h5ad") for name in SECTIONS]
    genes = sorted(set.intersection(*(set(adata.var_names) for adata in adatas)))
    expression, features = [], []
    for adata in adatas:
        counts = adata.X.toarray()
        log = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
        expression.append(log[:, adata.var_names.get_indexer(genes)])
        (block,) = adata.uns["spatial"].values()
        scale = block["scalefactors"]["tissue_hires_scalef"]
        for x, y in np.rint(adata.obsm["spatial"] * scale).astype(int):
            patch = block["images"]["hires"][max(y - 16, 0) : y + 17, max(x - 16, 0) : x + 17].reshape(-1, 3)
            features.append([*patch.mean(axis=0), *patch.std(axis=0)])
    groups = np.repeat(SECTIONS, [adata.n_obs for adata in adatas])
    records = evaluate_expression(np.concatenate(expression), np.array(features), groups)
    means = records.groupby("method")[["pearson", "mse"]].mean()
    assert means.loc["ridge", "pearson"] > 0.2
    assert means.loc["ridge", "mse"] < means.loc["gene mean", "mse"]
    assert abs(means.loc["ridge, permuted spots", "pearson"]) < 0.1


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 9999), n_genes=st.integers(1, 12), scale=st.sampled_from([0.0, 1.0, 1e3]))
def test_test_spots_change_no_prediction_and_no_gene(seed, n_genes, scale):
    rng = np.random.default_rng(seed)
    groups = np.repeat(["a", "b", "c"], 8)
    expression, features = rng.gamma(1, 1, (24, 10)), rng.normal(size=(24, 3))
    split = Split(np.arange(16), np.arange(16, 24), "c")
    other = expression.copy()
    other[split.test] = scale * rng.gamma(1, 1, (8, 10))

    def run(values):
        seen, chosen = [], []
        score = _expression._scores

        def record(prediction, truth):
            seen.append(prediction)
            return score(prediction, truth)

        def spy(train, test, genes):
            chosen.append(genes)
            return np.zeros((len(test), len(genes)))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_expression, "_scores", record)
            options = {"n_genes": n_genes, "splits": [split], "seed": seed}
            evaluate_expression(values, features, groups, predictors={"spy": spy}, **options)
        return seen, chosen

    (before, genes), (after, same_genes) = run(expression), run(other)
    np.testing.assert_array_equal(genes, same_genes)
    assert len(before) == 3 + 5 + 1
    np.testing.assert_array_equal(before, after)


def test_sparse_dense_and_seeds(slides):
    expression, features, names = slides
    dense = evaluate_expression(expression, features, names)
    assert (dense["n_genes"] == 60).all()  # all there are
    for form in (sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array):
        found = evaluate_expression(form(expression), features, names)
        pd.testing.assert_frame_equal(found, dense)
    other = evaluate_expression(expression, features, names, seed=1)
    permuted = dense["method"] == METHODS[3]
    pd.testing.assert_frame_equal(other[~permuted], dense[~permuted])
    assert (other[permuted]["mse"] != dense[permuted]["mse"]).all()


def test_other_splits_and_no_gene_that_varies(slides):
    expression, features, names = slides
    split = random_split(240, train_share=0.5, seed=3)
    records = evaluate_expression(expression, features, names, splits=[split])
    assert (records["n_train"] == 120).all()
    one = Split(np.arange(200), np.array([239]), "one spot")
    records = evaluate_expression(expression, features, names, splits=[split, one]).set_index("split").loc["one spot"]
    assert records["pearson"].isna().all()
    assert (records["n_genes_scored"] == 0).all()
    assert records["mse"].notna().all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"predictors": {"odd": lambda train, test, genes: np.zeros(3)}},
            ValueError,
            r"`predictors\['odd'\]` returned sh",
        ),
        (
            {"predictors": {"odd": lambda train, test, genes: np.full((len(test), len(genes)), np.nan)}},
            ValueError,
            r"`predictors\['odd'\]` returned values that are not finite",
        ),
        (
            {"predictors": {"ridge": mean_predictor(np.ones((240, 60)))}},
            ValueError,
            "`predictors` has 'ridge', as base",
        ),
        ({"baselines": False}, ValueError, "there is nothing to score"),
        ({"features": None}, ValueError, "`features` is None"),
        ({"features": np.ones((3, 2))}, ValueError, r"`features` has shape \(3, 2\), 240 rows"),
        ({"expression": np.full((240, 3), np.nan)}, ValueError, "`expression` has NaN or infinite values"),
        ({"groups": np.repeat("a", 240)}, ValueError, "`groups` has 1 group"),
        ({"groups": ["a", "b"]}, ValueError, "`groups` has shape"),
        ({"n_genes": 0}, ValueError, "`n_genes` must be at least 1"),
        ({"seed": -1}, ValueError, "`seed` must be at least 0"),
        ({"splits": []}, ValueError, "`splits` is empty"),
        ({"splits": [(np.arange(3), np.arange(3, 9))]}, TypeError, r"`splits\[0\]` must be a stimage.benchmark.Split"),
        ({"splits": [Split(np.arange(3), np.arange(2, 9), "x")]}, ValueError, r"\('x'\) trains on 1 of its test spots"),
        (
            {"splits": [Split(np.arange(3), np.array([240]))]},
            ValueError,
            r"`splits\[0\].test` must hold each of the 240",
        ),
        ({"splits": [Split(np.array([1, 1]), np.array([3]))]}, ValueError, r"`splits\[0\].train` must hold each"),
        ({"splits": [Split(np.arange(240) < 9, np.arange(9, 12))]}, ValueError, "turn a mask into positions"),
    ],
)
def test_bad_input(slides, change, error, message):
    expression, features, groups = slides
    with pytest.raises(error, match=message):
        evaluate_expression(**{"expression": expression, "features": features, "groups": groups, **change})
