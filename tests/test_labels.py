import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from stimage import pl, tl
from stimage._labels import label_categories, natural_order, text_labels
from stimage.benchmark import evaluate_domains


def test_labels_equal_as_text_are_one_and_missing_ones_none():
    text, known = text_labels([1, "1", 2, None, np.nan, "nan", "NA", "", " ", "<NA>", "Nan layer", "NaN"])
    assert text.tolist() == ["1", "1", "2"] + [""] * 7 + ["Nan layer", ""]
    assert known.tolist() == [True] * 3 + [False] * 7 + [True, False]


def test_order_in_which_people_count():
    assert natural_order(["10", "2", "L1", "b", "L10", "L2", "1", "a"]) == ["1", "2", "10", "L1", "L2", "L10", "a", "b"]
    assert natural_order(["²", "1"]) == ["1", "²"]


def test_categories_keep_an_order_that_someone_chose():
    chosen = pd.Series(pd.Categorical(["WM", "L1", "nan"], categories=["WM", "nan", "L1"]))
    with pytest.warns(UserWarning, match="here has 1 labels that read like a missing value .'nan'."):
        found = label_categories(chosen, "here")
    assert found.categories.tolist() == ["WM", "L1"] and found.codes.tolist() == [0, 1, -1]


def labelled(values):
    rng = np.random.default_rng(0)
    vectors = np.repeat(np.eye(3) * 10, 20, axis=0) + rng.normal(size=(60, 3))
    obs = pd.DataFrame({"label": values}, index=[f"s{i}" for i in range(60)])
    return AnnData(
        np.ones((60, 2), np.float32), obs=obs, obsm={"X_stimage": vectors, "spatial": rng.random((60, 2)) * 1e3}
    )


def test_completed_labels_can_be_written_and_hold_no_missing_name(tmp_path):
    values = np.array(["nan"] * 60, dtype=object)
    values[:10], values[20:30], values[40:45], values[45:50] = 2, "NA", 10, "10"
    adata = labelled(values)
    with pytest.warns(UserWarning, match="40 labels that read like a missing value"):
        tl.annotate(adata, "label", head="knn")
    assert adata.obs["stimage_annotation"].cat.categories.tolist() == ["2", "10"]
    assert adata.obs["stimage_annotation"].notna().all()
    adata.obs = adata.obs[["stimage_annotation"]]
    adata.write_h5ad(tmp_path / "annotated.h5ad")


def test_scores_leave_out_labels_that_read_as_missing():
    values = np.repeat(["a", "b", "nan"], 20)
    adata = labelled(values)
    options = {
        "slides": np.repeat("s", 60),
        "positions": adata.obsm["spatial"],
        "protocols": ["random"],
        "heads": ["knn"],
    }
    with pytest.warns(UserWarning, match="20 labels that read like a missing value"):
        found = evaluate_domains({"mine": adata.obsm["X_stimage"]}, labels=values, n_repeats=1, **options)
    absent = np.where(values == "nan", None, values)
    expected = evaluate_domains({"mine": adata.obsm["X_stimage"]}, labels=absent, n_repeats=1, **options)
    assert found["accuracy"].tolist() == expected["accuracy"].tolist()


@pytest.mark.parametrize("as_categorical", [False, True])
def test_legend_counts_as_people_do(as_categorical):
    names = np.array([str(number) for number in np.arange(60) % 12])
    adata = labelled(names)
    adata.uns["label_colors"] = [
        f"#0000{number:02x}" for number in range(12)
    ]  # of the categories in order of their text
    if as_categorical:
        adata.obs["label"] = adata.obs["label"].astype("category")
    figure = pl.domains(adata, color="label", show=False)
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == [str(number) for number in range(12)]
    colors = [patch.get_facecolor()[2] for patch in legend.get_patches()]
    in_text_order = sorted(str(number) for number in range(12))
    expected = [in_text_order.index(str(number)) / 255 for number in range(12)]
    np.testing.assert_allclose(colors, expected)
