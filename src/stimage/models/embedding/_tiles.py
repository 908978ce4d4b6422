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
class TileInput:
    """The tissue of a tile in one pass: what is visible there, and which vectors are wanted.

    Parameters
    ----------
    sites
        Rows of the tokens of the tile's tissue (sites).
    positions
        Physical positions of these sites (sites x 2).
    weights
        How much each counts in a mean over tiles: more, the farther it is from the tile's border (sites).
    visible
        Which are visible (sites).
    wanted
        Of which the vectors are wanted (sites).
    """

    sites: np.ndarray
    positions: np.ndarray
    weights: np.ndarray
    visible: np.ndarray
    wanted: np.ndarray


class TileInputs:
    """Makes :class:`TileInput` of the tiles of a slide.

    Parameters
    ----------
    slide
        The slide: its lattice says where the sites of a tile are.
    height, width
        Size of the tiles.
    """

    def __init__(self, slide: Slide, height: int, width: int) -> None:
        from_border = [np.minimum(np.arange(n), np.arange(n)[::-1]) + 1.0 for n in (height, width)]
        self.weights = np.outer(*from_border).ravel().astype(np.float32)
        # Distances within a tile depend on whether its first row is shifted, and on nothing else of where it lies.
        self.positions = [window_positions(slide, top, 0, height, width) for top in (0, 1)]

    def __call__(self, tile: Tile, visible: np.ndarray, wanted: np.ndarray) -> TileInput:
        """A tile with some sites visible and some wanted, both over the numbers that the tile has sites by."""
        cells = np.flatnonzero(tile.sites >= 0)
        sites = tile.sites.ravel()[cells]
        positions = self.positions[tile.top % 2][cells]
        return TileInput(sites, positions, self.weights[cells], visible[sites], wanted[sites])


def add_vectors(
    module: MaskedAutoencoder,
    tokens: torch.Tensor,
    inputs: Sequence[TileInput],
    total: torch.Tensor,
    weights: torch.Tensor,
    *,
    batch_size: int,
) -> None:
    """Add the vectors of the sites that are wanted of tiles to weighted sums over tiles.

    Parameters
    ----------
    module
        The model.
    tokens
        Tokens of sites (sites x dim).
    inputs
        The tiles.
    total, weights
        Sums of weighted vectors (sites x dim) and of weights (sites), changed in place.
    batch_size
        Tiles in a forward pass at most.
    """
    if tokens.device.type == "cpu":
        batch_size = min(batch_size, CPU_BATCH)
    inputs = [tile for tile in inputs if tile.wanted.any()]
    for seen in (True, False):  # a tile without a visible site is another case to the model
        some = [tile for tile in inputs if tile.visible.any() == seen]
        for start in range(0, len(some), batch_size):
            batch = some[start : start + batch_size]
            sites, share, vectors = _wanted_vectors(module, tokens, batch, seen=seen)
            total.index_add_(0, sites, vectors * share.unsqueeze(-1))
            weights.index_add_(0, sites, share)


def _wanted_vectors(
    module: MaskedAutoencoder, tokens: torch.Tensor, inputs: list[TileInput], *, seen: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Wanted sites of tiles, tile after tile, with their weights and vectors.

    Sites enter in the order visible, masked, masked and wanted: attention reads the first and is computed for the last
    alone. Empty places are left out, and so are masked sites that are not wanted where no attention reads them.
    """
    idle = bool(module.config.decoder_layers) or not seen
    groups = [[tile.visible, ~tile.visible & ~tile.wanted & idle, ~tile.visible & tile.wanted] for tile in inputs]
    parts = [[np.flatnonzero(member) for member in group] for group in groups]
    widths = [-(-max(map(len, column)) // WIDTH_STEP) * WIDTH_STEP for column in zip(*parts, strict=True)]
    picked = np.full((len(inputs), sum(widths)), -1)
    for row, part in zip(picked, parts, strict=True):
        for start, members in zip(np.cumsum([0, *widths]), part, strict=False):
            row[start : start + len(members)] = members
    n_visible, n_output = widths[0], widths[2]
    if any((tile.visible & tile.wanted).any() for tile in inputs):
        n_output = picked.shape[1]

    tissue = picked >= 0
    sites, positions, weights, visible, wanted = (
        np.stack([getattr(tile, name)[row] for tile, row in zip(inputs, picked, strict=True)])
        for name in ("sites", "positions", "weights", "visible", "wanted")
    )

    sites = sites.astype(np.int64, copy=False)

    def there(values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(values, device=tokens.device)

    vectors = module(
        tokens[there(sites)],
        there(positions.astype(np.float32, copy=False)),
        there(tissue),
        there(tissue & ~visible),
        n_visible=n_visible if seen else None,
        n_output=n_output,
    )
    # Chosen by numbers that are known here: a GPU would have to be waited for to count the places of a mask.
    first = picked.shape[1] - n_output
    rows, columns = np.nonzero((tissue & wanted)[:, first:])
    chosen = rows, first + columns
    return there(sites[chosen]), there(weights[chosen]), vectors[there(rows), there(columns)].float()
