import numpy as np
import pytest

from stimage import pl
from stimage.benchmark import domain_proportions


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    donors = np.repeat(["d1", "d2", "d3"], [30, 20, 10])
    conditions = np.where(donors == "d3", "ill", "healthy")
    return domain_proportions(rng.choice(["a", "b", "c"], 60), donors, conditions=conditions)


def test_bars_are_the_shares(table, tmp_path):
    figure = pl.proportions(table, save=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 0
    healthy, ill = figure.axes
    assert [ax.get_title() for ax in (healthy, ill)] == ["healthy", "ill"]
    for ax, donors in ((healthy, ["d1", "d2"]), (ill, ["d3"])):
        assert [tick.get_text() for tick in ax.get_xticklabels()] == donors
        for container in ax.containers:
            rows = table[(table["domain"] == container.get_label()) & table["donor"].isin(donors)]
            np.testing.assert_allclose([bar.get_height() for bar in container], rows["proportion"])
        np.testing.assert_allclose([bar.get_y() + bar.get_height() for bar in ax.containers[-1]], 1)
        assert [text.get_text() for text in ax.texts] == [str({"d1": 30, "d2": 20, "d3": 10}[d]) for d in donors]
    assert [text.get_text() for text in ill.get_legend().get_texts()] == ["a", "b", "c"]


def test_without_conditions(table):
    assert len(pl.proportions(table.drop(columns="condition")).axes) == 1


def test_another_table(table):
    with pytest.raises(ValueError, match="`table` lacks 'n_spots'"):
        pl.proportions(table.drop(columns="n_spots"))
