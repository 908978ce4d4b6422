from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stimage import _validate
from stimage.pl._figure import figure
from stimage.pl._palette import PALETTE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stimage.models import STImage

_LABELS = {"train": "training", "validation": "validation"}


def training(model: STImage, *, show: bool | None = None, save: str | Path | None = None) -> Figure:
    """Loss per epoch, of training and validation windows.

    Parameters
    ----------
    model
        A trained model.
    show
        Open a window with the figure. A notebook shows the returned figure without it.
    save
        File to write the figure to; its ending says the format.

    Returns
    -------
    matplotlib.figure.Figure
        The figure. A ring marks the lowest validation loss.

    Raises
    ------
    TypeError
        If ``model`` has no training history.
    ValueError
        If it was not trained.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> model = sti.models.STImage(adata, window=8, n_pool_genes=200, n_genes=64)
    >>> model.train(max_epochs=2, enable_progress_bar=False)
    >>> figure = sti.pl.training(model)
    """
    history = getattr(model, "history", None)
    if not isinstance(history, dict):
        raise TypeError(f"`model` must be a stimage.models.STImage, found {type(model).__name__}.")
    losses = {}
    for kind in _LABELS:
        names = [name for name in (f"{kind}_loss", f"{kind}_loss_epoch") if name in history]
        if names:
            losses[kind] = history[names[0]].iloc[:, 0].dropna()
    if not any(len(loss) for loss in losses.values()):
        raise ValueError(
            f"`model` has no loss to show (its history has {_validate.listing(history)}): run `model.train()` first."
        )

    from matplotlib.ticker import MaxNLocator

    with figure(3.4, 2.4, show=show, save=save) as fig:
        ax = fig.subplots()
        for (kind, loss), color in zip(losses.items(), PALETTE[:2], strict=False):
            epochs = loss.index.to_numpy(dtype=float) + 1
            marker = "o" if len(loss) == 1 else None
            ax.plot(epochs, loss.to_numpy(dtype=float), color=color, marker=marker, markersize=3, label=_LABELS[kind])
            if kind == "validation" and len(loss) > 1:
                best = int(np.argmin(loss.to_numpy(dtype=float)))
                ax.plot(epochs[best], loss.iloc[best], "o", markersize=5, markerfacecolor="white", color=color)
        ax.set(xlabel="epoch", ylabel="reconstruction loss")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend()
    return fig
