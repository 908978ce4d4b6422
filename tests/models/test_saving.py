import json

import numpy as np
import pytest
import torch
from helpers import assert_unchanged

from stimage.models import STImage
from stimage.train import save_checkpoint


@pytest.fixture
def saved(trained, tmp_path):
    trained.save(tmp_path / "model")
    return tmp_path / "model"


def edit(saved, change):
    document = json.loads((saved / "config.json").read_text())
    change(document)
    (saved / "config.json").write_text(json.dumps(document))


def test_round_trip(trained, saved, tissue):
    with assert_unchanged(tissue):
        loaded = STImage.load(saved, tissue)
    for mode in ("visible", "context", "surroundings", "combined"):
        expected = trained.get_latent_representation(mode=mode)
        np.testing.assert_array_equal(loaded.get_latent_representation(mode=mode), expected)
        np.testing.assert_array_equal(STImage.load(saved).get_latent_representation(tissue, mode=mode), expected)
    assert repr(loaded) == repr(trained)
    assert loaded.model_id == trained.model_id
    assert loaded.genes.tolist() == trained.genes.tolist()
    assert (loaded.spec, loaded.autoencoder, loaded.optimizer) == (trained.spec, trained.autoencoder, trained.optimizer)
    assert (loaded.seed, loaded.is_trained) == (trained.seed, True)
    assert list(loaded.history) == list(trained.history)
    for name, history in trained.history.items():
        np.testing.assert_array_equal(loaded.history[name], history)
    assert loaded.manifest["vocabulary_sha256"] == trained.manifest["vocabulary_sha256"]
    slides = trained.manifest["slides"]
    assert loaded.manifest["slides"][slides.columns].equals(slides)
    assert not loaded.module.training


def test_saving_a_loaded_model_gives_the_same_files(saved, tmp_path):
    STImage.load(saved).save(tmp_path / "again")
    for path in saved.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_an_untrained_model(tissue, tmp_path):
    model = STImage(tissue, window=8, n_pool_genes=60, preset="paper", seed=3)
    model.save(tmp_path)
    loaded = STImage.load(tmp_path)
    assert not loaded.is_trained
    assert loaded.history == {}
    for name, tensor in model.module.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[name], tensor)


def test_overwriting(trained, saved):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(FileExistsError, match="holds a model already: pass `overwrite=True`"):
        trained.save(saved)
    trained.save(saved, overwrite=True)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_a_model_without_slides(saved):
    model = STImage.load(saved)
    with pytest.raises(ValueError, match="loaded without slides: pass `data`"):
        model.get_latent_representation()
    with pytest.raises(ValueError, match="loaded without slides"):
        model.train(max_epochs=1)


def test_other_kinds(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="No checkpoint in"):
        STImage.load(tmp_path / "nowhere")
    save_checkpoint(tmp_path / "other", kind="STAlign", weights={"a": torch.ones(2)}, config={})
    with pytest.raises(ValueError, match="of kind 'STAlign', not 'STImage'"):
        STImage.load(tmp_path / "other")
    save_checkpoint(tmp_path / "empty", kind="STImage", weights={"a": torch.ones(2)}, config={})
    with pytest.raises(ValueError, match="is damaged: its config and weights do not fit"):
        STImage.load(tmp_path / "empty")


def swap_genes(document):
    genes = document["genes"]
    genes[0], genes[1] = genes[1], genes[0]


@pytest.mark.parametrize(
    "change",
    [
        swap_genes,
        lambda document: document["genes"].pop(),
        lambda document: document.update(genes=5),
        lambda document: document.update(genes=[[]]),
        lambda document: document.update(genes=[1, 2]),
        lambda document: document.update(genes={"a": 1}),
        lambda document: document.pop("spec"),
        lambda document: document.update(spec=[1]),
        lambda document: document["spec"].update(unknown=1),
        lambda document: document["autoencoder"].update(dim=64),
        lambda document: document["autoencoder"].update(dim=10**15),
        lambda document: document["autoencoder"].update(dim="wide"),
        lambda document: document["autoencoder"].update(n_heads=0),
        lambda document: document["autoencoder"].update(n_heads=4),
        lambda document: document["autoencoder"].update(n_layers=1),
        lambda document: document["autoencoder"].update(dropout=7),
        lambda document: document.update(optimizer=None),
        lambda document: document.update(seed=float("inf")),
        lambda document: document.update(history=[1]),
        lambda document: document.update(history={"train_loss": "low"}),
        lambda document: document.update(manifest={}),
        lambda document: document.update(manifest={"slides": 1}),
    ],
)
def test_altered_configs(saved, change):
    edit(saved, change)
    with pytest.raises(ValueError, match="is damaged: its config and weights do not fit"):
        STImage.load(saved)


@pytest.mark.parametrize("position", [0.1, 0.5, 0.9])
def test_altered_weights(saved, position):
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="truncated or altered"):
        STImage.load(saved)
