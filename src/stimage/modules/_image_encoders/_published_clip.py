"""Published encoders of images and text, of which the image's part is taken: what their contrast compares."""

from __future__ import annotations

from stimage.modules._image_encoder_configs import ImageEncoderConfig

_NORMALISATION = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_TEXT = ("text_model.", "text_projection.", "logit_scale", "text_model.embeddings.position_ids")
_OPEN_CLIP_TEXT = ("text.", "transformer.", "token_embedding.", "positional_embedding", "text_projection", "ln_final.")
_OPEN_CLIP_TEXT += ("logit_scale", "logit_bias", "attn_mask")
_MIT = {"licence": "MIT", "commercial": True}

PUBLISHED_CLIP = (
    *(
        ImageEncoderConfig(
            name,
            512,
            "vit_base_patch32_clip_quickgelu_224",
            {"num_classes": 512, "img_size": 224},
            **_NORMALISATION,
            hub=hub,
            layout="clip",
            ignored=(*_TEXT, "vision_model.embeddings.position_ids"),
            patch_size=32,
            **terms,
        )
        for name, hub, terms in (
            ("clip-vit-b-32", "openai/clip-vit-base-patch32", _MIT),
            ("plip", "vinid/plip", {}),  # no licence is stated with its code
        )
    ),
    # Sizes, activation and normalisation are read from the configuration that is published beside the weights.
    *(
        ImageEncoderConfig(
            name,
            512,
            architecture,
            {"num_classes": 512, "img_size": 224},
            **_NORMALISATION,
            hub=hub,
            layout="open_clip",
            ignored=_OPEN_CLIP_TEXT,
            patch_size=patch_size,
            **_MIT,
        )
        for name, architecture, hub, patch_size in (
            ("quiltnet-b-32", "vit_base_patch32_clip_224", "wisdomik/QuiltNet-B-32", 32),
            ("quiltnet-b-16", "vit_base_patch16_clip_224", "wisdomik/QuiltNet-B-16", 16),
            ("biomedclip", "vit_base_patch16_224", "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224", 16),
        )
    ),
)
