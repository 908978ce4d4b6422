from __future__ import annotations

import math

import torch
from torch import Tensor

from stimage.data.sampling.masking._rule import MaskingRule, MaskRandom
from stimage.data.sampling.masking._site import SiteMasking

STRETCH = 0.7
"""Logarithm of the most that the ratio of the sides of a region is stretched from a square, either way."""


class RegionMasking(MaskingRule):
    """A contiguous rectangle of random shape and position, which covers about a share of the window."""

    name = "region"

    def draw(self, observed: Tensor, ratio: float, random: MaskRandom) -> Tensor:
        n_rows, n_columns = observed.shape[1:]
        area = ratio * n_rows * n_columns
        height = _height(area, (2 * random.uniform("height").double() - 1) * STRETCH, n_rows)
        width = _width(area, height, n_columns)
        top = random.integers("top") * (n_rows - height + 1) >> 32
        left = random.integers("left") * (n_columns - width + 1) >> 32
        return _between(top, height, n_rows).unsqueeze(2) & _between(left, width, n_columns).unsqueeze(1)

    def limits(self, window: int, ratio: float) -> tuple[int, int]:
        area = ratio * window**2
        shortest, tallest = (int(_height(area, torch.tensor(end).double(), window)) for end in (-STRETCH, STRETCH))
        heights = torch.arange(shortest, tallest + 1)
        largest = int((heights * _width(area, heights, window)).max())
        # A region may lie where little tissue is: no more than one site is sure to be hidden.
        return window**2 - 1, max(largest, SiteMasking().limits(window, ratio)[1])


def _height(area: float, stretch: Tensor, most: int) -> Tensor:
    return (math.sqrt(area) * (stretch / 2).exp()).round().clamp(1, most).long()


def _width(area: float, height: Tensor, most: int) -> Tensor:
    return (area / height.double()).round().clamp(1, most).long()


def _between(first: Tensor, length: Tensor, n: int) -> Tensor:
    """Which of ``n`` rows or columns are in a run (windows x n)."""
    along = torch.arange(n, device=first.device)
    return (along >= first.unsqueeze(1)) & (along < (first + length).unsqueeze(1))
