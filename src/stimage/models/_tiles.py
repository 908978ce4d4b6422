from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stimage.data import Slide, crop, window_positions
from stimage.modules import MaskedAutoencoder

CPU_BATCH = 4
"""Windows in a forward pass on a CPU at most: more are no faster there, and take more memory."""

WIDTH_STEP = 32
"""Numbers of sites are filled up to multiples of this: with arrays of few sizes, memory that was freed is used again."""


@dataclass(frozen=True)
class Tile:
    """A window of a slide at inference: where it is and which sites it shows (-1 where there is no tissue)."""

    top: int
    left: int
    sites: np.ndarray


def tile_starts(length: int, size: int) -> list[int]:
    """First rows (or columns) of overlapping windows that cover an axis, half a window apart."""
    if length <= size:
        return [(length - size) // 2]
    return sorted({*range(0, length - size, max(size // 2, 1)), length - size})


def tiles_of(slide: Slide, size: int) -> list[Tile]:
    """Overlapping windows that cover a slide; windows without tissue are left out."""
    return [tile for top in tile_starts(slide.shape[0], size) for tile in tile_row(slide.raster, top, size)]


def tile_row(raster: np.ndarray, top: int, size: int, *, first: int = 0) -> list[Tile]:
    """The windows that begin in one row of a raster, of which the rows from ``first`` on are given.

    Windows without tissue are left out.
    """
    lefts = tile_starts(raster.shape[1], size)
    tiles = [Tile(top, left, crop(raster, top - first, left, size, size)) for left in lefts]
    return [tile for tile in tiles if (tile.sites >= 0).any()]


@dataclass(frozen=True)
class Look:
    """What a model sees of a window in one pass, and what it is asked.

    Parameters
    ----------
    sites
        Rows of the tokens of the window's tissue (sites).
    positions
        Physical positions of these sites (sites x 2).
    weights
        How much each counts in a mean over windows: more, the farther it is from the window's border (sites).
    visible
        Which are visible (sites).
    told
        Of which the vectors are wanted (sites).
    """

    sites: np.ndarray
    positions: np.ndarray
    weights: np.ndarray
    visible: np.ndarray
    told: np.ndarray


class Looks:
    """Makes :class:`Look` of the windows of a slide.

    Parameters
    ----------
    slide
        The slide: its lattice says where the sites of a window are.
    height, width
        Size of the windows.
    """

    def __init__(self, slide: Slide, height: int, width: int) -> None:
        from_border = [np.minimum(np.arange(n), np.arange(n)[::-1]) + 1.0 for n in (height, width)]
        self.weights = np.outer(*from_border).ravel().astype(np.float32)
        # Distances within a window depend on whether its first row is shifted, and on nothing else of where it lies.
        self.positions = [window_positions(slide, top, 0, height, width) for top in (0, 1)]

    def __call__(self, tile: Tile, visible: np.ndarray, told: np.ndarray) -> Look:
        """A window with some sites visible and some asked for, both over the numbers that the tile has sites by."""
        cells = np.flatnonzero(tile.sites >= 0)
        sites = tile.sites.ravel()[cells]
        positions = self.positions[tile.top % 2][cells]
        return Look(sites, positions, self.weights[cells], visible[sites], told[sites])


def add_vectors(
    module: MaskedAutoencoder,
    tokens: torch.Tensor,
    looks: Sequence[Look],
    total: torch.Tensor,
    weights: torch.Tensor,
    *,
    batch_size: int,
) -> None:
    """Add the vectors of the sites that windows are asked for to weighted sums over windows.

    Parameters
    ----------
    module
        The model.
    tokens
        Tokens of sites (sites x dim).
    looks
        The windows.
    total, weights
        Sums of weighted vectors (sites x dim) and of weights (sites), changed in place.
    batch_size
        Windows in a forward pass at most.
    """
    if tokens.device.type == "cpu":
        batch_size = min(batch_size, CPU_BATCH)
    looks = [look for look in looks if look.told.any()]
    for seen in (True, False):  # a window of which nothing is seen is another case to the model
        some = [look for look in looks if look.visible.any() == seen]
        for start in range(0, len(some), batch_size):
            batch = some[start : start + batch_size]
            sites, share, vectors = _told_vectors(module, tokens, batch, seen=seen)
            total.index_add_(0, sites, vectors * share.unsqueeze(-1))
            weights.index_add_(0, sites, share)


def _told_vectors(
    module: MaskedAutoencoder, tokens: torch.Tensor, looks: list[Look], *, seen: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sites that windows are asked for, window after window, with their weights and vectors.

    Sites enter in the order visible, hidden, hidden and asked for: the model gathers from the former and answers for the
    latter alone. Empty places are left out, and so are hidden sites that nobody asks for where nobody looks at them.
    """
    idle = bool(module.config.decoder_layers) or not seen
    groups = [[look.visible, ~look.visible & ~look.told & idle, ~look.visible & look.told] for look in looks]
    parts = [[np.flatnonzero(member) for member in group] for group in groups]
    widths = [-(-max(map(len, column)) // WIDTH_STEP) * WIDTH_STEP for column in zip(*parts, strict=True)]
    picked = np.full((len(looks), sum(widths)), -1)
    for row, part in zip(picked, parts, strict=True):
        for start, members in zip(np.cumsum([0, *widths]), part, strict=False):
            row[start : start + len(members)] = members
    n_visible, n_told = widths[0], widths[2]
    if any((look.visible & look.told).any() for look in looks):
        n_told = picked.shape[1]

    tissue = picked >= 0
    sites, positions, weights, visible, told = (
        np.stack([getattr(look, name)[row] for look, row in zip(looks, picked, strict=True)])
        for name in ("sites", "positions", "weights", "visible", "told")
    )
    device = tokens.device
    sites = torch.as_tensor(sites, dtype=torch.long, device=device)
    vectors = module(
        tokens[sites],
        torch.as_tensor(positions, device=device),
        torch.as_tensor(tissue, device=device),
        torch.as_tensor(tissue & ~visible, device=device),
        n_visible=n_visible if seen else None,
        n_told=n_told,
    )
    first = picked.shape[1] - n_told
    told = torch.as_tensor((tissue & told)[:, first:], device=device)
    share = torch.as_tensor(weights[:, first:], device=device)
    return sites[:, first:][told], share[told], vectors[told]
