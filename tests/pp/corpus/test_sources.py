"""What identifies a source and a slide of a corpus, and what a corpus says of itself."""

import json
import shutil
import warnings

import anndata as ad
import numpy as np
import pytest
from io_layouts import cellxgene, write_10x_h5, write_hest, write_positions, write_stimage_1k4m
from slides import visium

from stimage import pp
from stimage.data import Corpus
from stimage.pp.corpus._sources import check_sources, fingerprint

GENES = [f"gene{i}" for i in range(12)]


@pytest.fixture(scope="module")
def slides():
    return [visium(9, 8, seed=seed) for seed in range(4)]


def write_outs(folder, adata):
    write_positions(folder / "spatial" / "tissue_positions.csv", adata)
    write_10x_h5(folder / "filtered_feature_bc_matrix.h5", adata)
    return folder


def counts_of(slide):
    """Counts of a stored slide, row by row in a fixed order."""
    counts = np.expm1(slide.expression[:].toarray()) * slide.library_size[:, None] / slide.target_sum
    counts = np.rint(counts).astype(int)
    return counts[np.lexsort(counts.T)]


def sorted_counts(adata):
    counts = adata.X.toarray().astype(int)
    return counts[np.lexsort(counts.T)]


# Names


def test_names_are_those_of_samples_in_any_order(slides, tmp_path):
    folders = [write_outs(tmp_path / name / "outs", adata) for name, adata in zip("abcd", slides, strict=True)]
    for number, order in enumerate(([0, 1, 2, 3], [3, 1, 0, 2])):
        corpus = pp.build_corpus([folders[i] for i in order], tmp_path / f"corpus{number}", genes=GENES)
        assert [slide.name for slide in corpus] == ["abcd"[i] for i in order]
        for slide in corpus:
            np.testing.assert_array_equal(counts_of(slide), sorted_counts(slides["abcd".index(slide.name)]))


def test_files_of_one_name_are_told_apart_by_their_folders(slides, tmp_path):
    paths = []
    for study in ("one", "two"):
        for section in ("left", "right"):
            folder = tmp_path / study / section / "result"
            folder.mkdir(parents=True)
            slides[len(paths)].write_h5ad(folder / "slide.h5ad")
            paths.append(folder / "slide.h5ad")
    names = ["one_left_slide", "one_right_slide", "two_left_slide", "two_right_slide"]
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        assert [source.name for source in check_sources([paths[i] for i in order])] == [names[i] for i in order]
    assert [source.name for source in check_sources([paths[0], paths[2]])] == ["one_slide", "two_slide"]
    # The same file twice is one source.
    assert [source.name for source in check_sources([paths[0], str(paths[0])])] == ["slide", "slide"]


def test_an_anndata_is_called_like_its_library(slides, tmp_path):
    adatas = [slides[0].copy(), slides[1].copy()]
    for adata, name in zip(adatas, ("GSM1", "GSM2"), strict=True):
        adata.uns["spatial"] = {name: {"images": {}, "scalefactors": {}}}
    corpus = pp.build_corpus(adatas[::-1], tmp_path / "corpus", genes=GENES)
    assert [slide.name for slide in corpus] == ["GSM2", "GSM1"]


# Content


@pytest.mark.parametrize("where", ["file", "folder"])
def test_every_byte_counts(slides, tmp_path, where):
    if where == "file":
        path = changed = tmp_path / "a.h5ad"
        slides[0].write_h5ad(path)
        with path.open("ab") as file:
            file.write(bytes(5 << 20))
    else:
        path = write_outs(tmp_path / "a" / "outs", slides[0])
        changed = path / "spatial" / "tissue_positions.csv"
    before = fingerprint(check_sources(path)[0], None)
    for place in (0.1, 0.5, 0.9):
        content = bytearray(changed.read_bytes())
        position = int(place * len(content))
        content[position] ^= 1
        changed.write_bytes(content)
        assert fingerprint(check_sources(path)[0], None) != before
        content[position] ^= 1
        changed.write_bytes(content)
    assert fingerprint(check_sources(path)[0], None) == before
    moved = tmp_path / "elsewhere" / path.name
    moved.parent.mkdir()
    shutil.move(path, moved) if where == "file" else shutil.copytree(path, moved)
    assert fingerprint(check_sources(moved)[0], None) == before


def test_what_belongs_to_other_samples_does_not_count(slides, tmp_path):
    write_stimage_1k4m(tmp_path, {"a": slides[0]})
    path = tmp_path / "Visium/gene_exp/a_count.csv"
    before = fingerprint(check_sources(path)[0], None)
    write_stimage_1k4m(tmp_path, {"b": slides[1]})
    assert fingerprint(check_sources(path)[0], None) == before


def test_a_path_with_another_content_is_refused(slides, tmp_path):
    path, corpus = tmp_path / "a.h5ad", tmp_path / "corpus"
    slides[0].write_h5ad(path)
    pp.build_corpus(path, corpus, genes=GENES)
    before = (corpus / "corpus.json").read_bytes()
    slides[1].write_h5ad(path)
    slides[2].write_h5ad(tmp_path / "b.h5ad")
    with pytest.raises(
        ValueError, match="Source '.*a.h5ad' is in the corpus, but its content is another now: restore it"
    ):
        pp.build_corpus([tmp_path / "b.h5ad", path], corpus, genes=GENES)
    assert (corpus / "corpus.json").read_bytes() == before
    slides[0].write_h5ad(path)
    assert [slide.name for slide in pp.build_corpus([tmp_path / "b.h5ad", path], corpus, genes=GENES)] == ["a", "b"]


# All formats


def test_formats_beside_each_other(slides, tmp_path):
    """Every format gives the slide that was written, in one corpus."""
    write_stimage_1k4m(tmp_path / "stimage", {"GSM1": slides[0]})
    write_hest(tmp_path / "hest", {"TENX1": slides[1]})
    unfiltered, inside = cellxgene(slides[2])
    unfiltered.var_names = unfiltered.var["feature_name"]
    unfiltered.raw.var.index = unfiltered.var_names
    unfiltered.write_h5ad(tmp_path / "cellxgene.h5ad")
    sources = {
        "GSM1": (tmp_path / "stimage/Visium/gene_exp/GSM1_count.csv", slides[0]),
        "TENX1": (tmp_path / "hest/st/TENX1.h5ad", slides[1]),
        "cellxgene": (tmp_path / "cellxgene.h5ad", slides[2][inside]),
        "p4": (write_outs(tmp_path / "p4" / "outs", slides[3]), slides[3]),
    }
    corpus = pp.build_corpus([path for path, _ in sources.values()], tmp_path / "corpus", n_pool_genes=12)
    assert [slide.name for slide in corpus] == list(sources)
    order = [GENES.index(gene) for gene in corpus.genes]
    for slide in corpus:
        adata = sources[slide.name][1]
        np.testing.assert_array_equal(counts_of(slide), sorted_counts(adata[:, order]))
    report = corpus.report()
    assert report["format"].tolist() == ["STimage-1K4M", "HEST-1k", "CELLxGENE", "Space Ranger"]
    assert report["donor"].tolist() == ["", "a study: Patient 1", "D7", ""]
    assert report["tissue"].tolist() == ["brain", "Breast", "heart", ""]
    assert report.loc["cellxgene", "dropped"] == f"{(~inside).sum()} spots outside of tissue (in_tissue is 0)"
    assert report["n_sites"].tolist() == [72, 72, inside.sum(), 72]
    assert (report["n_genes"] == 12).all()
    assert (report["same_counts_as"] == "").all()
    expected = [np.median(np.asarray(adata.X.sum(axis=1))) for _, adata in sources.values()]
    np.testing.assert_allclose(report["median_counts"], expected)
    Corpus.verify(tmp_path / "corpus")


def test_counts_are_looked_for_as_reading_does(slides, tmp_path):
    adata = slides[0].copy()
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X)
    with pytest.warns(UserWarning, match="Read raw counts from"):
        (slide,) = pp.build_corpus(adata, tmp_path / "corpus", genes=GENES)
    np.testing.assert_array_equal(counts_of(slide), sorted_counts(slides[0]))


# Duplicates and donors


def disguised(adata, seed):
    """The same counts under other names, in another order, elsewhere."""
    order = np.random.default_rng(seed).permutation(adata.n_obs)
    adata = adata[order].copy()
    adata.obs_names = [f"other{i}" for i in range(adata.n_obs)]
    adata.obsm["spatial"] = adata.obsm["spatial"] * 2 + 5
    return adata


def test_the_same_slide_under_another_name(slides, tmp_path):
    deep = [adata.copy() for adata in slides]
    for adata, donor in zip(deep, ("ann", "bob", "cleo", "dora"), strict=True):
        adata.obs["donor_id"] = donor
    copy, part = disguised(deep[0], 1), disguised(deep[1], 2)[:40].copy()
    copy.obs["donor_id"], part.obs["donor_id"] = "eve", "bob"
    with pytest.warns(UserWarning, match="4 slides have the same counts as others .* and 2 contradict others"):
        corpus = pp.build_corpus([*deep, copy, part], tmp_path / "corpus", genes=GENES)
    names = [slide.name for slide in corpus]
    for report in (corpus.report(), Corpus.open(tmp_path / "corpus").report()):
        same = dict(zip(names, report["same_counts_as"], strict=True))
        assert same == {
            names[0]: names[4],
            names[4]: names[0],
            names[1]: names[5],
            names[5]: names[1],
            names[2]: "",
            names[3]: "",
        }
        wrong = report["contradiction"].tolist()
        assert wrong[0] == f"same counts as {names[4]!r} of donor 'eve'"
        assert wrong[4] == f"same counts as {names[0]!r} of donor 'ann'"
        assert wrong[1:4] == ["", "", ""] and wrong[5] == ""


def test_different_slides_say_nothing(slides, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pp.build_corpus(slides, tmp_path / "corpus", genes=GENES)


def test_a_donor_of_two_species(slides, tmp_path):
    for name, adata, species in (("A1", slides[0], "Homo sapiens"), ("A2", slides[1], "Mus musculus")):
        write_hest(tmp_path, {name: adata}, species=species, patient="7")
    sources = [tmp_path / "st" / f"{name}.h5ad" for name in ("A1", "A2")]
    with pytest.warns(UserWarning, match="2 contradict others"):
        corpus = pp.build_corpus(sources, tmp_path / "corpus", genes=GENES)
    assert corpus.report()["contradiction"].tolist() == [
        "donor 'a study: 7' is also of 'Mus musculus' ('A2')",
        "donor 'a study: 7' is also of 'Homo sapiens' ('A1')",
    ]


def test_donors_that_are_asked_for_win(slides, tmp_path):
    both = ad.concat(slides[:2], label="section", keys=["a", "b"], index_unique="-")
    both.obs["donor_id"], both.obs["who"] = "one", np.where(both.obs["section"] == "a", "ann", "bob")
    corpus = pp.build_corpus(both, tmp_path / "corpus", genes=GENES, slide_key="section", donor_key="who")
    assert [slide.donor for slide in corpus] == ["ann", "bob"]


def test_details_are_stored_and_checked(slides, tmp_path):
    write_hest(tmp_path, {"A1": slides[0]}, pixel_size_um_estimated=1.0)
    corpus = pp.build_corpus(tmp_path / "st/A1.h5ad", tmp_path / "corpus", genes=GENES)
    report = corpus.report()
    assert report[["unit", "micrometres_per_unit", "layout"]].iloc[0].tolist() == ["micrometre", 1.0, "hex"]
    corpus.write(tmp_path / "again")
    again = Corpus.open(tmp_path / "again").report()
    assert again.equals(report)
    assert corpus.to_target_sum(1e4).report().equals(report)
    document = json.loads((tmp_path / "corpus/corpus.json").read_text())
    assert document["slides"][0]["details"]["tissue"] == "Breast"
