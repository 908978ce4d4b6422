"""Published image encoders: what each file holds and how its patches are prepared."""

from __future__ import annotations

from typing import Any

from stimage.modules._image_encoder_configs import ImageEncoderConfig

_CLIP = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_BIOPTIMUS = {"mean": (0.707223, 0.578729, 0.703617), "std": (0.211883, 0.230117, 0.177517)}
_HIBOU = {"mean": (0.7068, 0.5755, 0.722), "std": (0.195, 0.2316, 0.1816)}
_KAIKO = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_LUNIT = {"mean": (0.70322989, 0.53606487, 0.66096631), "std": (0.21716536, 0.26081574, 0.20723464)}
_VIT = {"num_classes": 0, "img_size": 224, "dynamic_img_size": True}
_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
_FREE = {"commercial": True}
_APACHE: dict[str, Any] = {"licence": "Apache-2.0", **_FREE}
_MIT: dict[str, Any] = {"licence": "MIT", **_FREE}
_CC_NC: dict[str, Any] = {"licence": "CC-BY-NC-ND-4.0", "commercial": False}

PUBLISHED = (
    # The weights were converted from TensorFlow's, which were trained on (pixel - 127) / 128. On natural images that fits
    # the running statistics of the first layer; the ImageNet normalisation that the package's readme shows does not.
    ImageEncoderConfig(
        "efficientnet_lite0",
        1280,
        "efficientnet-lite0",
        pooling="map",
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
        weights="efficientnet-lite0-57934424.pth",
        ignored=("_fc.",),
        gated=False,
        **_APACHE,
    ),
    ImageEncoderConfig(
        "resnet50", 2048, "resnet50", weights="a state dict of ResNet-50 with torchvision's names", ignored=("fc.",)
    ),
    ImageEncoderConfig(
        "uni",
        1024,
        "vit_large_patch16_224",
        {**_VIT, "init_values": 1e-5},
        hub="MahmoodLab/UNI",
        timm_hub=True,
        patch_size=16,
        gated=True,
        microns_per_pixel=0.5,
        **_CC_NC,
    ),
    ImageEncoderConfig(
        "uni2-h",
        1536,
        "vit_giant_patch14_224",
        {
            **_VIT,
            **_SWIGLU,
            "depth": 24,
            "num_heads": 24,
            "embed_dim": 1536,
            "init_values": 1e-5,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "reg_tokens": 8,
        },
        hub="MahmoodLab/UNI2-h",
        timm_hub=True,
        gated=True,
        patch_size=14,
        **_CC_NC,
    ),
    ImageEncoderConfig(
        "prov-gigapath",
        1536,
        "vit_giant_patch14_dinov2",
        {**_VIT, "patch_size": 16, "embed_dim": 1536, "depth": 40, "num_heads": 24, "mlp_ratio": 5.33334},
        resize=256,
        hub="prov-gigapath/prov-gigapath",
        timm_hub=True,
        gated=True,
        patch_size=16,
        microns_per_pixel=0.5,
        **_APACHE,
    ),
    *(
        ImageEncoderConfig(
            name.lower(),
            1536,
            "vit_giant_patch14_reg4_dinov2",
            {**_VIT, "global_pool": "token", "init_values": 1e-5},
            **_BIOPTIMUS,
            hub=f"bioptimus/{name}",
            timm_hub=True,
            patch_size=14,
            microns_per_pixel=0.5,
            **terms,
        )
        for name, terms in (("H-optimus-0", _APACHE), ("H-optimus-1", _CC_NC))
    ),
    *(
        ImageEncoderConfig(
            name.lower(),
            2560,
            "vit_huge_patch14_224",
            {**_VIT, **_SWIGLU, "init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "", **extra},
            pooling="class+patches",
            hub=f"paige-ai/{name}",
            timm_hub=True,
            patch_size=14,
            microns_per_pixel=microns_per_pixel,
            **terms,
        )
        for name, extra, microns_per_pixel, terms in (
            ("Virchow", {}, 0.5, {**_APACHE, "gated": True}),
            ("Virchow2", {"reg_tokens": 4}, None, _CC_NC),
        )
    ),
    # 86 million parameters at width 768 leave only the hidden layers of DINOv2's gated feed-forward: 5.33334 x 768.
    ImageEncoderConfig(
        "h0-mini",
        768,
        "vit_base_patch14_reg4_dinov2",
        {**_VIT, **_SWIGLU, "init_values": 1e-5, "mlp_ratio": 5.33334, "global_pool": ""},
        pooling="class",
        **_BIOPTIMUS,
        hub="bioptimus/H0-mini",
        timm_hub=True,
        patch_size=14,
        microns_per_pixel=0.5,
        **_CC_NC,
    ),
    *(
        ImageEncoderConfig(
            f"hibou-{size.lower()}",
            width,
            architecture,
            {**_VIT, **_SWIGLU, "mlp_ratio": hidden / width},
            **_HIBOU,
            hub=f"histai/hibou-{size}",
            layout="dinov2",
            patch_size=14,
            **_APACHE,
        )
        for size, width, architecture, hidden in (
            ("b", 768, "vit_base_patch14_reg4_dinov2", 4096),
            ("L", 1024, "vit_large_patch14_reg4_dinov2", 5472),
        )
    ),
    ImageEncoderConfig(
        "conch",
        512,
        "conch",
        {"num_classes": 0, "img_size": 448, "dynamic_img_size": True},
        input_size=448,
        **_CLIP,
        hub="MahmoodLab/CONCH",
        patch_size=16,
        gated=True,
        ignored=(
            "text.",
            "text_decoder.",
            "logit_scale",
            "visual.proj_contrast",
            "visual.attn_pool_caption.",
            "visual.ln_caption.",
        ),
        **_CC_NC,
    ),
    # iBOT's vision transformer, as the transformers library saves it.
    ImageEncoderConfig(
        "phikon",
        768,
        "vit_base_patch16_224",
        _VIT,
        hub="owkin/phikon",
        layout="vit",
        ignored=("pooler.",),
        patch_size=16,
        microns_per_pixel=0.5,
        licence="Owkin, non-commercial",
        commercial=False,
    ),
    # Its licence is "other" on the hub.
    ImageEncoderConfig(
        "phikon-v2",
        1024,
        "vit_large_patch16_224",
        {**_VIT, "init_values": 1e-5, "no_embed_class": True},
        hub="owkin/phikon-v2",
        layout="dinov2",
        file_grid=True,
        patch_size=16,
    ),
    ImageEncoderConfig(
        "midnight",
        3072,
        "vit_giant_patch14_dinov2",
        {**_VIT, "init_values": 1e-5, "no_embed_class": True, "global_pool": ""},
        pooling="class+patches",
        **_KAIKO,
        hub="kaiko-ai/midnight",
        layout="dinov2",
        file_grid=True,
        patch_size=14,
        **_MIT,
        gated=False,
    ),
    *(
        ImageEncoderConfig(
            f"kaiko-{name}",
            width,
            architecture,
            {**_VIT, **extra},
            **_KAIKO,
            weights=f"{name}.pth of kaiko-ai/towards_large_pathology_fms on GitHub",
            hub=f"1aurent/{architecture}.kaiko_ai_towards_large_pathology_fms",
            timm_hub=True,
            patch_size=patch_size,
            licence="Kaiko Non-Commercial Public License",
            commercial=False,
            gated=False,
        )
        for name, width, architecture, patch_size, extra in (
            ("vits16", 384, "vit_small_patch16_224", 16, {}),
            ("vits8", 384, "vit_small_patch8_224", 8, {}),
            ("vitb16", 768, "vit_base_patch16_224", 16, {}),
            ("vitb8", 768, "vit_base_patch8_224", 8, {}),
            ("vitl14", 1024, "vit_large_patch14_reg4_dinov2", 14, {"img_size": 518, "init_values": 1e-5}),
        )
    ),
    *(
        ImageEncoderConfig(
            f"lunit-vits{patch_size}",
            384,
            f"vit_small_patch{patch_size}_224",
            _VIT,
            **_LUNIT,
            weights=f"dino_vit_small_patch{patch_size}_ep200.torch of lunit-io/benchmark-ssl-pathology on GitHub",
            hub=f"1aurent/vit_small_patch{patch_size}_224.lunit_dino",
            timm_hub=True,
            patch_size=patch_size,
            licence="Lunit, non-commercial",
            commercial=False,
            gated=False,
        )
        for patch_size in (16, 8)
    ),
    # A GPL-3 whose authors add "for non-commercial academic purposes".
    ImageEncoderConfig(
        "ctranspath",
        768,
        "ctranspath",
        {"num_classes": 0},
        weights="ctranspath.pth of Xiyue-Wang/TransPath on GitHub",
        layout="swin",
        ignored=("head.",),
        patch_size=4,
        microns_per_pixel=1.0,
        licence="GPL-3.0, non-commercial",
        commercial=False,
    ),
)
