"""Torch modules: tensors in, tensors out. Knows no AnnData."""

from stimage.modules._gene_tokens import GeneTokens
from stimage.modules._masked_autoencoder import AutoencoderConfig, MaskedAutoencoder
from stimage.modules._spot_autoencoder import NeighborhoodAutoencoder, SliceAutoencoder, SpotAutoencoder
from stimage.modules._transformer import LocalAttention, SiteTransformer

__all__ = [
    "AutoencoderConfig",
    "GeneTokens",
    "LocalAttention",
    "MaskedAutoencoder",
    "NeighborhoodAutoencoder",
    "SiteTransformer",
    "SliceAutoencoder",
    "SpotAutoencoder",
]
