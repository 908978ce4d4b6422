from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stimage.modules._image_encoder_configs import ImageEncoderConfig


class ImageEncoder(nn.Module):
    """An image encoder with its preprocessing: patches as they come from a slide in, one vector each out.

    Made by :func:`load_image_encoder`. Whether it is in evaluation mode and which parameters are trained is the
    caller's choice (``encoder.eval().requires_grad_(False)``); it starts in training mode, as every torch module.

    Parameters
    ----------
    backbone
        The network, from normalised images (n x 3 x input_size x input_size) to features.
    config
        What the backbone is and wants to see.

    Examples
    --------
    >>> import torch
    >>> from stimage.modules import load_image_encoder
    >>> encoder = load_image_encoder("resnet50")
    >>> pixels = torch.full((1, 28, 28, 3), 255, dtype=torch.uint8)
    >>> encoder.preprocess(pixels).shape
    torch.Size([1, 3, 224, 224])
    """

    def __init__(self, backbone: nn.Module, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.backbone = backbone
        self.config = config

    def preprocess(self, pixels: Tensor) -> Tensor:
        """Resize, cut out the central square and normalise.

        Resampling is bicubic with antialiasing, rounded to whole pixel values as image libraries do. The shorter side
        of a patch that is not square decides, and what sticks out of the square is lost.

        Parameters
        ----------
        pixels
            Patches (n x height x width x 3), ``uint8``, red, green, blue.

        Returns
        -------
        Tensor
            Normalised images (n x 3 x input_size x input_size), 32-bit floating point numbers.

        Raises
        ------
        TypeError, ValueError
            If ``pixels`` is of another type or shape.
        """
        if not isinstance(pixels, Tensor) or pixels.dtype != torch.uint8:
            found = f"{pixels.dtype} tensor" if isinstance(pixels, Tensor) else type(pixels).__name__
            raise TypeError(f"`pixels` must be a uint8 tensor of values from 0 to 255, found {found}.")
        if pixels.ndim != 4 or pixels.shape[-1] != 3 or 0 in pixels.shape:
            raise ValueError(
                f"`pixels` must be patches of shape (n, height, width, 3) with at least one pixel, found "
                f"{tuple(pixels.shape)}: put the colours last."
            )
        images = pixels.movedim(-1, 1).float()
        size, shorter = self.config.input_size, self.config.resize or self.config.input_size
        scale = shorter / min(images.shape[2:])
        if scale != 1:
            shape = [int(side * scale) for side in images.shape[2:]]
            images = functional.interpolate(images, shape, mode="bicubic", antialias=True).round().clamp(0, 255)
        top, left = (round((side - size) / 2) for side in images.shape[2:])
        images = images[:, :, top : top + size, left : left + size] / 255
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (self.config.mean, self.config.std))
        return (images - mean) / std

    def forward(self, pixels: Tensor) -> Tensor:
        """Features of patches.

        Parameters
        ----------
        pixels
            Patches (n x height x width x 3), ``uint8``, of any size; small ones are enlarged (ST-Align, Eq. 3).

        Returns
        -------
        Tensor
            One vector per patch (n x ``config.width``).
        """
        images = self.preprocess(pixels).to(next(self.backbone.parameters()).dtype)
        if self.config.pooling == "map":
            return self.backbone.extract_features(images).mean(dim=(2, 3))
        features = self.backbone(images)
        if self.config.pooling == "model":
            return features
        if self.config.pooling == "class":
            return features[:, 0]
        return torch.cat([features[:, 0], features[:, self.backbone.num_prefix_tokens :].mean(dim=1)], dim=1)
