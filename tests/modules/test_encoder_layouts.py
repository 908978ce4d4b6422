"""Encoders read from published layouts against the libraries that wrote these layouts; full sizes without memory."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from stimage.modules import IMAGE_ENCODERS, load_image_encoder
from stimage.modules._image_encoders._layouts import old_swin_to_timm, open_clip_to_timm
from stimage.modules._image_encoders._load import _builder


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


@pytest.fixture
def patches():
    coarse = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return (nn.functional.interpolate(coarse, (56, 56), mode="bicubic").clamp(0, 1) * 255).byte().movedim(1, -1)


def randomised(module, seed=0):
    """Random weights everywhere, as layer scales and normalisation that start as nothing would hide what they do."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
            elif tensor.dtype.is_floating_point:
                size = 0.5 if tensor.ndim < 2 or len(tensor) == 1 else tensor[0].numel() ** -0.5
                tensor.normal_(0, size, generator=generator)
    return module.eval()


def shallow(name, **sizes):
    config = IMAGE_ENCODERS[name]
    return dataclasses.replace(config, arguments={**config.arguments, "depth": 2, **sizes})


def same_features(encoder, expected, patches):
    with torch.no_grad():
        found = encoder.eval()(patches)
        reference = expected(encoder.preprocess(patches))
    assert found.shape == reference.shape == (2, encoder.config.width)
    torch.testing.assert_close(found, reference, rtol=1e-3, atol=1e-3)
    # The two patches differ by much more than the two libraries.
    assert (found[0] - found[1]).abs().max() > 1e-4 + 20 * (found - reference).abs().max()


VIT = sorted(name for name, config in IMAGE_ENCODERS.items() if config.patch_size)


@pytest.mark.parametrize("name", VIT)
def test_full_size_has_the_documented_patches_and_width(timm, name):
    config = IMAGE_ENCODERS[name]
    with torch.device("meta"):
        network = _builder(config, pretrained=False)()
    trunk = network.visual["trunk"] if name == "conch" else network
    assert trunk.patch_embed.patch_size == (config.patch_size, config.patch_size)
    width = 512 if name == "conch" else trunk.num_classes or trunk.num_features
    assert config.width == width * (2 if config.pooling == "class+patches" else 1)


def test_phikon(timm, tmp_path, patches):
    transformers = pytest.importorskip("transformers")
    network = randomised(transformers.ViTModel(transformers.ViTConfig(num_hidden_layers=2)))
    network.save_pretrained(tmp_path)
    encoder = load_image_encoder(shallow("phikon"), weights=tmp_path / "model.safetensors")
    same_features(encoder, lambda images: network(images).last_hidden_state[:, 0], patches)


@pytest.mark.parametrize("side", [224, 112])
def test_phikon_v2(timm, tmp_path, patches, side):
    """Positions are for as many patches as the file has, and stretched to those of the image."""
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(
        hidden_size=1024, num_hidden_layers=2, num_attention_heads=16, image_size=side, patch_size=16
    )
    network = randomised(transformers.Dinov2Model(config))
    network.save_pretrained(tmp_path)
    encoder = load_image_encoder(shallow("phikon-v2"), weights=tmp_path / "model.safetensors")
    assert encoder.backbone.pos_embed.shape[1] == (side // 16) ** 2
    if side == 224:
        same_features(encoder, lambda images: network(images).last_hidden_state[:, 0], patches)
    else:
        with torch.no_grad():
            expected = network(encoder.preprocess(patches)).last_hidden_state[:, 0]
            similarity = nn.functional.cosine_similarity(encoder.eval()(patches), expected)
        assert similarity.min() > 0.99


def test_midnight(timm, tmp_path, patches):
    transformers = pytest.importorskip("transformers")
    config = transformers.Dinov2Config(
        hidden_size=1536,
        num_hidden_layers=1,
        num_attention_heads=24,
        image_size=224,
        patch_size=14,
        use_swiglu_ffn=True,
    )
    network = randomised(transformers.Dinov2Model(config))
    network.save_pretrained(tmp_path)
    encoder = load_image_encoder(shallow("midnight", depth=1), weights=tmp_path / "model.safetensors")

    def expected(images):
        tokens = network(images).last_hidden_state
        return torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)

    same_features(encoder, expected, patches)


@pytest.mark.parametrize("name", ["clip-vit-b-32", "plip"])
def test_clip(timm, tmp_path, patches, name):
    transformers = pytest.importorskip("transformers")
    vision = {"num_hidden_layers": 2, "hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
    config = transformers.CLIPConfig(vision_config={**vision, "patch_size": 32}, projection_dim=512)
    network = randomised(transformers.CLIPModel(config))
    network.save_pretrained(tmp_path)
    encoder = load_image_encoder(shallow(name), weights=tmp_path / "model.safetensors")
    reference = transformers.CLIPVisionModelWithProjection.from_pretrained(tmp_path)
    same_features(encoder, lambda images: reference(images).image_embeds, patches)


def open_clip_settings(**vision):
    text = {"context_length": 8, "vocab_size": 50, "width": 64, "heads": 2, "layers": 1}
    return {"embed_dim": 512, "vision_cfg": {"image_size": 224, **vision}, "text_cfg": text}


def saved_open_clip(tmp_path, settings, preprocessing):
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    kind = open_clip.CLIP if "layers" in settings["vision_cfg"] else open_clip.CustomTextCLIP
    network = kind(**settings)
    randomised(network.visual)
    torch.save(network.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    document = {"model_cfg": settings, "preprocess_cfg": preprocessing}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(document))
    return network


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("name", "patch_size"), [("quiltnet-b-32", 32), ("quiltnet-b-16", 16)])
def test_quiltnet(timm, tmp_path, patches, name, patch_size, fast):
    settings = {**open_clip_settings(layers=2, width=768, patch_size=patch_size), "quick_gelu": fast}
    network = saved_open_clip(tmp_path, settings, {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]})
    encoder = load_image_encoder(name, weights=tmp_path / "open_clip_pytorch_model.bin")
    assert (encoder.config.mean, encoder.config.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    same_features(encoder, network.visual, patches)


def test_biomedclip(timm, tmp_path, patches):
    settings = open_clip_settings(timm_model_name="vit_base_patch16_224", timm_pool="", timm_proj="linear")
    network = saved_open_clip(tmp_path, settings, {})
    encoder = load_image_encoder("biomedclip", weights=tmp_path / "open_clip_pytorch_model.bin")
    same_features(encoder, network.visual, patches)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, FileNotFoundError, "open_clip_config.json that is published with its weights"),
        ("{", ValueError, "not a configuration of open_clip"),
        ('{"model_cfg": {"embed_dim": 512}}', ValueError, "KeyError: 'vision_cfg'"),
        (json.dumps({"model_cfg": open_clip_settings(layers=2, width=768, patch_size=16, pool_type="avg")}), ValueError, "pool_type"),
    ],
)  # fmt: skip
def test_settings_of_open_clip_are_needed(timm, tmp_path, content, error, message):
    torch.save({"visual.proj": torch.zeros(768, 512)}, tmp_path / "open_clip_pytorch_model.bin")
    if content is not None:
        (tmp_path / "open_clip_config.json").write_text(content)
    with pytest.raises(error, match=message):
        load_image_encoder("quiltnet-b-16", weights=tmp_path / "open_clip_pytorch_model.bin")


def test_names_of_open_clip_as_timm_converts_them(timm):
    shapes = {"class_embedding": (8,), "positional_embedding": (5, 8), "conv1.weight": (8, 3, 2, 2), "proj": (8, 4)}
    shapes |= {f"ln_{part}.{kind}": (8,) for part in ("pre", "post") for kind in ("weight", "bias")}
    block = "transformer.resblocks.0"
    shapes |= {f"{block}.attn.in_proj_weight": (24, 8), f"{block}.attn.in_proj_bias": (24,)}
    shapes |= {f"{block}.attn.out_proj.weight": (8, 8), f"{block}.ln_1.weight": (8,), f"{block}.ln_2.bias": (8,)}
    shapes |= {f"{block}.mlp.c_fc.weight": (16, 8), f"{block}.mlp.c_proj.bias": (8,)}
    state = {f"visual.{name}": torch.rand(shape) for name, shape in shapes.items()}
    expected = timm.models.vision_transformer._convert_openai_clip(dict(state), None)
    found = open_clip_to_timm(state)
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_ctranspath(timm, tmp_path, patches):
    """Against the version of timm that its authors changed."""
    helpers = pytest.importorskip("timm_ctp.models.layers.helpers")
    timm_ctp = pytest.importorskip("timm_ctp")

    class Stem(nn.Module):
        def __init__(self, img_size=224, patch_size=4, in_chans=3, embed_dim=96, norm_layer=None, flatten=True):
            super().__init__()
            self.patch_size = helpers.to_2tuple(patch_size)
            self.grid_size = tuple(side // patch_size for side in helpers.to_2tuple(img_size))
            self.num_patches = self.grid_size[0] * self.grid_size[1]
            sizes = ((in_chans, embed_dim // 8), (embed_dim // 8, embed_dim // 4))
            layers = []
            for n_in, n_out in sizes:
                layers += [nn.Conv2d(n_in, n_out, 3, 2, 1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)]
            self.proj = nn.Sequential(*layers, nn.Conv2d(embed_dim // 4, embed_dim, 1))
            self.norm = norm_layer(embed_dim) if norm_layer else nn.Identity()

        def forward(self, images):
            return self.norm(self.proj(images).flatten(2).transpose(1, 2))

    network = timm_ctp.create_model("swin_tiny_patch4_window7_224", embed_layer=Stem, pretrained=False)
    network.head = nn.Identity()
    kept = {
        name: part.clone()
        for name, part in network.state_dict().items()
        if "relative_position" in name or "mask" in name
    }
    randomised(network).load_state_dict(kept, strict=False)  # masks and indices are no weights
    torch.save({"model": network.state_dict()}, tmp_path / "ctranspath.pth")
    encoder = load_image_encoder("ctranspath", weights=tmp_path / "ctranspath.pth")
    same_features(encoder, network, patches)


def test_names_of_old_swin_transformers_as_timm_converts_them(timm):
    with torch.device("meta"):
        network = _builder(IMAGE_ENCODERS["ctranspath"], pretrained=False)()
    own = network.state_dict()
    old = {}
    for name, tensor in own.items():
        stage = int(name.split(".")[1]) if "downsample" in name else 0
        old[name.replace(f"layers.{stage}.downsample", f"layers.{stage - 1}.downsample")] = tensor
    old["layers.0.blocks.1.attn_mask"] = old["layers.0.blocks.1.attn.relative_position_index"] = torch.zeros(1)
    assert set(old_swin_to_timm(old)) == set(own)
    assert set(timm.models.swin_transformer.checkpoint_filter_fn(dict(old), network)) == set(own)
