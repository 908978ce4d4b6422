"""Metrics are found by name and get the arrays that they ask for, also those that others register."""

import numpy as np
import pytest

from stimage.benchmark import METRICS, adjusted_rand_index, evaluate_domains, pas, register_metric, score_domains

POSITIONS = np.stack(np.indices((8, 8)), axis=-1).reshape(-1, 2).astype(float)
HALVES = np.where(POSITIONS[:, 0] >= 4, "right", "left")


@pytest.fixture
def borders():
    """A metric of somebody else."""

    def borders(found, positions, *, reach=1.0):
        near = np.abs(positions[:, None] - positions[None]).sum(axis=2) == reach
        return (near & (found[:, None] != found[None])).sum() / 2

    register_metric("borders", borders, higher_is_better=False)
    yield borders
    del METRICS["borders"]


def test_a_metric_from_outside_is_scored_like_any_other(borders):
    assert score_domains(found=HALVES, positions=POSITIONS)["borders"] == 8
    vectors = np.repeat(HALVES == "left", 3).reshape(-1, 3) * 5.0
    vectors += np.random.default_rng(0).normal(size=vectors.shape)
    facts = {"labels": HALVES, "slides": np.repeat("a", 64), "positions": POSITIONS}
    options = {
        "protocols": ["unsupervised", "random"],
        "heads": ["knn"],
        "n_seeds": 2,
        "n_seeds_estimated": 0,
        "n_repeats": 1,
    }
    records = evaluate_domains({"mine": vectors}, **facts, **options, clustering_metrics=["ari", "borders", "pas"])
    found = records[records["protocol"] == "unsupervised"]
    assert (found["borders"] == 8).all() and (found["pas"] == 0).all() and (found["ari"] == 1).all()
    assert found["nmi"].isna().all()
    assert records[records["protocol"] == "random"]["borders"].isna().all()
    assert records.columns[-2:].tolist() == ["borders", "pas"]


def test_spots_without_annotation_count_only_where_no_truth_is_needed():
    truth = HALVES.astype(object)
    truth[::5] = None
    found = HALVES.copy()
    found[::5] = "astray"
    scores = score_domains(truth=truth, found=found, positions=POSITIONS, metrics=["ari", "pas"])
    known = np.arange(64) % 5 > 0
    assert scores == {"ari": adjusted_rand_index(HALVES[known], found[known]), "pas": pas(found, POSITIONS)}
    assert scores["ari"] == 1 and scores["pas"] > 0


def test_what_is_scored_by_default():
    agreement = ["ari", "nmi", "homogeneity", "completeness"]
    assert list(score_domains(truth=HALVES, found=HALVES)) == agreement
    spatial = ["pas", "chaos", "spatial_silhouette", "spatial_coherence"]
    assert list(score_domains(found=HALVES, positions=POSITIONS)) == spatial
    expression = np.random.default_rng(0).random((64, 9))
    everything = score_domains(
        truth=HALVES, found=HALVES, positions=POSITIONS, embedding=POSITIONS, expression=expression
    )
    assert list(everything) == list(METRICS)
    assert np.isfinite(list(everything.values())).all()


@pytest.mark.parametrize(
    ("arrays", "error", "message"),
    [
        ({}, ValueError, "No array was given"),
        ({"found": HALVES, "positions": POSITIONS[:9]}, ValueError, "Numbers of spots differ: {'found': 64, 'posi"),
        ({"found": HALVES, "metrics": ["pas"]}, ValueError, "`metrics` has 'pas', which needs 'positions'"),
        ({"found": HALVES, "metrics": ["passs"]}, ValueError, "`metrics` must be one of"),
        ({"found": HALVES, "metrics": "pas"}, TypeError, "must be a list of names"),
        ({"found": [None, *HALVES[1:]], "positions": POSITIONS}, ValueError, "`found` is missing for 1 spots"),
        ({"found": HALVES, "positions": POSITIONS * np.nan}, ValueError, "`positions` has NaN or infinite"),
        ({"found": HALVES, "positions": POSITIONS[:, 0]}, ValueError, r"`positions` has shape \(64,\)"),
    ],
)
def test_bad_arrays(arrays, error, message):
    with pytest.raises(error, match=message):
        score_domains(**arrays)


@pytest.mark.parametrize(
    ("name", "function", "error", "message"),
    [
        ("ari", lambda truth, found: 0, ValueError, "`name`='ari' is taken"),
        ("accuracy", lambda truth, found: 0, ValueError, "is taken"),
        (
            "mine",
            lambda labels: 0,
            ValueError,
            "needs 'labels': its parameters without a default must be some of truth",
        ),
        ("mine", lambda: 0, ValueError, "needs no array"),
        ("mine", 3, TypeError, "`function` must be a function"),
    ],
)
def test_bad_metrics(name, function, error, message):
    before = dict(METRICS)
    with pytest.raises(error, match=message):
        register_metric(name, function, higher_is_better=True)
    assert before == METRICS


def test_a_metric_that_needs_expression_cannot_score_an_embedding():
    facts = {"labels": HALVES, "slides": np.repeat("a", 64), "positions": POSITIONS}
    with pytest.raises(ValueError, match="'marker_moran', which needs 'expression'"):
        evaluate_domains({"mine": POSITIONS}, **facts, clustering_metrics=["marker_moran"])
