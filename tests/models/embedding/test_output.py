"""Embeddings written to zarr: what is in them, what a killed process leaves, and going on after it."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import zarr
from helpers import assert_unchanged
from slides import random_slide

from stimage import datasets, pp
from stimage.data import Corpus
from stimage.models import STImage
from stimage.models.embedding._output import ZarrRows, group_key, scratch_folder

SIZES = {"window": 6, "n_genes": 20}


@pytest.fixture(scope="module")
def pair():
    """Two slides in one AnnData, their rows interleaved."""
    both = datasets.simulate_tissue(n_rows=14, n_cols=10, n_genes=60, n_domains=3, n_slides=2, seed=3)
    both = both[np.random.default_rng(0).permutation(both.n_obs)].copy()
    pp.compact_grid(both, slide_key="slide")
    STImage.setup_anndata(both, slide_key="slide")
    return both


@pytest.fixture(scope="module")
def model(pair):
    model = STImage(pair, n_pool_genes=40, **SIZES)
    model.fit_readout()
    return model


def contents(folder):
    return sorted(os.listdir(folder))


@pytest.mark.parametrize("mode", ["visible", "context"])
def test_array_is_the_embedding(pair, model, tmp_path, mode):
    expected = model.get_latent_representation(pair, mode=mode)
    with assert_unchanged(pair):
        array = model.get_latent_representation(pair, mode=mode, output=tmp_path / "embedding.zarr")
    assert isinstance(array, zarr.Array)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array[:], expected)
    np.testing.assert_array_equal(zarr.open_array(str(tmp_path / "embedding.zarr"), mode="r")[:], expected)
    assert contents(tmp_path) == ["embedding.zarr"]
    record = model.embedding_record(pair, mode=mode, tile_size=None, n_genes=None, seed=0)
    assert dict(array.attrs) == record == json.loads(json.dumps(record))
    assert (record["mode"], record["tile_size"], record["model_id"]) == (mode, 12, model.model_id)
    with pytest.raises(FileExistsError, match="something at .*remove it, or choose another path"):
        model.get_latent_representation(pair, output=tmp_path / "embedding.zarr")


def test_slides_of_the_model_and_other_units(pair, model, tmp_path):
    array = model.get_latent_representation(output=str(tmp_path / "own"), mode="visible", n_genes=10)
    np.testing.assert_array_equal(array[:], model.get_latent_representation(mode="visible", n_genes=10))
    assert "n_genes_shared" not in array.attrs
    spots = STImage(pair, n_pool_genes=40, unit="neighborhood", n_neighbors=4, **SIZES)
    array = spots.get_latent_representation(output=tmp_path / "spots")
    np.testing.assert_array_equal(array[:], spots.get_latent_representation())
    assert array.attrs["tile_size"] == 0


def test_observations_that_share_a_site(model, tmp_path):
    cells = datasets.simulate_tissue(n_rows=14, n_cols=14, n_genes=60, n_domains=3, layout="irregular", seed=1)
    pp.compact_grid(cells, layout="bins", bin_size=300.0)
    array = model.get_latent_representation(cells, output=tmp_path / "cells")
    assert array.shape[0] == cells.n_obs
    np.testing.assert_array_equal(array[:], model.get_latent_representation(cells))


def test_sites_that_are_not_shown_are_not_a_number(model, tmp_path):
    slide = model.corpus[0]
    slide = slide.restrict(np.arange(slide.shape[0])[:, None] + np.zeros(slide.shape[1]) < 5)
    corpus = Corpus([slide], model.vocabulary)
    rows = model.get_latent_representation(corpus, output=tmp_path / "part")[:]
    np.testing.assert_array_equal(rows, model.get_latent_representation(corpus))
    shown = np.isin(slide.site_of_observation, slide.raster)
    order = corpus.observation_order
    np.testing.assert_array_equal(np.isnan(rows).all(axis=1), ~shown[order])
    np.testing.assert_array_equal(np.isnan(rows).any(axis=1), ~shown[order])


def test_rows_in_any_order(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(501, 3)).astype(np.float32)
    with scratch_folder(tmp_path / "rows") as scratch, ZarrRows(tmp_path / "rows", scratch, values.shape, {}) as rows:
        for some in np.split(rng.permutation(501), [0, 7, 8, 300]):
            rows[some] = values[some]
        assert not (tmp_path / "rows").exists()
    np.testing.assert_array_equal(zarr.open_array(str(tmp_path / "rows"), mode="r")[:], values)
    assert contents(tmp_path) == ["rows"]


class Breaking:
    """Expression whose second reading fails."""

    def __init__(self, matrix):
        self.matrix, self.shape, self.reads = matrix, matrix.shape, 0

    def __getitem__(self, rows):
        self.reads += 1
        if self.reads > 1:
            raise OSError("the disk is gone")
        return self.matrix[rows]


def test_an_error_on_the_way_leaves_nothing(model, tmp_path):
    slide = model.corpus[0]
    broken = replace(slide, expression=Breaking(slide.expression), centre=slide.gene_mean)
    corpus = Corpus([broken], model.vocabulary)
    with pytest.raises(OSError, match="the disk is gone"):
        model.get_latent_representation(corpus, mode="visible", output=tmp_path / "embedding", tile_size=4)
    assert broken.expression.reads == 2
    assert contents(tmp_path) == []


def test_two_processes_do_not_write_the_same_output(pair, model, tmp_path):
    with scratch_folder(tmp_path / "embedding"):
        with pytest.raises(RuntimeError, match="Another process writes"):
            model.get_latent_representation(pair, output=tmp_path / "embedding")
        with pytest.raises(RuntimeError, match="Another process writes"):
            model.embed_corpus(pair, tmp_path / "embedding")
        # Another output is not in the way.
        model.get_latent_representation(pair, mode="visible", output=tmp_path / "other")
    assert contents(tmp_path) == ["other"]


# Many slides


def test_a_group_has_an_array_for_each_slide(pair, model, tmp_path):
    group = model.embed_corpus(pair, tmp_path / "embeddings")
    names = pair.obs["slide"].cat.categories
    assert sorted(group.array_keys()) == sorted(names)
    together = model.get_latent_representation(pair)
    for name in names:
        np.testing.assert_allclose(group[name][:], together[pair.obs["slide"] == name], atol=1e-5)
        assert group[name].attrs["slide"] == name
    assert group.attrs["model_id"] == model.model_id
    assert contents(tmp_path) == ["embeddings"]


def test_corpora_in_memory_and_on_disk(model, tmp_path):
    corpus = model.corpus
    corpus.write(tmp_path / "corpus", target_sum=model.target_sum)
    groups = [
        model.embed_corpus(data, tmp_path / f"embeddings{number}", mode="context")
        for number, data in enumerate([None, corpus, Corpus.open(tmp_path / "corpus")])
    ]
    for slide in corpus:
        expected = model.get_latent_representation(Corpus([slide], model.vocabulary), mode="context")
        for group in groups:
            np.testing.assert_allclose(group[slide.name][:], expected, atol=1e-6)


@pytest.mark.parametrize("name", ["donor/1", "..", "zarr.json", "__a", "100 %", "großer Schnitt", "a.b"])
def test_names_of_slides(model, tmp_path, name):
    slide = replace(random_slide(8, 7, n_genes=40, name=name), target_sum=model.target_sum)
    group = model.embed_corpus(Corpus([slide], model.genes), tmp_path / "embeddings", mode="visible")
    assert [array.attrs["slide"] for _, array in group.arrays()] == [name]
    assert group[group_key(name)].shape == (slide.n_sites, 128)
    assert contents(tmp_path) == ["embeddings"]
    assert len({group_key(other) for other in (name, "%2E%2E", "%5F_a", "donor%2F1")}) == 4


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_going_on(pair, model, tmp_path):
    first, second = model.corpus
    output = tmp_path / "embeddings"
    model.embed_corpus(Corpus([first], model.vocabulary), output)
    before = times(output)
    group = model.embed_corpus(Corpus([first, second], model.vocabulary), output)
    after = times(output)
    assert before.items() <= after.items()
    assert sorted(group.array_keys()) == sorted([first.name, second.name])
    model.embed_corpus(pair, output)
    assert times(output) == after

    for options in ({"mode": "visible"}, {"seed": 1}, {"tile_size": 8}):
        name = next(iter(options))
        with pytest.raises(ValueError, match=f"another '{name}'.*remove them, or choose another path"):
            model.embed_corpus(pair, output, **options)
    other = STImage(pair, n_pool_genes=40, seed=1, spectral_start=False, **SIZES)
    other.readout = model.readout
    with pytest.raises(ValueError, match="another 'model_id'"):
        other.embed_corpus(pair, output)
    changed = replace(first, library_size=first.library_size + 1)
    with pytest.raises(ValueError, match=f"another slide that is called '{first.name}'"):
        model.embed_corpus(Corpus([changed], model.vocabulary), output)
    assert times(output) == after


def test_something_else_at_the_output(pair, model, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    zarr.open_group(str(tmp_path / "group"), mode="w")
    model.get_latent_representation(pair, mode="visible", output=tmp_path / "array")
    for name in ("file", "folder", "group", "array"):
        with pytest.raises(FileExistsError, match="something other than embeddings of slides"):
            model.embed_corpus(pair, tmp_path / name, mode="visible")
        with pytest.raises(FileExistsError, match="remove it"):
            model.get_latent_representation(pair, output=tmp_path / name)
    assert contents(tmp_path) == ["array", "file", "folder", "group"]
    with pytest.raises(TypeError, match="`output` must be a path"):
        model.embed_corpus(pair, 3)


EMBED = """
import sys
from stimage.data import Corpus
from stimage.models import STImage
model, corpus = STImage.load(sys.argv[1]), Corpus.open(sys.argv[2])
print("loaded", flush=True)
if sys.argv[4] == "group":
    model.embed_corpus(corpus, sys.argv[3], tile_size=4)
else:
    model.get_latent_representation(corpus, output=sys.argv[3], tile_size=4)
"""


def embed_and_kill(tmp_path, kind, begun):
    """Embed in another process and kill it as soon as something is there."""
    arguments = [sys.executable, "-c", EMBED, *(str(tmp_path / name) for name in ("model", "corpus", kind)), kind]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "loaded\n"
        deadline = time.monotonic() + 60
        while not begun() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("kind", ["array", "group"])
def test_a_killed_process_leaves_what_is_complete(model, tmp_path, kind):
    slides = [
        replace(random_slide(16, 12, n_genes=40, seed=number, name=f"slide{number}"), target_sum=model.target_sum)
        for number in range(5)
    ]
    corpus = Corpus(slides, model.vocabulary)
    corpus.write(tmp_path / "corpus", target_sum=model.target_sum)
    model.save(tmp_path / "model")
    output = tmp_path / kind
    if kind == "array":
        embed_and_kill(tmp_path, kind, (tmp_path / ".array.partial" / "rows").exists)
        assert not output.exists()
        found = model.get_latent_representation(corpus, output=output)[:]
        np.testing.assert_allclose(found, model.get_latent_representation(corpus), atol=1e-5)
    else:
        embed_and_kill(tmp_path, kind, (output / "slide1").exists)
        group = zarr.open_group(str(output), mode="r")
        whole = sorted(group.array_keys())
        assert ["slide0", "slide1"] == whole[:2]
        assert len(whole) < 5
        before = times(output)
        group = model.embed_corpus(corpus, output, tile_size=4)
        assert before.items() <= times(output).items()
        for slide in (slides[1], slides[-1]):
            expected = model.get_latent_representation(Corpus([slide], model.vocabulary), tile_size=4)
            np.testing.assert_allclose(group[slide.name][:], expected, atol=1e-5)
    assert contents(tmp_path) == sorted([kind, "corpus", "model"])
