from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.colors import is_color_like, to_hex, to_rgb

from stimage import _validate

if TYPE_CHECKING:
    from anndata import AnnData

# The first seven are those of Okabe and Ito (2008), https://jfly.uni-koeln.de/color/. Each further one is as far as
# possible, in OKLab, from all before it, white, black and the grey of missing labels, in normal vision and in simulated
# protanopia and deuteranopia (Machado et al. 2009, doi:10.1109/TVCG.2009.113).
PALETTE = (
    "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#5A1E00", "#3C0078", "#784B4B",
    "#5A87FF", "#96C396", "#3C3CA5", "#4B2D4B", "#A54B00", "#964B87", "#D2E196", "#5AD2FF", "#693C00", "#5A3C78",
)  # fmt: skip


def category_colors(
    adata: AnnData, key: str, categories: pd.Index, palette: Mapping[str, str] | Sequence[str] | None
) -> list[str]:
    """Colour of each category: that of ``palette``, else of ``uns[f"{key}_colors"]``, else by its position.

    The colour of a category depends neither on the number of categories nor on which slide has them.
    """
    if isinstance(palette, Mapping):
        absent = [name for name in categories if name not in palette]
        if absent:
            raise ValueError(
                f"`palette` has no colour for {_validate.listing(absent)} of adata.obs[{key!r}]: add them."
            )
        colors = [palette[name] for name in categories]
    elif palette is not None:
        colors = list(palette)
        if len(colors) < len(categories):
            raise ValueError(
                f"`palette` has {len(colors)} colours, adata.obs[{key!r}] has {len(categories)} categories: add more."
            )
    else:
        colors = list(adata.uns.get(f"{key}_colors", ()))
        if len(colors) < len(categories):
            return [_color(position) for position in range(len(categories))]
    wrong = [color for color in colors if not is_color_like(color)]
    if wrong:
        raise ValueError(
            f"Colours of adata.obs[{key!r}] must be known to matplotlib, found {_validate.listing(wrong)}."
        )
    return [to_hex(color) for color in colors[: len(categories)]]


def _color(position: int) -> str:
    # More categories than anyone can tell apart: paler rounds, so that at least those next to each other differ.
    fade = min(0.35 * (position // len(PALETTE)), 0.7)
    return to_hex([fade + (1 - fade) * value for value in to_rgb(PALETTE[position % len(PALETTE)])])
