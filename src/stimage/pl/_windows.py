from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import LineCollection, PolyCollection

from stimage import _validate
from stimage.pl._figure import LIGHT_GREY, figure, tissue_axes
from stimage.pl._sites import outline

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stimage.data import Corpus, Lattice, Window, WindowSpec
    from stimage.models import STImage

_PANEL = 1.5  # inches
_HIDDEN = "#262626"
_DARKEST = 0.2  # of a colour channel, so that no site looks hidden that is not
_N_DEVIATIONS = 2.0  # standard deviations along an axis that saturate a colour


def windows(
    model_or_corpus: STImage | Corpus,
    *,
    n_windows: int = 4,
    spec: WindowSpec | None = None,
    seed: int | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Figure:
    """Training windows in false colours, whole and as the model sees them.

    Parameters
    ----------
    model_or_corpus
        A model with its slides, or slides.
    n_windows
        Windows to show: the first of the training.
    spec
        How windows are cut. By default as the model does, and for a corpus as :class:`stimage.data.WindowSpec` says.
    seed
        Seed of windows, genes and masks. By default the model's, 0 for a corpus.
    show
        Open a window with the figure. A notebook shows the returned figure without it.
    save
        File to write the figure to; its ending says the format.

    Returns
    -------
    matplotlib.figure.Figure
        Above the windows, below their visible part. Red, green and blue are the scores on the first three
        principal components of the corpus, estimated from the window's genes; grey is the mean of the slide. Hidden
        sites are dark, sites without data white. Colours can be compared between windows.

    Raises
    ------
    TypeError
        If ``model_or_corpus`` is neither.
    ValueError
        If the model has no slides, as after loading, or no window can be cut.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> corpus = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])
    >>> figure = sti.pl.windows(corpus, n_windows=2, spec=sti.data.WindowSpec(window=8))
    """
    from stimage.data import Corpus, WindowDataset, WindowSpec, principal_genes

    _validate.check_positive("n_windows", n_windows)
    corpus = (
        model_or_corpus if isinstance(model_or_corpus, Corpus) else getattr(model_or_corpus, "corpus", model_or_corpus)
    )
    if corpus is None:
        raise ValueError(
            "`model_or_corpus` is a model without slides: load it with `STImage.load(directory, data)`, or pass a corpus."
        )
    if not isinstance(corpus, Corpus):
        raise TypeError(
            "`model_or_corpus` must be a stimage.models.STImage or a stimage.data.Corpus, found "
            f"{type(model_or_corpus).__name__}."
        )
    if spec is None:
        spec = getattr(model_or_corpus, "spec", None) or WindowSpec()
    spec = replace(spec, n_genes=min(spec.n_genes, len(corpus.genes)))
    dataset = WindowDataset(corpus.slides, spec, seed=getattr(model_or_corpus, "seed", 0) if seed is None else seed)
    axes_of_genes, deviation = principal_genes(corpus.slides, 3)

    with figure(n_windows * _PANEL + 0.3, 2 * _PANEL + 0.4, show=show, save=save) as fig:
        axes = fig.subplots(2, n_windows, squeeze=False)
        for column in range(n_windows):
            window = dataset[column]
            _draw_window(axes[:, column], window, dataset.place(column)[0].lattice, axes_of_genes, deviation)
            share = window.hidden.sum() / max(np.broadcast_to(_seen(window), window.hidden.shape).sum(), 1)
            axes[0, column].set_title(f"{int(window.gene_valid.sum())} genes")
            axes[1, column].set_title(f"{100 * share:.0f} % hidden")
        for ax, label in zip(axes[:, 0], ("expression", "model input"), strict=True):
            ax.text(-0.06, 0.5, label, transform=ax.transAxes, rotation=90, ha="right", va="center", fontsize=9)
    return fig


def _draw_window(
    panels: np.ndarray, window: Window, lattice: Lattice, axes_of_genes: np.ndarray, deviation: np.ndarray
) -> None:
    cells = lattice.cells(window.positions)
    corners = cells.reshape(-1, 2)
    by_site = window.hidden.ndim == 1
    visible = window.expression if by_site else np.where(window.hidden, 0, window.expression)
    for ax, expression in zip(panels, (window.expression, visible), strict=True):
        colors = false_colors(expression, window, axes_of_genes, deviation)
        is_input = ax is panels[1]
        if is_input and by_site:
            _add_cells(ax, cells[window.observed & window.hidden], _HIDDEN, edgecolors="#595959")
        shown = window.observed & ~window.hidden if is_input and by_site else window.observed
        _add_cells(ax, cells[shown], colors[shown], edgecolors="face")
        ax.add_collection(LineCollection(outline(cells), colors=LIGHT_GREY, linewidths=0.6, zorder=0))
        tissue_axes(ax, tuple(corners.min(axis=0) - 0.1), tuple(corners.max(axis=0) + 0.1))


def false_colors(
    expression: np.ndarray, window: Window, axes_of_genes: np.ndarray, deviation: np.ndarray
) -> np.ndarray:
    """Red, green and blue of each site (sites x 3) from the scores on up to three axes (genes x axes)."""
    genes = window.genes[window.gene_valid]
    # Axes are orthonormal over all genes; over those of the window, least squares gives the scores.
    scores = np.linalg.lstsq(axes_of_genes[genes], expression[:, window.gene_valid].T, rcond=None)[0].T
    colors = np.full((len(expression), 3), 0.5)
    colors[:, : scores.shape[1]] += 0.5 * scores / np.maximum(_N_DEVIATIONS * deviation, 1e-12)
    return _DARKEST + (1 - _DARKEST) * np.clip(colors, 0.0, 1.0)


def _add_cells(ax: Axes, cells: np.ndarray, colors: np.ndarray | str, *, edgecolors: str) -> None:
    ax.add_collection(PolyCollection(list(cells), facecolors=colors, edgecolors=edgecolors, linewidths=0.3))


def _seen(window: Window) -> np.ndarray:
    """What could have been hidden: sites with data, or their values of real genes."""
    return window.observed if window.hidden.ndim == 1 else window.observed[:, None] & window.gene_valid
