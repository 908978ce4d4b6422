import json

import numpy as np
import pytest
import torch
from checkpoints import edit_config, edit_weights
from helpers import assert_unchanged

from stimage.models import STImage
from stimage.models.embedding._readout import Readout
from stimage.train import save_checkpoint


@pytest.fixture
def saved(trained, tmp_path):
    trained.save(tmp_path / "model")
    return tmp_path / "model"


def test_round_trip(trained, saved, tissue):
    with assert_unchanged(tissue):
        loaded = STImage.load(saved, tissue)
    for mode in ("visible", "context"):
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
    edit_config(saved, change)
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


def rewrite(saved, change):
    document = json.loads((saved / "config.json").read_text())
    change(document)
    (saved / "config.json").write_text(json.dumps(document))


def test_any_altered_value_is_noticed(saved):
    """A value that could be one of another model is not what the checksum was taken of."""
    rewrite(saved, lambda document: document.update(target_sum=10_000.0))
    with pytest.raises(ValueError, match="config.json was altered: its checksum does not match"):
        STImage.load(saved)


def test_another_layout_of_the_same_json(trained, saved, tissue):
    text = (saved / "config.json").read_text()
    (saved / "config.json").write_text(json.dumps(dict(reversed(json.loads(text).items())), indent=None))
    assert (saved / "config.json").read_text() != text
    loaded, expected = STImage.load(saved), trained.get_latent_representation(mode="context")
    np.testing.assert_array_equal(loaded.get_latent_representation(tissue, mode="context"), expected)


def test_a_checkpoint_without_checksum_is_refused(saved):
    rewrite(saved, lambda document: document.pop("config_sha256"))
    with pytest.raises(ValueError, match="config.json was altered: its checksum does not match"):
        STImage.load(saved)


@pytest.mark.parametrize("error", [AttributeError, KeyError, RuntimeError, TypeError, ValueError])
def test_a_fault_of_ours_is_not_called_damage(saved, monkeypatch, error):
    def broken(*_):
        raise error("a fault")

    monkeypatch.setattr(Readout, "from_tensors", broken)
    with pytest.raises(error, match="a fault") as caught:
        STImage.load(saved)
    assert "damaged" not in str(caught.value)


def test_weights_that_do_not_fit_into_half_precision(trained, tmp_path):
    trained.save(tmp_path / "model")
    edit_weights(tmp_path / "model", lambda weights: weights["module.norm.weight"].fill_(1e5))
    with pytest.raises(ValueError, match="`half_precision` holds numbers up to 65504"):
        STImage.load(tmp_path / "model").save(tmp_path / "half", half_precision=True)
    assert not (tmp_path / "half").exists()


def test_loading_leaves_random_numbers_alone(saved):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    STImage.load(saved)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("part", "name", "value", "reason"),
    [
        ("autoencoder", "n_layers", 10**9, "asks for 1000000000 transformer blocks"),
        ("autoencoder", "decoder_layers", 10**9, "asks for 1000000004 transformer blocks"),
        ("autoencoder", "decoder_layers", -1, r"`autoencoder.decoder_layers` is -1, not a whole number"),
        ("autoencoder", "dim_feedforward", 2**30, "asks for layers 1073741824 wide"),
        ("autoencoder", "dim", 2**40, "`autoencoder.dim` is 1099511627776, not"),
        ("autoencoder", "dim", 128.0, "`autoencoder.dim` is 128.0, not"),
        ("autoencoder", "dropout", None, "`autoencoder.dropout` is None, not a number"),
        ("spec", "window", 10**6, "`window` must be at most 4096"),
        ("spec", "window", "8", "`spec.window` is '8', not"),
        ("spec", "window", True, "`spec.window` is True, not"),
        ("spec", "mask_ratio", 2, "`mask_ratio` must be between 0 and 1"),
        ("spec", "mask_ratio", float("nan"), "`spec.mask_ratio` is nan, not a number"),
        ("spec", "masking", "x" * 10**6, "`spec.masking` is 'xxx.* not a text of at most"),
        ("spec", "masking", "stripes", "`masking` must be one of .* found 'stripes'"),
        ("spec", "n_genes", 0, "`n_genes` must be at least 1"),
        ("spec", "\ud800" * 10**5, 1, "`spec` has an entry"),
        ("unit", "n_neighbors", [], "`unit.n_neighbors` is a list, not"),
        ("optimizer", "weight_decay", float("inf"), "`optimizer.weight_decay` is inf, not"),
        ("manifest", "adapted_epochs", {}, "`manifest.adapted_epochs` is a dict, not"),
        ("manifest", "slides", [{"name": "a"}], "'n_sites' is missing"),
        ("manifest", "slides", [], "`manifest.slides` is empty"),
        ("manifest", "slides", ["a"], ""),
        ("manifest", "slides", {"name": "a"}, "`manifest.slides` is a dict"),
        ("history", "train_loss", ["low"], "losses 'train_loss' that are not numbers"),
        (None, "target_sum", 0, "`target_sum` must be between 0 and inf"),
        (None, "target_sum", float("nan"), "`target_sum` is nan, not a number"),
        (None, "seed", -1, "`seed` must be at least 0"),
        (None, "seed", 1.5, "`seed` must be an integer"),
        (None, "is_trained", "yes", "`is_trained` is 'yes', not true or false"),
        (None, "n_tokens_seen", -5, "`n_tokens_seen` must be at least 0"),
        (None, "ensembl_ids", None, "`ensembl_ids` is None"),
    ],
)
def test_reasons(saved, part, name, value, reason):
    """What is wrong is said, in a line."""
    edit_config(saved, lambda document: (document[part] if part else document).update({name: value}))
    with pytest.raises(ValueError, match=f"is damaged: its config and weights do not fit \\(.*{reason}") as caught:
        STImage.load(saved)
    assert len(str(caught.value)) < 1000
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("module.norm.weight", lambda tensor: tensor[None], r"shape \(1, 128\) instead of \(128,\)"),
        ("module.norm.weight", lambda tensor: tensor.double(), "type float64 instead of float32"),
        ("module.norm.weight", lambda tensor: tensor.long(), "type int64"),
        ("module.norm.weight", lambda tensor: tensor * float("nan"), "NaN or infinite values"),
        ("module.other", lambda _: torch.ones(2), "0 tensors are missing .* 1 are unexpected"),
        ("other", lambda _: torch.ones(2), "tensors that no part of the model has"),
        ("readout.scales", lambda tensor: -tensor, "a scale of the readout is not above 0"),
        ("readout.scales", lambda tensor: torch.cat([tensor, tensor]), r"shape \(4,\) instead of \(2,\)"),
        ("readout.axes", lambda tensor: tensor[:5], r"shape \(5, 30\) instead of \(60, 30\)"),
        ("readout.codes.vectors.mean", lambda tensor: tensor[:1], r"shape \(1,\) instead of \(30,\)"),
        ("readout.codes.codes.mean", lambda tensor: tensor.half().bfloat16(), "type bfloat16"),
        ("readout.codes.6.0.means", lambda tensor: tensor[:0], "tensors of the niche codes are empty"),
        ("readout.codes.codes.axes", lambda tensor: tensor.T, "shape"),
    ],
)
def test_tensors_of_others(saved, name, change, reason):
    edit_weights(saved, lambda weights: weights.update({name: change(weights.get(name))}))
    with pytest.raises(ValueError, match=f"is damaged: its config and weights do not fit \\(.*{reason}"):
        STImage.load(saved)


def test_a_config_that_fills_the_memory(saved):
    with (saved / "config.json").open("r+b") as file:
        file.truncate(1 << 40)  # a file with a hole, which takes no room
    with pytest.raises(ValueError, match="config.json has 1099511627776 bytes"):
        STImage.load(saved)


def test_numbers_of_numpy(tissue, tmp_path):
    model = STImage(tissue, window=np.int64(8), n_pool_genes=np.int32(60), mask_ratio=np.float32(0.5), seed=np.int64(3))
    model.save(tmp_path)
    loaded = STImage.load(tmp_path)
    assert (loaded.spec, loaded.seed, loaded.model_id) == (model.spec, 3, model.model_id)
