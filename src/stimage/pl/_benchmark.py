from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stimage.pl._figure import LIGHT_GREY, figure
from stimage.pl._palette import PALETTE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stimage.benchmark import Report

_NAMES = {"accuracy": "accuracy", "macro_f1": "macro F1", "ari": "ARI", "nmi": "NMI", "n_domains": "domains found"}
_HEADS = {"knn": "k-NN", "mlp": "MLP"}
_ROW = 0.26  # inches
_COLUMN = 0.62
_PANEL = 1.5


def benchmark(
    report: Report,
    *,
    protocol: str,
    metric: str,
    head: str,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Figure:
    """Scores of a benchmark: a table of means, and every single score of each slide.

    Parameters
    ----------
    report
        What :func:`stimage.benchmark.compare` returned.
    protocol, metric, head
        Which of its scores.
    show
        Open a window with the figure. A notebook shows the returned figure without it.
    save
        File to write the figure to; its ending says the format.

    Returns
    -------
    matplotlib.figure.Figure
        Above, means of methods by slides, and over the slides in the first column; the best of each column in bold. Below,
        a panel for each slide: a dot for each repetition, a line at their mean. Transductive methods have open dots and are
        named so.

    Raises
    ------
    KeyError
        If the report has no such scores.
    TypeError
        If ``report`` is not a report.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> options = {"protocols": ["block"], "heads": ["knn"], "n_repeats": 3}
    >>> report = sti.benchmark.compare(adata, use_rep="cell_types", label_key="domain", **options)
    >>> figure = sti.pl.benchmark(report, protocol="block", metric="ari", head="knn")
    """
    from stimage.benchmark import Report

    if not isinstance(report, Report):
        raise TypeError(f"`report` must be a stimage.benchmark.Report, found {type(report).__name__}.")
    values = report.select(protocol, metric, head)
    means = report.table(protocol, metric, head).xs("mean", axis=1, level=1)
    slides = list(means.columns)
    if len(slides) > 1:
        means.insert(0, "mean of slides", report.mean_over_slides(protocol, metric, head)["mean"])
    name = _NAMES.get(metric, metric)
    title = f"{name}, {protocol.replace('_', ' ')}, {_HEADS.get(head, head.replace('_', ' '))}"
    transductive = {report.label(method) for method in report.records["method"]} - set(report.records["method"])

    n_columns = min(len(slides), 4)
    n_rows = -(-len(slides) // n_columns)
    rows = len(means) * _ROW
    width = 2.2 + max(len(means.columns) * _COLUMN, n_columns * _PANEL)
    with figure(width, (1 + n_rows) * (rows + 0.65) + 0.5, show=show, save=save) as fig:
        upper, lower = fig.subfigures(2, 1, height_ratios=[rows + 1.0, n_rows * (rows + 0.65)])
        upper.suptitle(title, fontsize=9)
        _draw_table(upper.subplots(), means.to_numpy(), list(means.index), list(means.columns), metric)
        axes = lower.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
        for ax, slide in zip(axes.flat, slides, strict=False):
            chosen = values[values["slide"] == slide]
            for row, method in enumerate(means.index):
                scores = chosen.loc[chosen["method"] == method, "value"].to_numpy()
                _draw_dots(ax, row, scores, hollow=method in transductive)
            ax.set_ylim(len(means) - 0.4, -0.6)
            ax.tick_params(axis="y", length=0)
            ax.spines[["top", "right", "left"]].set_visible(False)
            ax.set_title(slide)
        for ax in axes.flat[len(slides) :]:
            ax.set_visible(False)
        for ax in axes[:, 0]:
            ax.set_yticks(range(len(means)), means.index)
        for column in range(n_columns):
            last = max(row for row in range(n_rows) if row * n_columns + column < len(slides))
            axes[last, column].set_xlabel(name)
            axes[last, column].tick_params(labelbottom=True)
    return fig


def _draw_table(ax: Axes, means: np.ndarray, methods: list[str], columns: list[str], metric: str) -> None:
    # Each column has a colour scale of its own: slides differ more than methods do.
    from stimage.benchmark import METRICS

    low, high = np.nanmin(means, axis=0), np.nanmax(means, axis=0)
    shade = (means - low) / np.where(high > low, high - low, 1)
    ax.imshow(np.ma.masked_invalid(shade), cmap="Blues", vmin=0, vmax=1.6, aspect="auto")
    counts = metric == "n_domains"  # a number, which is not better when it is higher
    best = low if metric in METRICS and not METRICS[metric].higher_is_better else high
    for (row, column), value in np.ndenumerate(means):
        if np.isfinite(value):
            weight = "bold" if value == best[column] and not counts else "normal"
            text = f"{value:.1f}" if counts else f"{value:.3f}"
            ax.text(column, row, text, ha="center", va="center", fontsize=7, fontweight=weight)
    ax.set_xticks(range(len(columns)), columns, rotation=30, ha="left", rotation_mode="anchor")
    ax.set_yticks(range(len(methods)), methods)
    ax.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)


def _draw_dots(ax: Axes, row: int, scores: np.ndarray, *, hollow: bool) -> None:
    ax.axhline(row, color=LIGHT_GREY, linewidth=0.5, zorder=0)
    if not len(scores):
        return
    color = PALETTE[row % len(PALETTE)]
    # Dots of a row are spread evenly, so that equal scores are all seen.
    offset = np.linspace(-0.25, 0.25, len(scores)) if len(scores) > 1 else np.zeros(1)
    face = "white" if hollow else color
    ax.scatter(scores, row + offset, s=9, facecolors=face, edgecolors=color, linewidths=0.7, zorder=2)
    ax.plot([scores.mean()] * 2, [row - 0.38, row + 0.38], color="black", linewidth=1.0, zorder=3)
