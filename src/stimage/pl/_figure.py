from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import matplotlib.pyplot as plt

from stimage._paths import path_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIGHT_GREY = "#D9D9D9"
_STYLE = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "normal",
    "axes.labelsize": 8,
    "axes.grid": False,
    "axes.linewidth": 0.8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.dpi": 300,
    # Text stays text in vector figures, as journals ask.
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
}


@contextmanager
def figure(width: float, height: float, *, show: bool | None, save: str | Path | None) -> Iterator[Figure]:
    """A figure (inches) to draw on, which is written and shown at the end and no longer known to pyplot afterwards.

    A notebook displays the returned figure once: were it still open, the inline backend would display it again.
    """
    with matplotlib.rc_context(_STYLE):
        fig = plt.figure(figsize=(width, height), layout="compressed")
        try:
            yield fig
            if save is not None:
                fig.savefig(path_of(save), bbox_inches="tight")
            if show:
                plt.show()
        finally:
            plt.close(fig)


def tissue_axes(ax: Axes, low: tuple[float, float], high: tuple[float, float]) -> None:
    """Limit axes to a part of a slide, in image orientation: y grows downwards, x and y have one scale."""
    ax.set_aspect("equal")
    ax.set_xlim(low[0], high[0])
    ax.set_ylim(high[1], low[1])
    ax.axis("off")
