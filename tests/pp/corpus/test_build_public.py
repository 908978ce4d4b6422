"""One command from a copy of a collection to a corpus with splits."""

import json
import subprocess
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from io_layouts import write_hest, write_stimage_1k4m
from slides import visium

import stimage as sti
from stimage.__main__ import main
from stimage.data import Corpus

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
GENES = [f"gene{i}" for i in range(12)]


@pytest.fixture(scope="module")
def slides():
    return {f"S{seed}": visium(9, 8, seed=seed) for seed in range(8)}


@pytest.fixture
def stimage_copy(slides, tmp_path):
    """Five studies; of them one mouse, one legacy array, one skin, one slide with too few spots, one torn file."""
    root = tmp_path / "STimage-1K4M"
    names = list(slides)
    write_stimage_1k4m(root, {name: slides[name] for name in names[:3]}, pmid="11")
    write_stimage_1k4m(root, {names[3]: slides[names[3]]}, pmid="12")
    write_stimage_1k4m(root, {names[4]: slides[names[4]]}, pmid="13")
    write_stimage_1k4m(root, {names[5]: slides[names[5]]}, pmid="14", species="mouse")
    write_stimage_1k4m(root, {names[6]: slides[names[6]]}, pmid="15", tissue="skin")
    write_stimage_1k4m(root, {"ST1": slides[names[7]]}, technology="ST", pmid="16")
    write_stimage_1k4m(root, {"few": slides[names[7]][:20].copy()}, pmid="17")
    write_stimage_1k4m(root, {"torn": slides[names[7]]}, pmid="18")
    path = root / "Visium/gene_exp/torn_count.csv"
    path.write_text(path.read_text()[:500])
    return root


def test_list_slides(stimage_copy, slides, tmp_path):
    table = sti.io.list_slides(stimage_copy)
    assert table.index.tolist() == sorted(table.index)
    assert len(table) == 10
    assert table.loc["S5", "species"] == "mouse"
    assert table.loc["few", "n_spots"] == 20
    assert table.loc["ST1", ["technology", "study", "donor"]].tolist() == ["ST", "16", ""]
    assert sti.io.read(table.loc["S0", "path"]).n_obs == 72
    write_hest(tmp_path / "hest", {"TENX2": slides["S0"], "TENX1": slides["S1"]})
    table = sti.io.list_slides(tmp_path / "hest")
    assert table["donor"].tolist() == ["a study: Patient 2", "a study: Patient 1"]
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        sti.io.list_slides(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is no copy of 'HEST-1k', 'STimage-1K4M': it has"):
        sti.io.list_slides(tmp_path)


def test_the_filter_and_the_splits(stimage_copy, slides, tmp_path):
    out = tmp_path / "corpus"
    options = ["--species", "Homo sapiens", "--technology", "visium", "--tissue", "Brain", "--min-spots", "50"]
    sizes = ["--validation-size", "0.2", "--test-size", "0.2", "--splits-by", "donor", "--n-genes", "10"]
    assert main(["corpus", str(stimage_copy), str(out), *options, *sizes]) == 0
    corpus = Corpus.open(out)
    Corpus.verify(out)
    assert sorted(slide.name for slide in corpus) == ["S0", "S1", "S2", "S3", "S4"]
    table = pd.read_csv(out / "slides.csv", index_col=0, keep_default_na=False)
    reasons = {name: row["reason"] for name, row in table.iterrows() if row["status"] == "left out"}
    assert reasons.pop("torn").startswith("Source '")
    assert reasons == {
        "S5": "species is mouse",
        "S6": "tissue is skin",
        "ST1": "technology is ST",
        "few": "it has 20 spots, fewer than 50",
    }
    splits = json.loads((out / "splits.json").read_text())
    assert sorted(splits["train"] + splits["validation"] + splits["test"]) == ["S0", "S1", "S2", "S3", "S4"]
    assert splits["train"] == ["S0", "S1", "S2"]  # one study whose donors are unknown
    assert table.loc["S3", "split"] in ("validation", "test")
    # The same corpus as from the sources themselves.
    paths = sti.io.list_slides(stimage_copy)["path"]
    again = sti.pp.build_corpus(
        paths[["S0", "S1", "S2", "S3", "S4"]].tolist(), tmp_path / "again", genes=corpus.vocabulary
    )
    for one, other in zip(corpus, again, strict=True):
        np.testing.assert_array_equal(one.expression[:].toarray(), other.expression[:].toarray())


def test_called_again_it_goes_on(stimage_copy, tmp_path):
    out = tmp_path / "corpus"
    words = ["corpus", str(stimage_copy), str(out), "--species", "human", "--n-genes", "10", "--min-slides", "2"]
    assert main(words) == 0
    before = {file.name: file.stat().st_mtime_ns for file in (out / "slides").iterdir()}
    assert not (out / "splits.json").exists()
    write_stimage_1k4m(stimage_copy, {"new": visium(9, 8, seed=50)}, pmid="30")
    assert main(words) == 0
    after = {file.name: file.stat().st_mtime_ns for file in (out / "slides").iterdir()}
    assert {name: after[name] for name in before} == before
    assert "new" in [slide.name for slide in Corpus.open(out)]


def test_what_cannot_be_done_is_said(stimage_copy, tmp_path, capsys):
    cases = {
        ("--tissue", "liver"): "No slide passes the filter: the 10 slides have species 'human', 'mouse'",
        ("--min-spots", "1"): "of 2 species ('human', 'mouse'), whose genes have other names: pass `species=`",
        (
            "--species",
            "mouse",
            "--splits-by",
            "donor",
        ): "The corpus has 1 groups of slides that must stay together, 3 parts",
    }
    for number, (options, message) in enumerate(cases.items()):
        out = tmp_path / f"corpus{number}"
        assert main(["corpus", str(stimage_copy), str(out), "--n-genes", "10", *options]) == 1
        assert message in capsys.readouterr().err
    assert main(["corpus", str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 1
    assert "there is no folder" in capsys.readouterr().err


def test_nothing_can_be_used(slides, tmp_path):
    write_stimage_1k4m(tmp_path / "copy", {"a": slides["S0"]})
    (tmp_path / "copy/Visium/coord/a_coord.csv").unlink()
    with pytest.raises(ValueError, match="None of 1 sources can be used: a: Slide 'a' of STimage-1K4M lacks"):
        sti.pp.build_public_corpus(tmp_path / "copy", tmp_path / "corpus", genes=GENES)


def test_genes_from_a_file(slides, tmp_path):
    write_hest(tmp_path / "copy", dict(list(slides.items())[:3]))
    (tmp_path / "genes.txt").write_text("gene3\ngene1\n\ngene7\n")
    words = ["corpus", str(tmp_path / "copy"), str(tmp_path / "corpus"), "--genes", str(tmp_path / "genes.txt")]
    done = subprocess.run([sys.executable, "-m", "stimage", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("Corpus of 3 slides, 216 sites and 3 genes in ")
    assert Corpus.open(tmp_path / "corpus").genes.tolist() == ["gene3", "gene1", "gene7"]


@pytest.mark.skipif(not DATA.is_dir(), reason="the real slides are not there")
@pytest.mark.parametrize("write", [write_stimage_1k4m, write_hest])
def test_real_slides(tmp_path, write):
    """Legacy arrays of five patients and a section of fetal colon, in both layouts."""
    names = ["her2st_A1", "her2st_B1", "her2st_B2", "her2st_C1", "her2st_D1", "her2st_E1", "heart_dev_4_CN73_C2"]
    real = {name: ad.read_h5ad(DATA / name / f"{name}.h5ad") for name in names}
    for name, adata in real.items():
        patient = name.split("_")[1][0] if name.startswith("her2st") else "heart"
        facts = {"pmid": patient} if write is write_stimage_1k4m else {"patient": patient}
        write(tmp_path / "copy", {name: adata}, **facts)
    corpus = sti.pp.build_public_corpus(
        tmp_path / "copy", tmp_path / "corpus", species="human", n_pool_genes=200, validation_size=0.2, test_size=0.2
    )
    assert [slide.name for slide in corpus] == sorted(names)
    for slide in corpus:
        adata = real[slide.name]
        assert slide.n_sites <= adata.n_obs
        assert len(slide.observation_index) == adata.n_obs
        genes = [gene for gene in corpus.genes if gene in adata.var_names]
        stored = np.expm1(slide.expression[:].toarray()) * slide.library_size[:, None] / slide.target_sum
        columns = [corpus.genes.tolist().index(gene) for gene in genes]
        np.testing.assert_allclose(stored[:, columns].sum(), adata[:, genes].X.sum(), rtol=1e-4)
    splits = json.loads((tmp_path / "corpus/splits.json").read_text())
    side = {name: part for part in ("train", "validation", "test") for name in splits[part]}
    assert side["her2st_B1"] == side["her2st_B2"]
    assert all(splits[part] for part in ("train", "validation", "test"))
    assert (corpus.report()["same_counts_as"] == "").all()
