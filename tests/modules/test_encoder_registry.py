"""The table of encoders, encoders of one's own, models of timm from elsewhere, and what checkpoints are called."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stimage.models import STAlign
from stimage.modules import (
    IMAGE_ENCODERS,
    ImageEncoderConfig,
    image_encoders,
    load_image_encoder,
    register_image_encoder,
)
from stimage.modules._image_encoders._resnet import ResNet50


def two_layers():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(3, 6, 4, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.fixture
def mine():
    before = dict(IMAGE_ENCODERS)
    yield ImageEncoderConfig("mine", 6, "two layers", build=two_layers, input_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    IMAGE_ENCODERS.clear()
    IMAGE_ENCODERS.update(before)


class TestTable:
    def test_says_what_the_configurations_say(self):
        table = image_encoders()
        assert isinstance(table, pd.DataFrame) and table.index.tolist() == list(IMAGE_ENCODERS)
        for name, config in IMAGE_ENCODERS.items():
            row = table.loc[name]
            assert (row["width"], row["input_size"], row["mean"]) == (config.width, config.input_size, config.mean)
            assert row["licence"] is config.licence and row["allow_download"] is config.timm_hub

    def test_licences_and_what_they_allow_go_together(self):
        for name, row in image_encoders().iterrows():
            licence, commercial = row["licence"], row["commercial"]
            assert (licence is None) <= (commercial is None), name
            if licence is not None:
                assert commercial is (licence in {"MIT", "Apache-2.0"}), name

    def test_wanted_encoders_are_there(self):
        wanted = "uni conch prov-gigapath virchow phikon phikon-v2 midnight kaiko-vitb8 lunit-vits8 ctranspath plip"
        assert set(wanted.split() + ["clip-vit-b-32", "quiltnet-b-32", "biomedclip"]) <= set(image_encoders().index)

    @pytest.mark.parametrize(
        ("name", "mean", "std"),
        [
            ("midnight", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            ("kaiko-vitl14", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
            ("lunit-vits16", (0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464)),
            ("phikon", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ("plip", (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ],
    )
    def test_normalisation(self, name, mean, std):
        assert tuple(image_encoders().loc[name, ["mean", "std"]]) == (mean, std)


class TestRegister:
    def test_can_be_loaded_and_used_by_name(self, mine):
        register_image_encoder(mine)
        encoder = load_image_encoder("mine").eval()
        pixels = torch.randint(256, (2, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            expected = two_layers()(((pixels.float() / 255 - 0.5) / 0.5).movedim(-1, 1))
            torch.testing.assert_close(encoder(pixels), expected)
        assert image_encoders().loc["mine", "width"] == 6

    def test_weights_of_a_file(self, mine, tmp_path):
        network = two_layers()
        with torch.no_grad():
            network[0].weight.fill_(0.25)
        torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "last.ckpt")
        register_image_encoder(mine)
        encoder = load_image_encoder("mine", weights=tmp_path / "last.ckpt")
        assert (encoder.backbone[0].weight == 0.25).all()

    def test_a_published_file_is_asked_for(self, mine):
        from dataclasses import replace

        register_image_encoder(replace(mine, weights="mine.pth"))
        with pytest.raises(ValueError, match="comes without weights: pass `weights=` with the path of mine.pth"):
            load_image_encoder("mine")

    def test_aligns(self, mine, tmp_path):
        from stained import QUIET, TINY, apart, stained_tissue

        register_image_encoder(mine)
        (adata,) = apart(stained_tissue())
        options = {"n_pool_genes": 30, "config": TINY, "cache_dir": tmp_path}
        model = STAlign(adata, image_encoder="mine", **options)
        model.train(max_epochs=1, **QUIET)
        vectors = model.get_latent_representation(modality="image")
        model.save(tmp_path / "model")
        again = STAlign.load(tmp_path / "model", adata, cache_dir=tmp_path)
        np.testing.assert_allclose(again.get_latent_representation(modality="image"), vectors, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"name": "uni"}, "'uni' is taken"),
            ({"name": "timm:mine"}, "models of timm"),
            ({"width": 0}, "`config.width` must be at least 1"),
            ({"layout": "other"}, "`config.layout` must be one of"),
            ({"std": (0.5, 0.5, 0.0)}, "above 0"),
            ({"mean": (0.5, 0.5)}, "three numbers"),
        ],
    )
    def test_refused(self, mine, changes, message):
        from dataclasses import replace

        with pytest.raises(ValueError, match=message):
            register_image_encoder(replace(mine, **changes))
        assert "mine" not in IMAGE_ENCODERS

    def test_another_kind(self):
        with pytest.raises(TypeError, match="ImageEncoderConfig, found str"):
            register_image_encoder("uni")


def test_facts_about_weights_are_no_part_of_what_features_are_kept_under():
    from dataclasses import replace

    config = IMAGE_ENCODERS["uni"]
    same = replace(config, licence=None, commercial=None, gated=None, hub="", weights="", microns_per_pixel=1.0)
    assert repr(same) == repr(config)
    assert repr(replace(config, mean=(0.0, 0.0, 0.0))) != repr(config)


class TestFromElsewhere:
    @pytest.fixture
    def folder(self, tmp_path):
        """A model as it is published on the hub: its configuration beside its weights."""
        timm = pytest.importorskip("timm")
        torch.manual_seed(0)
        network = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=64, depth=2)
        published = {"mean": [0.7, 0.6, 0.5], "std": [0.2, 0.3, 0.4], "input_size": [3, 64, 64], "crop_pct": 1.0}
        published |= {"num_classes": 3, "classifier": "head", "license": "apache-2.0"}
        document = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": published, "num_classes": 3}
        document["model_args"] = {"img_size": 64, "depth": 2}
        (tmp_path / "config.json").write_text(json.dumps(document))
        save_file(network.state_dict(), tmp_path / "model.safetensors")
        return tmp_path, network.eval()

    def test_a_folder(self, folder):
        path, network = folder
        encoder = load_image_encoder(f"timm:local-dir:{path}", weights=path / "model.safetensors").eval()
        assert (encoder.config.mean, encoder.config.std) == ((0.7, 0.6, 0.5), (0.2, 0.3, 0.4))
        assert (encoder.config.input_size, encoder.config.width, encoder.config.licence) == (64, 192, "apache-2.0")
        pixels = torch.randint(256, (2, 64, 64, 3), dtype=torch.uint8)
        with torch.no_grad():
            expected = network.forward_head(network.forward_features(encoder.preprocess(pixels)), pre_logits=True)
            torch.testing.assert_close(encoder(pixels), expected, rtol=1e-4, atol=1e-4)

    def test_the_hub_is_asked_only_when_that_is_wanted(self):
        pytest.importorskip("timm")
        with pytest.raises(ValueError, match="on the Hugging Face hub: pass `allow_download=True`.*local-dir"):
            load_image_encoder("timm:hf-hub:MahmoodLab/UNI")

    def test_a_folder_without_configuration(self, tmp_path):
        pytest.importorskip("timm")
        with pytest.raises(ValueError, match=r"no config.json of a model of timm"):
            load_image_encoder(f"timm:local-dir:{tmp_path}", weights=tmp_path / "model.safetensors")


class TestCheckpoints:
    @pytest.fixture(scope="class")
    def state(self):
        torch.manual_seed(1)
        return ResNet50().state_dict()

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda state: {f"module.{name}": part for name, part in state.items()},
            lambda state: {f"module.backbone.{name}": part for name, part in state.items()},
            lambda state: {"state_dict": {f"model.{name}": part for name, part in state.items()}, "epoch": 3},
            lambda state: {"model": state, "optimizer": {"state": {}, "param_groups": [1]}},
            lambda state: {**{f"backbone.{name}": part for name, part in state.items()}, "head.weight": torch.zeros(2)},
        ],
    )
    @pytest.mark.parametrize("file", ["last.ckpt", "last.pth.tar"])
    def test_the_network_inside_is_found(self, tmp_path, state, wrap, file):
        torch.save(wrap(state), tmp_path / file)
        found = load_image_encoder("resnet50", weights=tmp_path / file).backbone.state_dict()
        assert all(torch.equal(found[name], part) for name, part in state.items())

    def test_teacher_and_student(self, tmp_path, state):
        torch.save({"teacher": state, "student": state}, tmp_path / "last.ckpt")
        with pytest.raises(ValueError, match="several state dicts .'teacher', 'student'.*file of its own"):
            load_image_encoder("resnet50", weights=tmp_path / "last.ckpt")

    def test_a_part_of_the_network_under_a_prefix(self, tmp_path, state):
        part = {f"backbone.{name}": value for name, value in state.items() if name != "conv1.weight"}
        torch.save(part, tmp_path / "last.ckpt")
        with pytest.raises(ValueError, match="1 tensors are missing .'conv1.weight'"):
            load_image_encoder("resnet50", weights=tmp_path / "last.ckpt")

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_values_that_are_no_numbers(self, tmp_path, state, value):
        bad = dict(state)
        bad["layer1.0.conv1.weight"] = bad["layer1.0.conv1.weight"].clone()
        bad["layer1.0.conv1.weight"][3, 2] = value
        torch.save(bad, tmp_path / "weights.pth")
        with pytest.raises(ValueError, match="NaN or infinite values in 1 tensors .'layer1.0.conv1.weight'"):
            load_image_encoder("resnet50", weights=tmp_path / "weights.pth")
