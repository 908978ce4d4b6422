import numpy as np
import pandas as pd
import pytest

from stimage import pl
from stimage.benchmark import Report


@pytest.fixture
def report():
    rng = np.random.default_rng(0)
    facts = [(m, s, r) for m in ("PCA", "model") for s in ("a", "b", "c", "d", "e", "pooled") for r in range(3)]
    records = pd.DataFrame(facts, columns=["method", "slide", "repeat"]).assign(
        protocol="leave_slide_out", head="knn", ari=rng.random(len(facts))
    )
    return Report(records, {"transductive": {"model": True}})


OPTIONS = {"protocol": "leave_slide_out", "metric": "ari", "head": "knn"}


def panels(figure):
    return [ax for ax in figure.axes if ax.get_visible()]


def test_table_shows_the_means(report):
    table, *_ = panels(pl.benchmark(report, **OPTIONS))
    columns = [tick.get_text() for tick in table.get_xticklabels()]
    assert columns == ["mean of slides", "a", "b", "c", "d", "e", "pooled"]
    methods = [tick.get_text() for tick in table.get_yticklabels()]
    assert methods == ["PCA", "model (transductive)"]
    shown = {text.get_position(): text for text in table.texts}
    means = report.table(**OPTIONS).xs("mean", axis=1, level=1)
    for row, method in enumerate(methods):
        assert shown[0, row].get_text() == f"{means.loc[method, list('abcde')].mean():.3f}"
        for column, slide in enumerate(means.columns, 1):
            value = means.loc[method, slide]
            assert shown[column, row].get_text() == f"{value:.3f}"
            assert (shown[column, row].get_fontweight() == "bold") == (value == means[slide].max())


def test_every_score_is_a_dot(report):
    _, *slides = panels(pl.benchmark(report, **OPTIONS))
    assert [ax.get_title() for ax in slides] == ["a", "b", "c", "d", "e", "pooled"]
    for ax in slides:
        for dots, method, hollow in zip(ax.collections, ("PCA", "model"), (False, True), strict=True):
            chosen = report.records[(report.records["method"] == method) & (report.records["slide"] == ax.get_title())]
            np.testing.assert_allclose(np.asarray(dots.get_offsets())[:, 0], chosen["ari"])
            assert (tuple(dots.get_facecolor()[0][:3]) == (1, 1, 1)) == hollow


def test_one_slide_and_a_file(report, tmp_path):
    one = Report(report.records[report.records["slide"] == "a"], report.metadata)
    figure = pl.benchmark(one, **OPTIONS, save=tmp_path / "benchmark.png")
    assert (tmp_path / "benchmark.png").stat().st_size > 0
    assert len(panels(figure)) == 2


def test_bad_input(report):
    with pytest.raises(TypeError, match="`report` must be a stimage.benchmark.Report, found DataFrame"):
        pl.benchmark(report.records, **OPTIONS)
    with pytest.raises(KeyError, match="available: 'leave_slide_out/knn'"):
        pl.benchmark(report, **{**OPTIONS, "head": "mlp"})


def test_the_lowest_is_best_where_lower_is_better(report):
    records = report.records.rename(columns={"ari": "pas"})
    table, *_ = panels(pl.benchmark(Report(records, report.metadata), **{**OPTIONS, "metric": "pas"}))
    means = Report(records, {}).table("leave_slide_out", "pas", "knn").xs("mean", axis=1, level=1)
    shown = {text.get_position(): text.get_fontweight() == "bold" for text in table.texts}
    for column, slide in enumerate(means.columns, 1):
        assert [shown[column, row] for row in (0, 1)] == (means[slide] == means[slide].min()).tolist()
