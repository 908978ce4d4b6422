"""Torch modules: tensors in, tensors out. Knows no AnnData."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from stimage.modules._aligner import AlignerConfig, Alignment, AlignmentBatch, LevelVectors, SpotNicheAligner
    from stimage.modules._alignment_encoders import FeatureTokens, GeneMLPEncoder, GeneTransformerEncoder
    from stimage.modules._contrastive import Temperature, info_nce
    from stimage.modules._fusion import SymmetricCrossAttention
    from stimage.modules._gene_tokens import GeneTokens
    from stimage.modules._image_encoder_configs import ImageEncoderConfig
    from stimage.modules._image_encoders import (
        IMAGE_ENCODERS,
        ImageEncoder,
        image_encoders,
        load_image_encoder,
        register_image_encoder,
    )
    from stimage.modules._masked_autoencoder import AutoencoderConfig, MaskedAutoencoder
    from stimage.modules._scgpt import ScGPTEncoder
    from stimage.modules._spot_autoencoder import NeighborhoodAutoencoder, SliceAutoencoder, SpotAutoencoder
    from stimage.modules._stain import jitter_stain
    from stimage.modules._transformer import LocalAttention, SiteTransformer

# What a name needs is loaded when it is first asked for.
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "_aligner": ["AlignerConfig", "Alignment", "AlignmentBatch", "LevelVectors", "SpotNicheAligner"],
        "_alignment_encoders": ["FeatureTokens", "GeneMLPEncoder", "GeneTransformerEncoder"],
        "_contrastive": ["Temperature", "info_nce"],
        "_fusion": ["SymmetricCrossAttention"],
        "_gene_tokens": ["GeneTokens"],
        "_image_encoder_configs": ["ImageEncoderConfig"],
        "_image_encoders": [
            "IMAGE_ENCODERS",
            "ImageEncoder",
            "image_encoders",
            "load_image_encoder",
            "register_image_encoder",
        ],
        "_masked_autoencoder": ["AutoencoderConfig", "MaskedAutoencoder"],
        "_scgpt": ["ScGPTEncoder"],
        "_spot_autoencoder": ["NeighborhoodAutoencoder", "SliceAutoencoder", "SpotAutoencoder"],
        "_stain": ["jitter_stain"],
        "_transformer": ["LocalAttention", "SiteTransformer"],
    },
)
