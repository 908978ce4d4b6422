import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import time

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scvi
from helpers import assert_unchanged
from PIL import Image
from slides import visium

from stimage import io, pp
from stimage.data import Corpus, Vocabulary
from stimage.models._setup import corpus_of
from stimage.pp.corpus._sources import check_sources, fingerprint

GENES = [f"gene{i}" for i in range(8)]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(scvi.settings, "verbosity", logging.WARNING)


@pytest.fixture(scope="module")
def slides():
    return [visium(6, 5, odd=bool(seed % 2), seed=seed) for seed in range(4)]


def contents(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }


def with_grid(adata, **options):
    return pp.compact_grid(adata, copy=True, **options)


def assert_same(found, expected):
    """The same slides, on disk and in memory; names aside."""
    assert found.genes.tolist() == expected.genes.tolist()
    assert found.vocabulary.ensembl_ids == expected.vocabulary.ensembl_ids
    np.testing.assert_array_equal(found.observation_order, expected.observation_order)
    for new, old in zip(found, expected.to_target_sum(1e3), strict=True):
        assert (new.expression[:] != old.expression).nnz == 0
        for name in ("raster", "library_size", "measured", "observation_index", "site_of_observation"):
            np.testing.assert_array_equal(getattr(new, name), getattr(old, name))
        assert (new.layout, new.parity, new.donor, new.spot_sketch) == (
            old.layout,
            old.parity,
            old.donor,
            old.spot_sketch,
        )


def write_visium(folder, adata):
    """What Space Ranger writes, as far as it is read."""
    (folder / "spatial").mkdir(parents=True)
    with h5py.File(folder / "filtered_feature_bc_matrix.h5", "w") as file:
        file.attrs["library_ids"] = np.array([b"lib"])
        group = file.create_group("matrix")
        group["barcodes"] = adata.obs_names.to_numpy().astype("S")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(adata.X, name).astype(np.int64)
        group["shape"] = adata.shape[::-1]
        features = group.create_group("features")
        features["id"] = [f"ENSG{i:011}".encode() for i in range(adata.n_vars)]
        features["name"] = adata.var_names.to_numpy().astype("S")
        for name, value in (("feature_type", "Gene Expression"), ("genome", "GRCh38")):
            features[name] = np.full(adata.n_vars, value).astype("S")
    positions = adata.obs[["array_row", "array_col"]].copy()
    positions.insert(0, "in_tissue", 1)
    positions[["y", "x"]] = adata.obsm["spatial"][:, ::-1]
    positions.index.name = "barcode"
    positions.to_csv(folder / "spatial" / "tissue_positions.csv")
    for name in ("hires", "lowres"):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "spatial" / f"tissue_{name}_image.png")
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps({"tissue_hires_scalef": 1.0}))


# What comes out


@pytest.mark.filterwarnings("ignore:Writing zarr v2", "ignore:zarr v3")
def test_all_kinds_of_sources_give_the_corpus_in_memory(slides, tmp_path):
    h5ad, zarr, folder = tmp_path / "first.h5ad", tmp_path / "second.zarr", tmp_path / "third"
    slides[0].write_h5ad(h5ad)
    slides[1].write_zarr(zarr)
    write_visium(folder, slides[2])
    before = contents(tmp_path)
    with assert_unchanged(slides[3]):
        found = pp.build_corpus([h5ad, str(zarr), folder, slides[3]], tmp_path / "corpus", n_pool_genes=8)
    expected = corpus_of([with_grid(adata) for adata in slides], n_pool_genes=8)
    # Only the third has Ensembl ids.
    ids = {gene: f"ENSG{int(gene[4:]):011}" for gene in expected.genes}
    expected.vocabulary = Vocabulary(expected.genes, ids)
    assert_same(found, expected)
    assert [slide.name for slide in found] == ["first", "second", "third", "slide"]
    assert {name: text for name, text in contents(tmp_path).items() if not name.startswith("corpus/")} == before
    Corpus.verify(tmp_path / "corpus")


def test_spatialdata(slides, tmp_path):
    spatialdata = pytest.importorskip("spatialdata")
    from spatialdata.models import ShapesModel, TableModel

    adata = ad.concat(slides[:2], label="region", keys=["left", "right"], index_unique="-")
    adata.obs["instance"] = adata.obs_names
    shapes = {
        region: ShapesModel.parse(part.obsm["spatial"], geometry=0, radius=5.0, index=part.obs_names.to_numpy())
        for region, part in ((region, adata[adata.obs["region"] == region]) for region in ("left", "right"))
    }
    table = TableModel.parse(adata.copy(), region=["left", "right"], region_key="region", instance_key="instance")
    spatialdata.SpatialData(shapes=shapes, tables={"spots": table}).write(tmp_path / "both.zarr")
    found = pp.build_corpus(tmp_path / "both.zarr", tmp_path / "corpus", genes=GENES, table="spots")
    assert [slide.name for slide in found] == ["left", "right"]
    expected = Corpus.from_anndata(with_grid(adata, slide_key="region"), genes=GENES)
    assert_same(found, expected)
    with pytest.raises(KeyError, match=r"both.zarr.*`table`='cells' is not a table"):
        pp.build_corpus(tmp_path / "both.zarr", tmp_path / "other", genes=GENES, table="cells")


def test_slides_of_one_anndata_and_names_that_are_taken(slides, tmp_path):
    both = ad.concat(slides[:2], label="section", keys=["a", "b"], index_unique="-")
    both.obs["who"] = np.where(both.obs["section"] == "a", "ann", "bob")
    slides[2].write_h5ad(tmp_path / "a.h5ad")
    options = {"slide_key": "section", "donor_key": "who"}
    found = pp.build_corpus(both, tmp_path / "corpus", genes=GENES, **options)
    assert_same(found, Corpus.from_anndata(with_grid(both, slide_key="section"), genes=GENES, donor_key="who"))
    assert found.source == [0, 0]
    with pytest.raises(KeyError, match=r"Source '.*a.h5ad': `slide_key`='section' is not in adata.obs"):
        pp.build_corpus([both, tmp_path / "a.h5ad"], tmp_path / "corpus", genes=GENES, **options)
    one = pp.build_corpus([slides[3], tmp_path / "a.h5ad", with_grid(slides[0])], tmp_path / "one", genes=GENES)
    assert [slide.name for slide in one] == ["slide", "a", "slide-2"]


def test_genes_are_those_of_select_genes(slides, tmp_path):
    parts = [slides[0][:, :10].copy(), slides[1][:, 2:].copy(), slides[2]]
    for options in ({}, {"join": "outer", "min_slides": 2}):
        path = tmp_path / f"corpus{len(options)}"
        found = pp.build_corpus(parts, path, n_pool_genes=7, **options)
        assert found.genes.tolist() == pp.select_genes(parts, n_genes=7, **options).genes
    both = ad.concat(slides[:2], label="section", index_unique="-")
    found = pp.build_corpus([both, slides[2]], tmp_path / "several", n_pool_genes=5, slide_key=None)
    assert found.genes.tolist() == pp.select_genes([both, slides[2]], n_genes=5).genes


# Going on


def test_sources_in_the_corpus_are_skipped(slides, tmp_path):
    paths = [tmp_path / f"{number}.h5ad" for number in range(3)]
    for path, adata in zip(paths, slides, strict=False):
        adata.write_h5ad(path)
    corpus = tmp_path / "corpus"
    pp.build_corpus(paths[:2], corpus, n_pool_genes=8)
    before = {file.name: file.stat().st_mtime_ns for file in (corpus / "slides").iterdir()}
    genes = Corpus.open(corpus).genes.tolist()
    # Elsewhere, in another order, with one more and one named twice.
    (tmp_path / "moved").mkdir()
    moved = [shutil.move(path, tmp_path / "moved") for path in paths]
    found = pp.build_corpus([moved[1], moved[2], moved[0], moved[2], slides[3]], corpus, n_pool_genes=8)
    assert [slide.name for slide in found] == ["0", "1", "2", "slide"]
    assert found.genes.tolist() == genes
    after = {file.name: file.stat().st_mtime_ns for file in (corpus / "slides").iterdir()}
    assert {name: after[name] for name in before} == before
    again = contents(corpus)
    pp.build_corpus([slides[3].copy(), *moved], corpus, n_pool_genes=8)
    assert contents(corpus) == again
    pp.build_corpus(moved, corpus, genes=genes)
    assert contents(corpus) == again


def write_visium_hd(folder, adata):
    """What Space Ranger writes for bins: positions of all bins of the slide in a parquet file, and no csv."""
    write_visium(folder, adata)
    positions = pd.read_csv(folder / "spatial" / "tissue_positions.csv")
    (folder / "spatial" / "tissue_positions.csv").unlink()
    positions.columns = [*positions.columns[:-2], "pxl_row_in_fullres", "pxl_col_in_fullres"]
    outside = positions.assign(barcode=positions["barcode"] + "-outside", in_tissue=0)
    positions = pd.concat([outside, positions[::-1]])
    positions.to_parquet(folder / "spatial" / "tissue_positions.parquet")
    return positions


def test_visium_hd(slides, tmp_path):
    pytest.importorskip("pyarrow")
    folder = tmp_path / "binned_outputs" / "square_008um"
    positions = write_visium_hd(folder, slides[0])
    write_visium(tmp_path / "csv", slides[0])
    found = io.read(folder)
    assert found.obs_names.tolist() == slides[0].obs_names.tolist()
    np.testing.assert_array_equal(found.obsm["spatial"], slides[0].obsm["spatial"])
    np.testing.assert_array_equal(found.obs[["array_row", "array_col"]], slides[0].obs[["array_row", "array_col"]])
    assert next(iter(found.uns["spatial"].values()))["scalefactors"] == {"tissue_hires_scalef": 1.0}
    assert found.uns["stimage_source"]["dropped"] == {}
    (hd,) = pp.build_corpus(folder, tmp_path / "hd", genes=GENES)
    (csv,) = pp.build_corpus(tmp_path / "csv", tmp_path / "plain", genes=GENES)
    assert hd.name == f"{tmp_path.name}_square_008um"
    np.testing.assert_array_equal(hd.raster, csv.raster)
    np.testing.assert_array_equal(hd.expression[:].toarray(), csv.expression[:].toarray())

    with pytest.raises(ValueError, match="has bins of several sizes.*'square_008um'.*pass the folder of one of them"):
        pp.build_corpus(tmp_path, tmp_path / "other", genes=GENES)
    path = folder / "spatial" / "tissue_positions.parquet"
    for changed, message in (
        (positions.drop(columns="array_row"), "lacks columns 'array_row'"),
        (positions[:-1], "does not have each barcode"),
        (pd.concat([positions, positions[-1:]]), "does not have each barcode"),
    ):
        changed.to_parquet(path)
        with pytest.raises(ValueError, match=f"Source .*square_008um.*{message}"):
            pp.build_corpus(folder, tmp_path / "other", genes=GENES)
    path.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="Source .*square_008um.*[Pp]arquet"):
        pp.build_corpus(folder, tmp_path / "other", genes=GENES)


def test_parquet_without_pyarrow(slides, tmp_path, monkeypatch):
    pytest.importorskip("pyarrow")
    write_visium_hd(tmp_path / "hd", slides[0])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "fastparquet", None)
    with pytest.raises(ImportError, match="tissue_positions.parquet.*`pip install pyarrow`"):
        pp.build_corpus(tmp_path / "hd", tmp_path / "corpus", genes=GENES)


def test_fingerprints(slides, tmp_path):
    slides[0].write_h5ad(tmp_path / "a.h5ad")
    folder = tmp_path / "folder"
    write_visium(folder, slides[0])

    def of(source):
        return fingerprint(check_sources(source)[0], None)

    first, second, third = of(tmp_path / "a.h5ad"), of(folder), of(slides[0])
    assert len({first, second, third}) == 3
    with (tmp_path / "a.h5ad").open("ab") as file:
        file.write(b"x")
    (folder / "spatial" / "more.txt").write_text("")
    changed = slides[0].copy()
    changed.X[0, 0] += 1
    assert of(tmp_path / "a.h5ad") != first
    assert of(folder) != second
    assert of(changed) != third
    assert of(slides[0].copy()) == third


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_pool_genes": 9}, "was built with n_pool_genes=8 instead of 9: continue it"),
        ({"genes": GENES}, "has other genes"),
        ({"layer": "raw"}, "layer=None instead of 'raw'"),
        ({"target_sum": 1e4}, "has `target_sum`=1000, 10000 was asked for"),
    ],
)
def test_options_that_changed(slides, tmp_path, options, message):
    pp.build_corpus(slides[:2], tmp_path / "corpus", n_pool_genes=8)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=message):
        pp.build_corpus(slides, tmp_path / "corpus", **{"n_pool_genes": 8} | options)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("given", [True, False])
def test_errors_name_the_source_and_keep_what_is_finished(slides, tmp_path, given):
    (tmp_path / "torn.h5ad").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 40)
    logged = slides[1].copy()
    logged.X = np.log1p(logged.X)
    lost = slides[2].copy()
    del lost.obs["array_row"], lost.obs["array_col"], lost.obsm["spatial"]
    bad = {
        r"Source '.*torn.h5ad': it cannot be read": tmp_path / "torn.h5ad",
        r"Source sources\[1\]: .*looks log-transformed, raw counts are needed": logged,
        r"Source sources\[1\]: No spatial coordinates": lost,
    }
    genes = {"genes": GENES} if given else {"n_pool_genes": 8}
    for number, (message, source) in enumerate(bad.items()):
        path = tmp_path / f"corpus{number}"
        with pytest.raises((ValueError, KeyError), match=message):
            pp.build_corpus([slides[0], source, slides[3]], path, **genes)
        if given:
            assert [slide.name for slide in Corpus.open(path)] == ["slide"]
        assert len(pp.build_corpus([slides[0], slides[3]], path, **genes)) == 2


@pytest.mark.parametrize(
    ("sources", "error", "message"),
    [
        ([], ValueError, "`sources` is empty"),
        (["nowhere.h5ad"], FileNotFoundError, "there is no 'nowhere.h5ad'"),
        ([os.devnull], ValueError, "is no .h5ad file, no .zarr folder"),
        ([3], TypeError, r"`sources\[0\]` must be a path or an AnnData, found int"),
        (pd.DataFrame(), TypeError, "found DataFrame"),
    ],
)
def test_sources_that_are_none(tmp_path, sources, error, message):
    with pytest.raises(error, match=message):
        pp.build_corpus(sources, tmp_path / "corpus", genes=GENES)
    assert not (tmp_path / "corpus").exists()


def test_a_build_that_is_killed(slides, tmp_path):
    """At any moment: what is finished is a corpus, and the next call completes it to what it would have been."""
    sources = [*slides, *(visium(5, 4, seed=seed) for seed in range(10, 14))]
    whole = tmp_path / "whole"
    start = time.perf_counter()
    pp.build_corpus(sources, whole, genes=GENES)
    duration = time.perf_counter() - start
    expected, stopped = contents(whole), []
    context = multiprocessing.get_context("fork")
    for attempt, moment in enumerate(np.random.default_rng(0).uniform(0, 1, 10)):
        path = tmp_path / str(attempt)
        builder = context.Process(target=pp.build_corpus, args=(sources, path), kwargs={"genes": GENES})
        builder.start()
        time.sleep(moment * duration)
        os.kill(builder.pid, signal.SIGKILL)
        builder.join()
        n_finished = 0
        if (path / "corpus.json").exists():
            n_finished = len(json.loads((path / "corpus.json").read_text())["slides"])
        if n_finished:
            Corpus.verify(path)
            assert len(Corpus.open(path)) == n_finished
            assert [slide.name for slide in Corpus.open(path)] == [slide.name for slide in Corpus.open(whole)][
                :n_finished
            ]
        stopped.append(n_finished)
        assert len(pp.build_corpus(sources, path, genes=GENES)) == len(sources)
        assert contents(path) == expected
        shutil.rmtree(path)
    # Not all were killed before the first slide or after the last one.
    assert len(set(stopped)) > 2
