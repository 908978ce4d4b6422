from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class ResNet50(nn.Module):
    """ResNet-50 without its classifier; its tensors have the names of the published ImageNet weights.

    Random start: weights of convolutions from He's normal distribution, batch normalisation as the identity.

    Examples
    --------
    >>> import torch
    >>> from stimage.modules._image_encoders._resnet import ResNet50
    >>> ResNet50()(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 2048])

    References
    ----------
    He et al., Deep residual learning for image recognition, CVPR 2016; with the stride in the 3×3 convolution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, n_blocks=3, stride=1)
        self.layer2 = _stage(256, 128, n_blocks=4, stride=2)
        self.layer3 = _stage(512, 256, n_blocks=6, stride=2)
        self.layer4 = _stage(1024, 512, n_blocks=3, stride=2)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Features of normalised images (n x 3 x height x width), averaged over the image (n x 2048)."""
        features = functional.relu(self.bn1(self.conv1(images)))
        features = functional.max_pool2d(features, 3, stride=2, padding=1)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = stage(features)
        return features.mean(dim=(2, 3))


class Bottleneck(nn.Module):
    """Residual block: 1×1 convolution, 3×3, 1×1 to four times the width."""

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride != 1 or n_in != 4 * width:
            self.downsample = nn.Sequential(
                nn.Conv2d(n_in, 4 * width, 1, stride=stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, features: Tensor) -> Tensor:
        """Add to features what the block makes of them (n x channels x height x width)."""
        shortcut = features if self.downsample is None else self.downsample(features)
        features = functional.relu(self.bn1(self.conv1(features)))
        features = functional.relu(self.bn2(self.conv2(features)))
        return functional.relu(self.bn3(self.conv3(features)) + shortcut)


def _stage(n_in: int, width: int, *, n_blocks: int, stride: int) -> nn.Sequential:
    blocks = [Bottleneck(n_in, width, stride)]
    blocks += [Bottleneck(4 * width, width, 1) for _ in range(n_blocks - 1)]
    return nn.Sequential(*blocks)
