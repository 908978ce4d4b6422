import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from checkpoints import edit_config
from helpers import assert_unchanged
from safetensors.torch import load_file
from stained import TINY, aligner_of, tiny_encoder

from stimage.models import PatchSpec, STAlign, STImage
from stimage.models.alignment._image_features import encoder_id
from stimage.modules import ScGPTEncoder
from stimage.train import save_checkpoint

MODALITIES = ["image", "gene", "fused"]


@pytest.fixture
def saved(aligner, tmp_path):
    aligner.save(tmp_path / "model")
    return tmp_path / "model"


def load(folder, data=None, **encoders):
    return STAlign.load(folder, data, **{"image_encoder": tiny_encoder(), **encoders})


def round_trip(model, folder, *data, **encoders):
    model.save(folder)
    return load(folder, *data, **encoders)


def assert_same(loaded, model, adata):
    """To the last digit."""
    assert loaded.model_id == model.model_id
    for modality in MODALITIES if model.image_encoder is not None else ["gene"]:
        expected = model.get_latent_representation(modality=modality)
        np.testing.assert_array_equal(loaded.get_latent_representation(adata, modality=modality), expected)
    if model.image_encoder is not None:
        np.testing.assert_array_equal(loaded.predict_expression(adata), model.predict_expression(adata))


def test_round_trip(aligner, saved, stained):
    with assert_unchanged(stained):
        loaded = load(saved)
        assert_same(loaded, aligner, stained)
    assert repr(loaded) == repr(aligner)
    assert loaded.genes.tolist() == aligner.genes.tolist()
    for name in ("config", "optimizer", "patches", "seed", "is_trained", "n_tokens_seen", "niches", "niche_key"):
        assert getattr(loaded, name) == getattr(aligner, name)
    assert sorted(loaded.history) == sorted(aligner.history)
    for name, history in aligner.history.items():
        np.testing.assert_array_equal(loaded.history[name], history)
    assert loaded.provenance(stained) == aligner.provenance(stained)
    assert loaded.manifest_record() == aligner.manifest_record()
    assert not loaded.module.training


def test_with_slides(aligner, saved, stained):
    loaded = load(saved, stained)
    for modality in MODALITIES:
        expected = aligner.get_latent_representation(modality=modality)
        np.testing.assert_array_equal(loaded.get_latent_representation(modality=modality), expected)
    expected = aligner.predict_expression(stained, method="retrieval")
    np.testing.assert_array_equal(loaded.predict_expression(stained, method="retrieval"), expected)
    loaded.train(max_epochs=1, batch_size=32, accelerator="cpu", enable_progress_bar=False)
    assert loaded.model_id != aligner.model_id
    assert loaded.n_tokens_seen == 1.5 * aligner.n_tokens_seen


def test_without_slides(saved, stained):
    model = load(saved)
    with pytest.raises(ValueError, match="loaded without slides: pass `data`"):
        model.get_latent_representation()
    with pytest.raises(ValueError, match="loaded without slides"):
        model.train(max_epochs=1)
    with pytest.raises(ValueError, match="loaded without any: pass `data` to `STAlign.load`, or `method='regression'`"):
        model.predict_expression(stained, method="retrieval")


def test_saving_a_loaded_model_gives_the_same_files(saved, tmp_path):
    load(saved).save(tmp_path / "again")
    for path in saved.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_encoders_are_named_and_not_copied(saved):
    names = load_file(saved / "model.safetensors")
    assert {name.partition(".")[0] for name in names} == {"module", "basis", "head"}
    assert not [name for name in names if "backbone" in name]
    assert json.loads((saved / "config.json").read_text())["image_encoders"] == ["tiny", "tiny"]


def test_overwriting(aligner, saved):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(FileExistsError, match="holds a model already: pass `overwrite=True`"):
        aligner.save(saved)
    aligner.save(saved, overwrite=True)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_an_untrained_model(stained, tmp_path):
    model = STAlign(stained, image_encoder=tiny_encoder(), n_pool_genes=40, config=TINY, seed=3)
    loaded = round_trip(model, tmp_path)
    assert loaded.model_id == model.model_id
    assert not loaded.is_trained
    assert loaded.history == {}
    with pytest.raises(ValueError, match="not trained"):
        loaded.predict_expression(stained)


def test_a_linear_model(stained, tmp_path):
    """With fewer tensors than blocks that it does not have."""
    config = replace(TINY, adaptive=False, fusion=False, n_layers=200)
    model = aligner_of(stained, config=config, niches=0, spot_context=1)
    assert_same(round_trip(model, tmp_path), model, stained)


@pytest.mark.parametrize(
    "options", [{"niches": False}, {"spot_context": True}, {"image_encoder": None}, {"niche_key": "ring"}]
)
def test_other_parts(stained, tmp_path, options):
    if "niche_key" in options:
        stained.obsp["ring_connectivities"] = stained.obsp["niche_connectivities"]
        stained.obsm["ring_bbox"] = stained.obsm["niche_bbox"]
    model = aligner_of(stained, **options)
    assert_same(round_trip(model, tmp_path), model, stained)


class TestEncoders:
    def test_an_encoder_without_a_name_must_be_given(self, saved):
        with pytest.raises(ValueError, match="trained with the image encoder 'tiny': pass `image_encoder="):
            STAlign.load(saved)
        with pytest.raises(ValueError, match="`image_encoder` has other weights than the 'tiny'"):
            load(saved, image_encoder=tiny_encoder(seed=1))
        with pytest.raises(ValueError, match="`niche_image_encoder` has other weights than the 'tiny'"):
            load(saved, niche_image_encoder=tiny_encoder(seed=1))
        with pytest.raises(TypeError, match="`image_encoder` must be a stimage.modules.ImageEncoder, found str"):
            load(saved, image_encoder="tiny")

    def test_two_encoders(self, stained, tmp_path):
        niche = tiny_encoder(width=8, seed=1)
        model = aligner_of(stained, niche_image_encoder=niche)
        assert_same(round_trip(model, tmp_path, niche_image_encoder=niche), model, stained)
        with pytest.raises(ValueError, match="`niche_image_encoder` has other weights"):
            load(tmp_path)

    @pytest.mark.parametrize("niches", [True, False])
    def test_a_trained_encoder(self, stained, tmp_path, niches):
        """Its weights are in the checkpoint; niches are seen by the encoder that it was before."""
        model = aligner_of(stained, train_image_encoder=True, niches=niches)
        given = tiny_encoder()
        loaded = round_trip(model, tmp_path, image_encoder=given)
        assert_same(loaded, model, stained)
        for name, tensor in tiny_encoder().state_dict().items():
            assert torch.equal(given.state_dict()[name], tensor)
            assert not torch.equal(loaded.image_encoder.state_dict()[name], tensor)
        if niches:
            other = tiny_encoder(seed=1)
            with pytest.raises(ValueError, match="`niche_image_encoder` has other weights"):
                load(tmp_path, image_encoder=other)
            assert_same(load(tmp_path, image_encoder=other, niche_image_encoder=given), model, stained)

    def test_a_random_start_by_name(self, stained, tmp_path):
        """The weights that ResNet-50 started from, which see the niches, follow from the seed."""
        some = stained[:3].copy()
        options = {"image_encoder": "resnet50", "train_image_encoder": True, "patches": PatchSpec((1.0,), (1.0,))}
        model = STAlign(some, **options, n_pool_genes=40, config=TINY, seed=5)
        model.save(tmp_path)
        loaded = STAlign.load(tmp_path)
        assert loaded.model_id == model.model_id
        assert encoder_id(loaded.niche_image_encoder) == encoder_id(model.niche_image_encoder)

    def test_stimage(self, stained, tmp_path):
        def encoder(seed):
            return STImage(stained, window=6, n_pool_genes=40, n_genes=20, seed=seed)

        model = aligner_of(stained, gene_encoder=encoder(0))
        assert_same(round_trip(model, tmp_path / "model"), model, stained)
        encoder(1).save(tmp_path / "model" / "gene_encoder", overwrite=True)
        with pytest.raises(ValueError, match="`gene_encoder` has other weights than the STImage"):
            load(tmp_path / "model")
        shutil.rmtree(tmp_path / "model" / "gene_encoder")
        with pytest.raises(FileNotFoundError, match="gene_encoder"):
            load(tmp_path / "model")

    def test_scgpt(self, stained, tmp_path):
        def encoder(seed):
            torch.manual_seed(seed)
            vocabulary = {name: i for i, name in enumerate([*stained.var_names, "<pad>", "<cls>", "<eoc>"])}
            return ScGPTEncoder(vocabulary, dim=8, n_heads=2, dim_feedforward=8, n_layers=1).eval()

        model = aligner_of(stained, gene_encoder=encoder(0))
        assert_same(round_trip(model, tmp_path, gene_encoder=encoder(0)), model, stained)
        with pytest.raises(ValueError, match="frozen ScGPTEncoder: pass it as `gene_encoder`"):
            load(tmp_path)
        with pytest.raises(ValueError, match="pass it as `gene_encoder`, found str"):
            load(tmp_path, gene_encoder="scgpt")
        with pytest.raises(ValueError, match="`gene_encoder` has other weights than the ScGPTEncoder"):
            load(tmp_path, gene_encoder=encoder(1))


def test_other_kinds(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="No checkpoint in"):
        STAlign.load(tmp_path / "nowhere")
    with pytest.raises(TypeError, match="`directory` must be a path"):
        STAlign.load(None)
    with pytest.raises(ValueError, match="of kind 'STAlign', not 'STImage'"):
        STImage.load(saved)
    save_checkpoint(tmp_path / "empty", kind="STAlign", weights={"a": torch.ones(2)}, config={})
    with pytest.raises(ValueError, match="is damaged: its config and weights do not fit"):
        STAlign.load(tmp_path / "empty")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_truncated_files(saved, name, share):
    content = (saved / name).read_bytes()
    (saved / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match="truncated or altered|config.json is not JSON"):
        load(saved)


@pytest.mark.parametrize("position", [0.01, 0.5, 0.99])
def test_altered_weights(saved, position):
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[int(position * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="truncated or altered"):
        load(saved)


def swap_genes(document):
    genes = document["genes"]
    genes[0], genes[1] = genes[1], genes[0]


@pytest.mark.parametrize(
    "change",
    [
        swap_genes,
        lambda document: document["genes"].pop(),
        lambda document: document.update(genes=5),
        lambda document: document.update(genes=[1, 2]),
        lambda document: document.update(ensembl_ids=[1]),
        lambda document: document.pop("config"),
        lambda document: document.update(config=[1]),
        lambda document: document["config"].update(unknown=1),
        lambda document: document["config"].update(weights="abc"),
        lambda document: document["config"].update(weights=[1, 2]),
        lambda document: document["config"].update(dim=32),
        lambda document: document["config"].update(dim=10**15),
        lambda document: document["config"].update(dim=-1),
        lambda document: document["config"].update(dim="wide"),
        lambda document: document["config"].update(n_heads=0),
        lambda document: document["config"].update(n_heads=3),
        lambda document: document["config"].update(n_layers=2),
        lambda document: document["config"].update(n_tokens=3),
        lambda document: document["config"].update(n_fused=17),
        lambda document: document["config"].update(fusion=False),
        lambda document: document["config"].update(adaptive=False),
        lambda document: document["config"].update(spot_genes="embedding"),
        lambda document: document["config"].update(dropout=7),
        lambda document: document["config"].update(temperature="warm"),
        lambda document: document.update(optimizer=None),
        lambda document: document["optimizer"].update(weight_decay=1),
        lambda document: document.update(patches={"spot_widths": []}),
        lambda document: document.update(patches={"spot_widths": [-1.0]}),
        lambda document: document.update(patches=[[1]]),
        lambda document: document.pop("patch_scale"),
        lambda document: document["patch_scale"].update(spot_distance=-100.0),
        lambda document: document["patch_scale"].update(spot_distance=float("nan")),
        lambda document: document["patch_scale"].update(spot_distance="wide"),
        lambda document: document["patch_scale"].update(niche_width=None),
        lambda document: document["patch_scale"].update(niche_width=0),
        lambda document: document.update(spectral_start="yes"),
        lambda document: document.update(n_spot_genes=7),
        lambda document: document.update(n_spot_genes=None),
        lambda document: document.update(niches=False),
        lambda document: document.update(spot_context=True),
        lambda document: document.update(train_image_encoder=True),
        lambda document: document.update(seed=float("inf")),
        lambda document: document.update(history=[1]),
        lambda document: document.update(history={"train_loss": "low"}),
        lambda document: document.update(manifest={}),
        lambda document: document.update(manifest={"slides": 1}),
        lambda document: document.update(image_encoders=5),
        lambda document: document.update(image_encoders=["tiny"]),
        lambda document: document.update(image_encoders=["tiny"] * 3, image_encoder_ids=[""] * 3),
        lambda document: document.update(image_encoders=[None, None], image_encoder_ids=[None, None]),
        lambda document: document.pop("image_encoder_ids"),
        lambda document: document.pop("gene_encoder_id"),
    ],
)
def test_altered_configs(saved, change):
    edit_config(saved, change)
    with pytest.raises(ValueError, match="is damaged: its config and weights do not fit"):
        load(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"image_encoders": [["tiny"], {}]},
        {"image_encoders": ["../../weights", "tiny"]},
        {"image_encoder_ids": [1, None]},
        {"image_encoders": ["tiny", "uni"]},
        {"gene_encoder": "Unheard"},
        {"gene_encoder": 5},
    ],
)
def test_encoders_that_are_not_there(saved, change):
    edit_config(saved, lambda document: document.update(change))
    with pytest.raises(ValueError, match="encoder"):
        load(saved)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("head.weights", torch.zeros(32, 39)),
        ("head.weights", torch.zeros(16, 40)),
        ("head.mean", torch.zeros(16)),
        ("head.intercept", torch.zeros(())),
        ("head.penalty", torch.zeros(0)),
        ("head.penalty", None),
        ("head.slope", None),
        ("basis.spot_image", torch.zeros(60)),
        ("basis.spot_image", torch.zeros(60, 3)),
        ("basis.niche_image", None),
        ("module.niche.heads.gene.weight", torch.zeros(3)),
        ("module.niche.heads.gene.weight", None),
        ("module.unknown", torch.zeros(3)),
    ],
)
def test_weights_of_others(saved, name, value):
    """A checkpoint whose checksum is right, with tensors that do not fit."""
    weights, config = load_file(saved / "model.safetensors"), json.loads((saved / "config.json").read_text())
    weights.pop(name, None)
    if value is not None:
        weights[name] = value
    shutil.rmtree(saved)
    config = {key: value for key, value in config.items() if key not in ("kind", "format_version", "weights_sha256")}
    save_checkpoint(saved, kind="STAlign", weights=weights, config=config)
    with pytest.raises(ValueError, match="is damaged: its config and weights do not fit"):
        load(saved)
