import json
import statistics

import numpy as np
import pandas as pd
import pytest

from stimage.benchmark import Report


@pytest.fixture
def report():
    rng = np.random.default_rng(0)
    rows = [
        {"method": method, "protocol": "random", "head": "knn", "slide": slide, "repeat": repeat, "ari": rng.random()}
        for method in ("model", "baseline")
        for slide in ("b", "a/1", "pooled")
        for repeat in range(3)
    ]
    rows.append({"method": "model", "protocol": "unsupervised", "head": "true_number", "slide": "b", "repeat": 0})
    records = pd.DataFrame(rows)
    records["n_domains"] = np.where(records["protocol"] == "unsupervised", 4.0, np.nan)
    return Report(records, {"transductive": {"model": True, "baseline": False}, "versions": {"stimage": "0"}})


def values(report, method, slide):
    chosen = report.records[(report.records["method"] == method) & (report.records["slide"] == slide)]
    return chosen["ari"].dropna().tolist()


def test_table(report):
    table = report.table("random", "ari", "knn")
    assert table.index.tolist() == ["model (transductive)", "baseline"]
    assert table.columns.get_level_values(0).unique().tolist() == ["b", "a/1", "pooled"]
    for slide in ("b", "a/1", "pooled"):
        for method, name in (("model", "model (transductive)"), ("baseline", "baseline")):
            assert table.loc[name, (slide, "mean")] == pytest.approx(statistics.mean(values(report, method, slide)))
            assert table.loc[name, (slide, "sd")] == pytest.approx(statistics.stdev(values(report, method, slide)))
    single = report.table("unsupervised", "n_domains", "true_number")
    assert single.loc["model (transductive)", ("b", "mean")] == 4
    assert np.isnan(single.loc["model (transductive)", ("b", "sd")])


def test_each_slide_counts_once(report):
    means = [statistics.mean(values(report, "model", slide)) for slide in ("b", "a/1")]
    row = report.mean_over_slides("random", "ari", "knn").loc["model (transductive)"]
    assert row["mean"] == pytest.approx(statistics.mean(means))
    assert row["sd"] == pytest.approx(statistics.stdev(means))
    assert row["n_slides"] == 2


def test_round_trip(report, tmp_path):
    path = tmp_path / "folder" / "report.json"
    report.to_json(path)
    read = Report.from_json(path)
    pd.testing.assert_frame_equal(read.records, report.records)
    assert read.metadata == report.metadata
    pd.testing.assert_frame_equal(read.table("random", "ari", "knn"), report.table("random", "ari", "knn"))
    read.to_json(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]


def test_a_failed_write_leaves_the_old_file(report, tmp_path):
    path = tmp_path / "report.json"
    report.to_json(path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        Report(report.records, {"odd": object()}).to_json(path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


def test_other_files(tmp_path):
    path = tmp_path / "other.json"
    with pytest.raises(FileNotFoundError):
        Report.from_json(path)
    for text in ("", "[1]", "{}", json.dumps({"format": "stimage.benchmark.Report", "format_version": 99})):
        path.write_text(text)
        with pytest.raises(ValueError, match="is not a report of this version"):
            Report.from_json(path)


def test_scores_that_are_not_there(report):
    with pytest.raises(KeyError, match="`metric`='mse' is not in the report; available: 'ari', 'n_domains'"):
        report.table("random", "mse", "knn")
    with pytest.raises(KeyError, match="available: 'random/knn'"):
        report.table("random", "ari", "mlp")
