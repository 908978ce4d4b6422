import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.spatial.distance import pdist
from sklearn.metrics import adjusted_rand_score, f1_score
from sklearn.neighbors import KNeighborsClassifier

from stimage.benchmark import block_split, embedding_baselines, evaluate_domains, mlp_head, neighbor_mean, random_split
from stimage.models.clustering import cluster


@pytest.fixture
def tissue():
    """Two donors with two slides and one slide of layers, a fifth of the spots not annotated."""
    rng = np.random.default_rng(0)
    rows, cols = (index.ravel() for index in np.indices((15, 15)))
    slides = np.repeat(["a1", "a2", "b1"], 225)
    labels = np.tile([f"layer {number}" for number in rows // 5], 3).astype(object)
    codes = np.tile(rows // 5, 3)
    vectors = rng.normal(size=(3, 6))[codes] * 2 + rng.normal(size=(675, 6))
    labels[rng.permutation(675)[:135]] = np.array([None, np.nan, ""], dtype=object)[rng.integers(3, size=135)]
    return {
        "labels": labels,
        "slides": slides,
        "positions": np.tile(np.column_stack([cols, rows]).astype(float), (3, 1)),
        "donors": np.array([name[0] for name in slides]),
    }, vectors


def known(facts):
    return ~pd.isna(facts["labels"]) & (facts["labels"] != "")


@pytest.mark.parametrize(("protocol", "n_neighbors"), [("random", 5), ("block", 15)])
def test_splits_within_slides(tissue, protocol, n_neighbors):
    facts, vectors = tissue
    options = {"heads": ["knn"], "n_repeats": 2, "n_neighbors": n_neighbors, "seed": 3}
    records = evaluate_domains({"x": vectors}, **facts, protocols=[protocol], **options)
    assert len(records) == 2 * 4
    rows = np.flatnonzero(known(facts) & (facts["slides"] == "a2"))
    split = random_split(len(rows), seed=4) if protocol == "random" else block_split(facts["positions"][rows], seed=4)
    labels = facts["labels"].astype(str)
    n_neighbors = min(n_neighbors, len(split.train) // 5)
    head = KNeighborsClassifier(n_neighbors).fit(vectors[rows[split.train]], labels[rows[split.train]])
    predicted, truth = head.predict(vectors[rows[split.test]]), labels[rows[split.test]]
    found = records[(records["slide"] == "a2") & (records["repeat"] == 1)].iloc[0]
    assert (found["n_train"], found["n_test"]) == (len(split.train), len(split.test))
    assert found["accuracy"] == pytest.approx((predicted == truth).mean())
    assert found["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert found["ari"] == pytest.approx(adjusted_rand_score(truth, predicted))
    first = records[records["repeat"] == 0].set_index("slide")
    tested = first.drop(index="pooled")
    assert first.loc["pooled", "n_test"] == tested["n_test"].sum()
    assert first.loc["pooled", "accuracy"] == pytest.approx(np.average(tested["accuracy"], weights=tested["n_test"]))


def test_perceptrons_of_all_repetitions(tissue):
    facts, vectors = tissue
    options = {"protocols": ["block", "leave_slide_out"], "heads": ["mlp"], "n_repeats": 3, "mlp_epochs": 3, "seed": 3}
    records = evaluate_domains({"x": vectors}, **facts, **options).set_index(["protocol", "slide", "repeat"])
    labels, annotated = facts["labels"].astype(str), known(facts)
    rows = np.flatnonzero(annotated & (facts["slides"] == "a2"))
    split = block_split(facts["positions"][rows], seed=5)
    training, test = rows[split.train], rows[split.test]
    predicted = mlp_head(vectors[training], labels[training], vectors[test], n_epochs=3, seed=5)
    assert records.loc[("block", "a2", 2), "accuracy"] == pytest.approx((predicted == labels[test]).mean(), abs=0.01)
    training, test = annotated & (facts["slides"] != "a2"), annotated & (facts["slides"] == "a2")
    predicted = mlp_head(vectors[training], labels[training], vectors[test], n_epochs=3, seed=3)
    found = records.loc[("leave_slide_out", "a2", 0), "accuracy"]
    assert found == pytest.approx((predicted == labels[test]).mean(), abs=0.01)


def test_leaving_slides_and_donors_out(tissue):
    facts, vectors = tissue
    protocols = ["leave_slide_out", "leave_donor_out"]
    records = evaluate_domains({"x": vectors}, **facts, protocols=protocols, heads=["knn"])
    labels, annotated = facts["labels"].astype(str), known(facts)
    for protocol, groups in (("leave_slide_out", facts["slides"]), ("leave_donor_out", facts["donors"])):
        for slide in ("a1", "a2", "b1"):
            test = annotated & (facts["slides"] == slide)
            training = annotated & (groups != groups[test][0])
            predicted = KNeighborsClassifier(15).fit(vectors[training], labels[training]).predict(vectors[test])
            found = records[(records["protocol"] == protocol) & (records["slide"] == slide)]
            assert len(found) == 1
            assert found["accuracy"].item() == pytest.approx((predicted == labels[test]).mean())
            assert (found["n_train"].item(), found["n_test"].item()) == (training.sum(), test.sum())


def test_unsupervised(tissue):
    facts, vectors = tissue
    options = {"protocols": ["unsupervised"], "n_seeds": 2}
    records = evaluate_domains({"x": vectors}, **facts, **options)
    assert records.groupby("slide")["head"].value_counts().unstack().eq([1, 2]).all(axis=None)
    skipped = evaluate_domains({"x": vectors}, **facts, **options, n_seeds_estimated=0)
    pd.testing.assert_frame_equal(skipped, records[records["head"] == "true_number"].reset_index(drop=True))
    rows = facts["slides"] == "b1"
    scored = known(facts)[rows]
    found = cluster(vectors[rows], 3, seed=1).labels
    expected = adjusted_rand_score(facts["labels"][rows][scored].astype(str), found[scored])
    chosen = records[records["slide"] == "b1"].set_index(["head", "repeat"])
    assert chosen.loc[("true_number", 1), "ari"] == pytest.approx(expected)
    assert chosen.loc[("true_number", 1), "n_domains"] == 3
    assert 2 <= chosen.loc[("estimated_number", 0), "n_domains"] <= 15
    assert records["accuracy"].isna().all()


def test_all_protocols_and_heads_by_default(tissue):
    facts, vectors = tissue
    options = {"n_repeats": 1, "n_seeds": 1, "mlp_epochs": 3}
    records = evaluate_domains({"x": vectors, "y": vectors[:, :2]}, **facts, **options)
    pairs = set(zip(records["protocol"], records["head"], strict=True))
    within = {"random", "block", "leave_slide_out", "leave_donor_out"}
    expected = {(protocol, head) for protocol in within for head in ("knn", "mlp")}
    assert pairs == expected | {("unsupervised", "true_number"), ("unsupervised", "estimated_number")}
    assert set(records["method"]) == {"x", "y"}
    assert records.loc[records["protocol"] == "random", "accuracy"].min() > 0.4
    pd.testing.assert_frame_equal(records, evaluate_domains({"x": vectors, "y": vectors[:, :2]}, **facts, **options))
    one = {key: value[facts["slides"] == "a1"] for key, value in facts.items()}
    alone = evaluate_domains({"x": vectors[:225]}, **one, heads=["knn"], n_repeats=1, n_seeds=1)
    assert set(alone["protocol"]) == {"random", "block", "unsupervised"}


def test_labels_that_are_missing_do_not_matter(tissue):
    facts, vectors = tissue
    options = {"heads": ["knn"], "n_repeats": 2, "protocols": ["random", "block", "leave_slide_out"]}
    before = evaluate_domains({"x": vectors}, **facts, **options)
    vectors = vectors.copy()
    vectors[~known(facts)] = 1e6
    pd.testing.assert_frame_equal(before, evaluate_domains({"x": vectors}, **facts, **options))


def test_permuted_labels_score_nothing(tissue):
    facts, vectors = tissue
    rng = np.random.default_rng(1)
    labels = np.where(rng.random(675) < 0.6, "common", np.where(rng.random(675) < 0.5, "b", "c"))
    options = {**facts, "labels": labels, "n_repeats": 2, "n_seeds": 1, "mlp_epochs": 4}
    methods = {"x": vectors, "coordinates": facts["positions"]}
    records = evaluate_domains(methods, **options)
    means = records[records["slide"] != "pooled"].groupby(["method", "protocol", "head"])[["ari", "accuracy"]].mean()
    assert means["ari"].abs().max() < 0.05
    majority = (labels == "common").mean()
    # One neighbour is right as often as two labels agree by chance, many as often as the majority.
    chance = sum(np.square((labels == name).mean()) for name in np.unique(labels))
    assert means.xs("knn", level="head")["accuracy"].between(chance - 0.05, majority + 0.03).all()
    assert means["accuracy"].max() < majority + 0.03


def test_a_class_that_no_training_spot_has():
    slides = np.repeat(["a", "b"], 30)
    labels = np.array(["x", "y"] * 15 + ["z"] * 30)
    facts = {"labels": labels, "slides": slides, "positions": np.random.default_rng(0).random((60, 2))}
    records = evaluate_domains({"m": np.arange(60.0)[:, None]}, **facts, protocols=["leave_slide_out"], mlp_epochs=1)
    assert (records["accuracy"] == 0).all()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"embeddings": {"mine": "holes"}}, ValueError, r"`embeddings\['mine'\]` has no finite vectors.*'a2'"),
        ({"embeddings": {"mine": np.ones((3, 2))}}, ValueError, r"`embeddings\['mine'\]` has shape \(3, 2\)"),
        ({"embeddings": {}}, TypeError, "`embeddings` must be a dict"),
        ({"labels": np.full(675, None)}, ValueError, "`labels` annotates no spot"),
        ({"slides": np.repeat("a", 3)}, ValueError, "`slides` has 3 rows"),
        ({"protocols": ["k-fold"]}, ValueError, "`protocols` must be one of"),
        ({"protocols": "random"}, TypeError, "`protocols` must be a list"),
        ({"heads": ["tree"]}, ValueError, "`heads` must be one of"),
        ({"protocols": ["leave_donor_out"], "donors": None}, KeyError, "needs `donors`"),
        ({"protocols": ["leave_slide_out"], "slides": np.repeat("a", 675)}, ValueError, "needs two"),
        ({"train_share": 0}, ValueError, "`train_share`"),
        ({"n_repeats": 0}, ValueError, "`n_repeats`"),
        ({"n_seeds_estimated": -1}, ValueError, "`n_seeds_estimated` must be at least 0"),
        ({"n_neighbors": 0}, ValueError, "`n_neighbors`"),
    ],
)
def test_bad_input(tissue, change, error, message):
    facts, vectors = tissue
    if change.get("embeddings", {}).get("mine") is not None and isinstance(change["embeddings"]["mine"], str):
        vectors[300] = np.nan
        change = {"embeddings": {"mine": vectors}}
    with pytest.raises(error, match=message):
        evaluate_domains(**{"embeddings": {"x": vectors}, **facts, **change})


def test_baselines_are_centred_and_stay_within_slides(tissue):
    facts, _ = tissue
    rng = np.random.default_rng(0)
    slides = facts["slides"]
    expression = rng.gamma(1, 1, (675, 50)) + 5.0 * (slides == "b1")[:, None]
    table = embedding_baselines(expression, slides, facts["positions"])
    centred = expression.copy()
    for name in ("a1", "a2", "b1"):
        centred[slides == name] -= expression[slides == name].mean(axis=0)
    np.testing.assert_allclose(table["raw expression"], centred, atol=1e-5)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(table["PCA-30"]), np.abs(left[:, :30] * values[:30]), rtol=1e-3, atol=1e-3)
    here = slides == "a2"
    for n_spots in (7, 19, 37):
        expected = neighbor_mean(table["PCA-30"][here], facts["positions"][here], n_spots)
        np.testing.assert_allclose(table[f"PCA-30, mean of {n_spots}"][here], expected)
    sides = [table["PCA-30, mean of 7"], table["PCA-30, mean of 37"]]
    np.testing.assert_array_equal(table["PCA-30, mean of 7 beside 37"], np.hstack(sides))
    np.testing.assert_array_equal(table["coordinates only"], facts["positions"])


def test_baselines_of_many_spots_are_the_same_without_dense_expression(tissue, monkeypatch):
    facts, _ = tissue
    rng = np.random.default_rng(0)
    expression = sparse.csr_matrix(rng.gamma(1, 1, (675, 50)) * (rng.random((675, 50)) < 0.3))
    few = embedding_baselines(expression, facts["slides"], facts["positions"])
    monkeypatch.setattr("stimage.benchmark.baselines._embedding.MOST_DENSE", 100)
    monkeypatch.setattr("stimage.benchmark.baselines._embedding._SPOTS_AT_A_TIME", 37)
    many = embedding_baselines(expression, facts["slides"], facts["positions"])
    assert set(few) - set(many) == {"raw expression"}
    for name in many:
        np.testing.assert_allclose(pdist(many[name]), pdist(few[name]), rtol=1e-3, atol=1e-4)
