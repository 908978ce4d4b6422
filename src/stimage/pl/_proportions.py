from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stimage import _validate
from stimage.pl._figure import figure
from stimage.pl._palette import PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BAR = 0.32  # inches


def proportions(table: pd.DataFrame, *, show: bool | None = None, save: str | Path | None = None) -> Figure:
    """Share of each domain in each donor, as stacked bars; a panel for each condition.

    Parameters
    ----------
    table
        What :func:`stimage.benchmark.domain_proportions` returned.
    show
        Open a window with the figure. A notebook shows the returned figure without it.
    save
        File to write the figure to; its ending says the format.

    Returns
    -------
    matplotlib.figure.Figure
        A bar for each donor, with its number of spots above it.

    Raises
    ------
    ValueError
        If the table lacks a column.

    Examples
    --------
    >>> import stimage as sti
    >>> domains, donors = ["a", "a", "b", "b", "a", "b"], ["x", "x", "x", "y", "z", "z"]
    >>> conditions = ["healthy"] * 4 + ["ill"] * 2
    >>> table = sti.benchmark.domain_proportions(domains, donors, conditions=conditions)
    >>> figure = sti.pl.proportions(table)
    """
    missing = [column for column in ("donor", "domain", "proportion", "n_spots") if column not in table]
    if missing:
        raise ValueError(
            f"`table` lacks {_validate.listing(missing)}: pass what `stimage.benchmark.domain_proportions` returns."
        )
    parts = {"": table}
    if "condition" in table:
        parts = dict(tuple(table.groupby("condition", sort=False)))
    domains = list(dict.fromkeys(table["domain"]))
    colors = {domain: PALETTE[number % len(PALETTE)] for number, domain in enumerate(domains)}
    sizes = [part["donor"].nunique() for part in parts.values()]
    with figure(1.9 + sum(sizes) * _BAR + 0.3 * len(parts), 2.6, show=show, save=save) as fig:
        axes = fig.subplots(1, len(parts), sharey=True, squeeze=False, width_ratios=sizes)[0]
        for ax, (condition, part) in zip(axes, parts.items(), strict=True):
            shares = part.pivot(index="donor", columns="domain", values="proportion")
            shares = shares.loc[list(dict.fromkeys(part["donor"])), domains]
            bottom = np.zeros(len(shares))
            for domain in domains:
                ax.bar(range(len(shares)), shares[domain], 0.8, bottom, color=colors[domain], label=domain)
                bottom += shares[domain].to_numpy()
            for place, number in enumerate(part.groupby("donor", sort=False)["n_spots"].first()):
                ax.text(place, 1.01, f"{number:,}", ha="center", va="bottom", fontsize=6, rotation=90)
            ax.set_xticks(range(len(shares)), shares.index, rotation=90)
            ax.tick_params(axis="x", length=0)
            ax.set_ylim(0, 1)
            ax.spines[["top", "right"]].set_visible(False)
            ax.set_title(condition, pad=26)
        axes[0].set_ylabel("share of spots")
        axes[-1].legend(loc="upper left", bbox_to_anchor=(1.02, 1), title="domain")
    return fig
