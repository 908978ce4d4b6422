"""Torch modules: tensors in, tensors out. Knows no AnnData."""

from stimage.modules._aligner import AlignerConfig, Alignment, AlignmentBatch, LevelVectors, SpotNicheAligner
from stimage.modules._alignment_encoders import FeatureTokens, GeneMLPEncoder, GeneTransformerEncoder
from stimage.modules._contrastive import Temperature, info_nce
from stimage.modules._fusion import SymmetricCrossAttention
from stimage.modules._gene_tokens import GeneTokens
from stimage.modules._image_encoder_configs import IMAGE_ENCODERS, ImageEncoderConfig
from stimage.modules._image_encoders import ImageEncoder, load_image_encoder
from stimage.modules._masked_autoencoder import AutoencoderConfig, MaskedAutoencoder
from stimage.modules._scgpt import ScGPTEncoder
from stimage.modules._spot_autoencoder import NeighborhoodAutoencoder, SliceAutoencoder, SpotAutoencoder
from stimage.modules._stain import jitter_stain
from stimage.modules._transformer import LocalAttention, SiteTransformer

__all__ = [
    "AlignerConfig",
    "Alignment",
    "AlignmentBatch",
    "AutoencoderConfig",
    "FeatureTokens",
    "GeneMLPEncoder",
    "GeneTokens",
    "GeneTransformerEncoder",
    "IMAGE_ENCODERS",
    "ImageEncoder",
    "ImageEncoderConfig",
    "LevelVectors",
    "LocalAttention",
    "MaskedAutoencoder",
    "ScGPTEncoder",
    "NeighborhoodAutoencoder",
    "SiteTransformer",
    "SliceAutoencoder",
    "SpotAutoencoder",
    "SpotNicheAligner",
    "SymmetricCrossAttention",
    "Temperature",
    "info_nce",
    "jitter_stain",
    "load_image_encoder",
]
