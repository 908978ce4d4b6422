"""CTransPath: a Swin transformer whose patches are embedded by three convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class ConvStem(nn.Module):
    """Embeds patches of 4 x 4 pixels by two convolutions of stride 2 and a projection, where timm has one convolution.

    Parameters
    ----------
    img_size
        Rows and columns of the image.
    patch_size
        Side of a patch; 4.
    in_chans
        Channels of the image.
    embed_dim
        Length of the vector of a patch.
    norm_layer
        Normalisation of these vectors.
    unused
        What timm passes to embeddings of patches in general.

    References
    ----------
    Wang et al., Transformer-based unsupervised contrastive learning for histopathological image classification, 2022.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 96,
        norm_layer: Callable[[int], nn.Module] | None = None,
        **unused: Any,
    ) -> None:
        super().__init__()
        self.patch_size = (patch_size, patch_size)
        sides = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.grid_size = (sides[0] // patch_size, sides[1] // patch_size)
        layers: list[nn.Module] = []
        width = embed_dim // 8
        for n_in, n_out in ((in_chans, width), (width, 2 * width)):
            layers += [nn.Conv2d(n_in, n_out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
        self.proj = nn.Sequential(*layers, nn.Conv2d(2 * width, embed_dim, 1))
        self.norm = nn.Identity() if norm_layer is None else norm_layer(embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Vectors of patches (n x rows x columns x dim) from normalised images (n x 3 x height x width)."""
        return self.norm(self.proj(images).permute(0, 2, 3, 1))
