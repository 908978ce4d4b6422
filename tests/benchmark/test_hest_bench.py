"""The protocol of HEST-Bench on folders in its layout, against the protocol written out in numpy."""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from stained import QUIET, TINY, apart, stained_tissue, tiny_encoder

from stimage.benchmark import aligner_predictor, hest_bench, hest_bench_table
from stimage.benchmark._hest_files import read_folds
from stimage.data import SlideImage, square_boxes

h5py = pytest.importorskip("h5py")
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
WIDTH = 60.0
GENES = [f"GENE{number:05}" for number in range(1, 9)]


def write_sample(folder, name, adata, image, *, width, size, drop=2):
    """Patches of all but the first ``drop`` spots in another order, as pipelines leave spots out."""
    (folder / "patches").mkdir(exist_ok=True)
    (folder / "adata").mkdir(exist_ok=True)
    order = np.random.default_rng(len(name)).permutation(adata.n_obs)[drop:]
    boxes = square_boxes(adata.obsm["spatial"], width)[order]
    pixels, _ = image.patches(boxes, size)
    with h5py.File(folder / "patches" / f"{name}.h5", "w") as file:
        file["img"] = pixels
        file["coords"] = np.rint(boxes[:, :2]).astype(int)
        file["barcode"] = np.array([[barcode.encode()] for barcode in adata.obs_names[order]])
    bare = anndata.AnnData(adata.X, obs=pd.DataFrame(index=adata.obs_names), var=pd.DataFrame(index=adata.var_names))
    bare.obs[["array_row", "array_col"]] = adata.obs[["array_row", "array_col"]].to_numpy()
    bare.obsm["spatial"] = adata.obsm["spatial"]
    bare.write_h5ad(folder / "adata" / f"{name}.h5ad")


def write_task(folder, names, genes, tests):
    (folder / "splits").mkdir()
    (folder / "var_50genes.json").write_text(json.dumps({"genes": list(genes)}))
    for number, tested in enumerate(tests):
        for side, chosen in (("train", [name for name in names if name not in tested]), ("test", tested)):
            rows = [(name, f"patches/{name}.h5", f"adata/{name}.h5ad") for name in chosen]
            table = pd.DataFrame(rows, columns=["sample_id", "patches_path", "expr_path"])
            table.to_csv(folder / "splits" / f"{side}_{number}.csv", index=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two tasks of the same three samples: one split, and each sample left out."""
    root = tmp_path_factory.mktemp("bench")
    sections = apart(stained_tissue(9, 8, n_slides=3, n_genes=60))
    names = ["A", "BB", "CCC"]
    for task, tests in (("IDC", [["A"], ["BB"], ["CCC"]]), ("PRAD", [["A", "CCC"]])):
        (root / task).mkdir()
        for name, section in zip(names, sections, strict=True):
            write_sample(root / task, name, section, SlideImage.from_anndata(section), width=WIDTH, size=24)
        write_task(root / task, names, GENES, tests)
    return root


@pytest.fixture(scope="module")
def encoder():
    return tiny_encoder()


@pytest.fixture(scope="module")
def records(root, encoder):
    return hest_bench(root, {"tiny": encoder}, n_components=10)


def by_hand(root, task, number, encoder, n_components, normalised):
    sides = {}
    for side in ("train", "test"):
        features, expression = [], []
        for row in pd.read_csv(root / task / "splits" / f"{side}_{number}.csv").itertuples():
            with h5py.File(root / task / row.patches_path) as file:
                pixels, barcodes = file["img"][:], [name.decode() for name in file["barcode"][:, 0]]
            adata = anndata.read_h5ad(root / task / row.expr_path)[barcodes]
            counts = adata.to_df()
            if normalised:
                counts = counts.div(counts.sum(axis=1), axis=0) * 1e4
            expression.append(np.log1p(counts[GENES].to_numpy(dtype=float)))
            with torch.no_grad():
                features.append(encoder.eval()(torch.from_numpy(pixels)).numpy().astype(float))
        sides[side] = np.concatenate(features), np.concatenate(expression)
    (train, y), (test, truth) = sides["train"], sides["test"]
    mean, spread = train.mean(axis=0), train.std(axis=0)
    train, test = (train - mean) / spread, (test - mean) / spread
    axes = np.linalg.svd(train, full_matrices=False)[2][:n_components].T
    x = train @ axes
    weights = np.linalg.solve(x.T @ x + 100 / (n_components * len(GENES)) * np.eye(n_components), x.T @ y)
    predicted = test @ axes @ weights
    return np.mean([stats.pearsonr(predicted[:, gene], truth[:, gene])[0] for gene in range(len(GENES))])


@pytest.mark.parametrize("targets", ["raw", "normalised"])
def test_the_protocol_written_out(root, encoder, records, targets):
    if targets != "raw":
        records = hest_bench(root, {"tiny": encoder}, n_components=10, targets=targets)
    assert set(records["targets"]) == {targets}
    for task, number in [("IDC", 0), ("IDC", 1), ("IDC", 2), ("PRAD", 0)]:
        chosen = (records["task"] == task) & (records["split"] == number) & (records["method"] == "tiny, protocol")
        expected = by_hand(root, task, number, encoder, 10, targets == "normalised")
        assert records.loc[chosen, "pearson"].item() == pytest.approx(expected, abs=2e-3)


def test_what_stands_beside_it(records):
    assert set(records["method"]) == {"gene mean", "tiny, protocol", "tiny, ridge"}
    assert (records.loc[records["method"] == "gene mean", "pearson"] == 0).all()
    assert len(records) == 3 * 4
    assert (records["n_train"] + records["n_test"]).nunique() == 1  # every spot with a patch
    ridge = records[records["method"] == "tiny, ridge"]
    mean = records[records["method"] == "gene mean"]
    assert ridge["mse"].mean() < mean["mse"].mean()
    assert ridge["pearson"].mean() > 0.2


def test_means_over_splits_then_tasks(records):
    table = hest_bench_table(records)
    chosen = records[records["method"] == "tiny, ridge"]
    idc, prad = (chosen.loc[chosen["task"] == task, "pearson"].mean() for task in ("IDC", "PRAD"))
    assert table.loc["tiny, ridge"].tolist() == pytest.approx([idc, prad, (idc + prad) / 2])
    assert table["mean"].is_monotonic_decreasing
    mixed = pd.concat([records, records.assign(targets="normalised")])
    with pytest.raises(ValueError, match="mix targets 'raw', 'normalised'"):
        hest_bench_table(mixed)


def test_any_predictor(root):
    """One that knows the truth scores 1, and sees the folds as they are."""
    seen = []

    def oracle(fold):
        seen.append((fold.task, fold.number, [sample.name for sample in fold.test]))
        return fold.expression(fold.test)

    records = hest_bench(root, predictors={"oracle": oracle}, tasks=["PRAD"])
    assert records.loc[records["method"] == "oracle", "pearson"].item() == pytest.approx(1)
    assert records.loc[records["method"] == "oracle", "mse"].item() == 0
    assert seen == [("PRAD", 0, ["A", "CCC"])]


def test_a_single_task(root):
    records = hest_bench(root / "PRAD", predictors={"nothing": lambda fold: 0 * fold.expression(fold.test)})
    assert records["pearson"].tolist() == [0, 0]


def test_the_image_is_put_together_from_patches(root):
    (fold,) = read_folds(root / "PRAD", "var_50genes.json", "raw")
    sample = fold.test[0]
    slide = sample.slide()
    image = SlideImage.from_anndata(slide)
    with h5py.File(sample.patches_path) as file:
        found, padded = image.patches(square_boxes(slide.obsm["spatial"], WIDTH), 24)
        assert padded.max() < 0.05
        difference = np.abs(found.astype(float) - file["img"][:]).mean()
    assert difference < 8  # patches that overlap were cut by another fraction of a pixel
    assert slide.obs_names.tolist() == sample.barcodes


def test_an_aligner(root, tmp_path):
    options = {
        "image_encoder": tiny_encoder(),
        "max_epochs": 4,
        "model_kwargs": {"config": TINY, "cache_dir": tmp_path},
        "plan_kwargs": {"learning_rate": 1e-3},
        **QUIET,
    }
    records = hest_bench(root / "PRAD", predictors={"aligner": aligner_predictor(**options)}, targets="normalised")
    scores = records.set_index("method")
    assert scores.loc["aligner", "pearson"] > 0.1
    assert scores.loc["aligner", "mse"] < 1.02 * scores.loc["gene mean", "mse"]


def edited(root, tmp_path, change):
    import shutil

    shutil.copytree(root / "PRAD", tmp_path / "PRAD")
    change(tmp_path / "PRAD")
    return tmp_path / "PRAD"


def without_a_barcode(folder):
    with h5py.File(folder / "patches" / "A.h5", "r+") as file:
        names = file["barcode"][:]
        names[0] = b"elsewhere"
        file["barcode"][...] = names


def with_a_leak(folder):
    table = pd.concat([pd.read_csv(folder / "splits" / f"{side}_0.csv") for side in ("train", "test")])
    table.to_csv(folder / "splits" / "train_0.csv", index=False)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda f: (f / "patches" / "A.h5").unlink(), FileNotFoundError, r"A\.h5'.*is not there"),
        (lambda f: (f / "splits" / "test_0.csv").unlink(), FileNotFoundError, r"test_0\.csv"),
        (lambda f: (f / "var_50genes.json").unlink(), FileNotFoundError, "var_50genes.json are needed"),
        (lambda f: (f / "var_50genes.json").write_text('{"genes": ["GENE00001", "OTHER"]}'), ValueError, "no 'OTHER'"),
        (lambda f: pd.DataFrame({"sample_id": ["A"]}).to_csv(f / "splits" / "test_0.csv"), ValueError, "has columns"),
        (without_a_barcode, ValueError, "has no 'elsewhere'.*have no counts"),
        (with_a_leak, ValueError, "trains on 'A', 'CCC' that it tests on"),
    ],
)
def test_folders_that_are_not_as_published(root, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        hest_bench(edited(root, tmp_path, change))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tasks": ["LUNG"]}, FileNotFoundError, "there is no 'LUNG'"),
        ({"targets": "log"}, ValueError, "`targets` must be one of"),
        ({"predictors": {"gene mean": None}}, ValueError, "has 'gene mean'"),
        ({"predictors": {"short": lambda fold: np.zeros(3)}}, ValueError, r"'short' gave shape \(3,\)"),
    ],
)
def test_refused(root, options, error, message):
    with pytest.raises(error, match=message):
        hest_bench(root, **options)


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "img-her2st_C2").is_dir(), reason="needs the shared sections")
def test_sections_of_breast_tumours(tmp_path):
    """Sections of one patient left out in turn: frozen features of photographs say something of expression."""
    from stimage.modules import load_image_encoder

    encoder = load_image_encoder("efficientnet_lite0")
    sections = {
        name: anndata.read_h5ad(SHARED / f"img-her2st_{name}" / f"img-her2st_{name}.h5ad") for name in ("C2", "C3")
    }
    shared = sorted(set.intersection(*(set(section.var_names) for section in sections.values())))
    pooled = np.concatenate([np.log1p(section[:, shared].X.toarray()) for section in sections.values()])
    genes = np.array(shared)[np.argsort(-pooled.var(axis=0))[:50]]
    for name, section in sections.items():
        image = SlideImage(SHARED / f"img-her2st_{name}" / f"{name}_HE.jpg")
        write_sample(tmp_path, name, section, image, width=153.0, size=224, drop=0)
    write_task(tmp_path, list(sections), genes, [["C2"], ["C3"]])
    table = hest_bench_table(hest_bench(tmp_path, {"efficientnet": encoder}))["mean"]
    assert table["efficientnet, protocol"] > 0.1
    assert table["efficientnet, ridge"] > table["efficientnet, protocol"]
