import logging

import anndata
import numpy as np
import pandas as pd
import pytest
from helpers import assert_unchanged, in_groups

from stimage import datasets, pp, tl
from stimage.benchmark import Report, compare, evaluate_domains
from stimage.models import STImage

OPTIONS = {"label_key": "domain", "protocols": ["random"], "heads": ["knn"], "n_repeats": 2, "n_pool_genes": 40}
SMALL = {"window": 6, "n_pool_genes": 40, "n_genes": 20, "max_epochs": 1, "windows_per_epoch": 8, "batch_size": 4}


@pytest.fixture(autouse=True, scope="module")
def quiet_training():
    for name in ("lightning.pytorch", "lightning.fabric", "scvi"):
        logging.getLogger(name).setLevel(logging.ERROR)


@pytest.fixture(scope="module")
def simulated():
    both = datasets.simulate_tissue(n_rows=14, n_cols=12, n_genes=60, n_domains=3, n_slides=3, seed=3)
    parts = [both[both.obs["slide"] == name].copy() for name in both.obs["slide"].cat.categories]
    for number, part in enumerate(parts):
        part.obs["donor"] = f"donor {min(number, 1)}"
        part.obs.loc[part.obs_names[:10], "domain"] = np.nan
        pp.compact_grid(part, slide_key="slide")
    return parts


@pytest.fixture
def slides(simulated):
    """Three slides: one of a first donor, two of a second."""
    return [part.copy() for part in simulated]


@pytest.fixture(scope="module")
def model(simulated):
    """Trained on the second slide."""
    return train(simulated[1].copy(), donor_key="donor")


def train(adata, **options):
    options |= {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1, **SMALL}
    return tl.pretrain(adata, **in_groups(tl.pretrain, **options))


def embed(adatas, model):
    for adata in adatas:
        tl.embed(adata, model)


def test_any_embedding_beside_the_baselines(slides):
    rng = np.random.default_rng(0)
    for adata in slides:
        adata.obsm["X_other"] = rng.normal(size=(adata.n_obs, 4))
    with assert_unchanged(*slides):
        report = compare(slides, use_rep=["X_other", "cell_types"], donor_key="donor", **OPTIONS)
    methods = report.records["method"].unique().tolist()
    assert methods[0] == "coordinates only"
    assert methods[-2:] == ["X_other", "cell_types"]
    assert len(methods) == 9
    names = np.concatenate([adata.obs["slide"] for adata in slides])
    expected = evaluate_domains(
        {"X_other": np.concatenate([adata.obsm["X_other"] for adata in slides])},
        labels=pd.concat([adata.obs["domain"].astype(object) for adata in slides]),
        slides=names,
        positions=np.zeros((len(names), 2)),
        protocols=["random"],
        heads=["knn"],
        n_repeats=2,
    )
    found = report.records[report.records["method"] == "X_other"].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected)
    # Principal axes are those of the tested spots; coordinates and counts are only read.
    assert {name: report.metadata["transductive"][name] for name in methods} == {
        "coordinates only": False,
        "raw expression": False,
        "PCA-30": True,
        "PCA-30, mean of 7": True,
        "PCA-30, mean of 19": True,
        "PCA-30, mean of 37": True,
        "PCA-30, mean of 7 beside 37": True,
        "X_other": None,
        "cell_types": None,
    }
    assert report.table("random", "ari", "knn").index[2] == "PCA-30 (transductive)"
    facts = report.metadata["slides"]["slide_1"]
    assert (facts["n_annotated"], facts["donor"]) == (slides[0].n_obs - 10, "donor 0")
    assert set(report.metadata["versions"]) >= {"stimage", "numpy", "torch"}


def test_one_anndata_or_several_or_other_names(slides):
    together = anndata.concat(slides, index_unique="-")
    del together.obs["grid_row"], together.obs["grid_col"], together.obsm["X_grid"]
    pp.compact_grid(together, slide_key="slide")
    apart, joined = (compare(data, use_rep="cell_types", **OPTIONS) for data in (slides, together))
    pd.testing.assert_frame_equal(apart.records, joined.records)
    assert apart.metadata["slides"] == joined.metadata["slides"]
    together.X = together.X + (np.arange(together.n_obs) == 0)[:, None]
    changed = compare(together, use_rep="cell_types", **OPTIONS).metadata["slides"]
    same = [changed[name] == apart.metadata["slides"][name] for name in changed]
    assert same == [False, True, True]


def test_a_model_trained_on_other_slides(slides, model, tmp_path):
    chosen = [slides[0]]
    embed(chosen, model)
    report = compare(chosen, donor_key="donor", **OPTIONS)
    assert report.metadata["transductive"]["X_stimage"] is False
    manifest = report.metadata["models"]["X_stimage"][0]
    assert [slide["name"] for slide in manifest["slides"]] == ["slide_2"]
    assert manifest["slides"][0]["donor"] == "donor 1"
    report.to_json(tmp_path / "report.json")
    assert Report.from_json(tmp_path / "report.json").metadata == report.metadata


def leaky(slides, model, case):
    """Slides of which the model saw one, disguised."""
    adata = slides[1]
    if case == "filtered":
        adata = adata[np.random.default_rng(0).random(adata.n_obs) < 0.6].copy()
        pp.compact_grid(adata, slide_key="slide")
    elif case == "renamed":
        adata.obs_names = [f"{name}-1" for name in adata.obs_names]
        adata.obs["slide"] = "another name"
        pp.compact_grid(adata, slide_key="slide")
    elif case in ("genes", "genes, renamed"):
        # Every total changes, and with other names no pair of name and total is left.
        abundant = np.argsort(adata.X.sum(axis=0).A1)[-5:]
        adata = adata[:, np.setdiff1d(np.arange(adata.n_vars), abundant)].copy()
        if case == "genes, renamed":
            adata.obs_names = [f"spot {number}" for number in range(adata.n_obs)]
    elif case == "donor":
        adata = slides[2]
    embed([slides[0], adata], model)
    return [slides[0], adata]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("same", r"'X_stimage' on 'slide_2' \(same counts as 'slide_2'\)"),
        ("filtered", r"'slide_2' \(same spots as 'slide_2'\)"),
        ("renamed", r"'another name' \(same counts as 'slide_2'\)"),
        ("genes", r"'slide_2' \(same counts of genes in the same spots as 'slide_2'\)"),
        ("genes, renamed", r"'slide_2' \(same counts of genes in the same spots as 'slide_2'\)"),
        ("donor", r"'slide_3' \(same donor 'donor 1' as 'slide_2'\)"),
    ],
)
def test_leaks_are_refused(slides, model, case, message):
    adatas = leaky(slides, model, case)
    options = {**OPTIONS, "donor_key": "donor" if case == "donor" else None}
    with pytest.raises(ValueError, match=f"{message}. Test on other slides, or pass `allow_leak=True`"):
        compare(adatas, **options)
    report = compare(adatas, allow_leak=True, **options)
    assert report.metadata["transductive"]["X_stimage"] is True
    assert report.table("random", "ari", "knn").index[-1] == "X_stimage (transductive)"
    assert report.mean_over_slides("random", "ari", "knn").index[-1] == "X_stimage (transductive)"


def test_a_leak_is_seen_after_saving_the_model_and_the_slide(slides, model, tmp_path):
    model.save(tmp_path / "model")
    embed(slides[1:2], STImage.load(tmp_path / "model"))
    slides[1].write_h5ad(tmp_path / "slide.h5ad")
    with pytest.raises(ValueError, match="same counts"):
        compare(anndata.read_h5ad(tmp_path / "slide.h5ad"), **OPTIONS)


def test_doubt_is_said(slides, model):
    """Genes under other names: neither refused nor called clean."""
    adata = slides[1]
    embed([adata], model)
    adata.var_names = [f"ENSG{number:011d}" for number in range(adata.n_vars)]
    adata = adata[:, 5:].copy()
    adata.obs_names = [f"spot {number}" for number in range(adata.n_obs)]
    with pytest.warns(
        UserWarning, match="cannot be told: 'X_stimage' on 'slide_2' .'slide_2': 0 of .* are too few to tell"
    ):
        report = compare(adata, **OPTIONS)
    assert report.metadata["transductive"]["X_stimage"] is None


def test_slides_without_labels_are_not_tested(slides, model):
    slides[1].obs["domain"] = np.nan
    embed(slides[:2], model)
    report = compare(slides[:2], **OPTIONS)
    assert set(report.records["slide"]) == {"slide_1"}


def test_bad_input(slides):
    slides[0].obsm["X_other"] = np.zeros((slides[0].n_obs, 2))
    with pytest.raises(KeyError, match="`use_rep`='X_other' is not in adata.obsm of slides 'slide_2', 'slide_3'"):
        compare(slides, use_rep="X_other", **OPTIONS)
    slides[1].obsm["X_other"] = np.zeros((slides[1].n_obs, 3))
    with pytest.raises(ValueError, match="`use_rep`='X_other' has another number of dimensions"):
        compare(slides[:2], use_rep="X_other", **OPTIONS)
    with pytest.raises(KeyError, match="`label_key`='layer' is not in adata.obs"):
        compare(slides, use_rep="cell_types", **{**OPTIONS, "label_key": "layer"})
    slides[2].obs["donor"] = np.nan
    with pytest.raises(ValueError, match=r"`donor_key`\) is missing for annotated slides 'slide_3'"):
        compare(slides, use_rep="cell_types", donor_key="donor", **OPTIONS)
    slides[2].obs["donor"] = np.arange(slides[2].n_obs) % 2
    with pytest.raises(ValueError, match="Slide 'slide_3' has 2 donors"):
        compare(slides, use_rep="cell_types", donor_key="donor", **OPTIONS)


@pytest.mark.parametrize("noted", ["predictor_manifest", "tissue_manifest"])
def test_a_closed_form_with_knowledge_of_other_slides_is_refused_on_them(noted):
    import json

    from stimage import datasets, models, pp, tl
    from stimage.benchmark import compare

    def slide(seed):
        adata = datasets.simulate_tissue(n_rows=14, n_cols=14, n_genes=80, seed=seed)
        adata.obs["label"] = adata.obs["domain"].astype(str).to_numpy(dtype=object)
        pp.compact_grid(adata)
        tl.embed(adata)
        return adata

    tested, other = slide(0), slide(1)
    for seen, leaks in ((tested, True), (other, False)):
        record = json.dumps(models.SmoothedPCA(seen).manifest_record())
        tested.uns["stimage"]["X_stimage"] |= {noted: record}
        if leaks:
            with pytest.raises(ValueError, match="trained on what they would be tested on"):
                compare(tested, label_key="label", use_rep=["X_stimage"], n_repeats=1, n_seeds=1)
        else:
            report = compare(tested, label_key="label", use_rep=["X_stimage"], n_repeats=1, n_seeds=1)
            assert report.metadata["transductive"]["X_stimage"] is True
