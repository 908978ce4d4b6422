import numpy as np
import pandas as pd
import pytest

from stimage import datasets, pp
from stimage.benchmark._compare import _baselines
from stimage.data import Corpus, macro_domains
from stimage.models import STImage
from stimage.models._setup import corpus_of

SIZES = {"window": 4, "n_genes": 32}


@pytest.fixture(scope="module")
def in_memory():
    slides = [datasets.simulate_tissue(n_rows=20, n_cols=12, n_genes=90, n_domains=3, seed=seed) for seed in range(2)]
    for adata in slides:
        pp.compact_grid(adata)
    return corpus_of(slides, n_pool_genes=60)


@pytest.fixture(scope="module")
def on_disk(in_memory, tmp_path_factory):
    path = tmp_path_factory.mktemp("stored") / "corpus"
    in_memory.write(path)
    return Corpus.open(path)


def trained(corpus, **options):
    model = STImage(corpus, **SIZES, **options)
    model.train(2, batch_size=4, windows_per_epoch=8, validation_size=0.1, accelerator="cpu", enable_progress_bar=False)
    return model


def test_training_from_disk_is_training_from_memory(in_memory, on_disk):
    expected, found = trained(in_memory), trained(on_disk)
    assert set(found.history) == set(expected.history) >= {"train_loss", "validation_loss"}
    for name, frame in expected.history.items():
        pd.testing.assert_frame_equal(found.history[name], frame, check_exact=True)
    assert found.model_id == expected.model_id
    pd.testing.assert_frame_equal(found.manifest["slides"], expected.manifest["slides"])
    assert found.manifest["vocabulary_sha256"] == expected.manifest["vocabulary_sha256"]
    np.testing.assert_allclose(
        found.get_latent_representation(mode="visible"), expected.get_latent_representation(mode="visible"), atol=1e-5
    )


def test_baselines_and_macro_domains_from_disk_are_those_from_memory(in_memory, on_disk, monkeypatch):
    monkeypatch.setattr("stimage.data.slides._row_matrix._BLOCK", 500)
    in_memory = in_memory.to_target_sum(on_disk[0].target_sum)
    expected, found = (_baselines(corpus.slides, 0) for corpus in (in_memory, on_disk))
    assert list(found) == list(expected)
    for name, vectors in expected.items():
        np.testing.assert_allclose(found[name], vectors, rtol=1e-4, atol=1e-4, err_msg=name)
    for stored, slide in zip(on_disk, in_memory, strict=True):
        np.testing.assert_array_equal(macro_domains(stored, 4), macro_domains(slide, 4))


def test_another_scale_is_converted(in_memory, tmp_path):
    """Windows and means of a corpus on another scale are those of the corpus converted as a whole."""
    in_memory.write(tmp_path / "corpus", target_sum=1e4)
    options = {"unit": "spot"}
    expected, found = trained(in_memory, **options), trained(Corpus.open(tmp_path / "corpus"), **options)
    for name, frame in expected.history.items():
        pd.testing.assert_frame_equal(found.history[name], frame, check_exact=True)
