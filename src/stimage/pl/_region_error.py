from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import Normalize
from scipy import sparse

from stimage import _keys, _validate
from stimage.pl._figure import LIGHT_GREY, figure, tissue_axes
from stimage.pl._sites import SlideSites, outline, slide_sites

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL = 2.0  # inches, the longer side of a panel
_UNSEEN = "#F2F2F2"  # sites around the region in the panel of errors


def region_error(
    adata: AnnData,
    genes: str | Sequence[str] | None = None,
    *,
    key: str = _keys.REGION,
    context: int = 4,
    cmap: str = "viridis",
    show: bool | None = None,
    save: str | Path | None = None,
) -> Figure:
    """A hidden region as measured, as reconstructed, and the error, gene by gene.

    Parameters
    ----------
    adata
        AnnData after :func:`stimage.tl.reconstruct_region`, with the raw counts.
    genes
        Genes to show; by default the three that vary most over the visible observations: chosen without looking into
        the region.
    key
        ``key_added`` of the reconstruction.
    context
        Sites to show on every side of the region.
    cmap
        Colour map of the expression.
    show
        Open a window with the figure. A notebook shows the returned figure without it.
    save
        File to write the figure to; its ending says the format.

    Returns
    -------
    matplotlib.figure.Figure
        A row of three panels for each gene (and each slide with hidden sites): log1p of counts per 10,000 as measured and
        as reconstructed, in one colour scale, and reconstructed minus measured. The border of the region is drawn;
        sites around it show what was measured. Where observations share a site their mean is shown.

    Raises
    ------
    KeyError
        If there is no reconstruction, no grid, or genes are not in the AnnData.
    ValueError
        If genes have no reconstruction, nothing was hidden, or the counts are not raw counts.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> model = sti.models.STImage(adata, window=8, n_pool_genes=200, n_genes=64)
    >>> model.train(max_epochs=1, enable_progress_bar=False)
    >>> sti.tl.reconstruct_region(adata, model, size=4)
    >>> figure = sti.pl.region_error(adata)
    """
    _validate.check_anndata(adata)
    _validate.check_positive("context", context, smallest=0)
    masked_key = _keys.region_masked(key)
    if key not in adata.uns or key not in adata.layers or masked_key not in adata.obs:
        raise KeyError(
            f"No reconstruction: adata.layers[{key!r}], adata.obs[{masked_key!r}] and adata.uns[{key!r}] are needed "
            f"(found layers {_validate.listing(adata.layers)}): run `stimage.tl.reconstruct_region(adata, model)` first, "
            "or pass its `key_added` as `key`."
        )
    _validate.check_unique_names(adata, genes=True)
    result = adata.uns[key]
    if not isinstance(result, Mapping) or not {"params", "errors"} <= set(result):
        raise KeyError(f"adata.uns[{key!r}] lacks 'params' and 'errors': reconstruct the region again.")
    masked = adata.obs[masked_key].to_numpy(dtype=bool)
    if not masked.any():
        raise ValueError(f"adata.obs[{masked_key!r}] is False everywhere: no region was hidden in these observations.")
    errors = result["errors"]
    genes = _genes(adata, genes, errors, key, visible=~masked)
    counts = _validate.check_counts(
        adata, result["params"].get("layer") or None, advice="put back the raw counts of the reconstruction"
    )
    setup = _validate.notes_of(adata).get("setup", {})
    slides = slide_sites(adata, setup.get("grid_key", _keys.GRID), slide_key=setup.get("slide_key") or None)
    slides = [slide for slide in slides if masked[slide.observations].any()]

    columns = adata.var_names.get_indexer(genes)
    rows = []
    for slide in slides:
        hidden, shown = _near(slide, masked, context)
        truth = _by_site(slide, _log1p_cp10k(counts, slide.observations, columns))
        values = adata.layers[key][slide.observations][:, columns]
        prediction = _by_site(slide, values.toarray() if sparse.issparse(values) else np.asarray(values))
        for position, gene in enumerate(genes):
            rows.append((slide, gene, truth[:, position], prediction[:, position], hidden, shown))

    corners = [slide.cells[shown].reshape(-1, 2) for slide, _, _, _, _, shown in rows]
    aspect = max(np.ptp(corner[:, 0]) / np.ptp(corner[:, 1]) for corner in corners)
    width, height = (_PANEL, _PANEL / aspect) if aspect > 1 else (_PANEL * aspect, _PANEL)
    with figure(3 * width + 1.6, len(rows) * (height + 0.25), show=show, save=save) as fig:
        axes = fig.subplots(len(rows), 3, squeeze=False)
        for panels, (slide, gene, *values) in zip(axes, rows, strict=True):
            _draw_gene(panels, slide, *values, cmap=cmap)
            name = f"{slide.name}: {gene}" if len(slides) > 1 else gene
            panels[0].set_title(f"{name}, measured")
            panels[1].set_title(f"reconstructed ($r$ = {errors.loc[gene, 'pearson']:.2f})")
            panels[2].set_title(f"error (MSE = {errors.loc[gene, 'mse']:.2f})")
    return fig


def _draw_gene(
    panels: Sequence[Axes],
    slide: SlideSites,
    truth: np.ndarray,
    prediction: np.ndarray,
    hidden: np.ndarray,
    shown: np.ndarray,
    *,
    cmap: str,
) -> None:
    fig = panels[0].figure
    error = np.where(hidden, prediction - truth, np.nan)
    visible = np.concatenate([truth[shown], prediction[shown]])
    lowest = float(np.nanmin(visible, initial=np.inf))
    largest = max(float(np.nanmax(visible, initial=0.0)), lowest + 1e-6)
    widest = max(float(np.nanmax(np.abs(error), initial=0.0)), 1e-6)
    expression = Normalize(lowest, largest)
    images = [
        _draw_sites(panels[0], slide, truth, shown, cmap, expression, LIGHT_GREY),
        _draw_sites(panels[1], slide, prediction, shown, cmap, expression, LIGHT_GREY),
        _draw_sites(panels[2], slide, error, shown, "RdBu_r", Normalize(-widest, widest), _UNSEEN),
    ]
    border = outline(slide.cells[hidden])
    corners = slide.cells[shown].reshape(-1, 2)
    margin = 0.02 * np.ptp(corners, axis=0).max()
    for ax, color in zip(panels, ("white", "white", "black"), strict=True):
        # A dark line under a light one is seen on dark and light colours alike.
        ax.add_collection(LineCollection(border, colors="black", linewidths=2.2 if color == "white" else 1.0))
        if color == "white":
            ax.add_collection(LineCollection(border, colors=color, linewidths=0.9))
        tissue_axes(ax, tuple(corners.min(axis=0) - margin), tuple(corners.max(axis=0) + margin))
    options = {"shrink": 0.75, "aspect": 15, "pad": 0.02}
    fig.colorbar(images[1], ax=list(panels[:2]), label="log1p CP10k", **options)
    fig.colorbar(images[2], ax=panels[2], label="difference", **options)


def _draw_sites(
    ax: Axes, slide: SlideSites, values: np.ndarray, shown: np.ndarray, cmap: str, norm: Normalize, missing: str
) -> PolyCollection:
    from matplotlib import colormaps

    # Edges in the face's colour close the hairlines between cells that renderers leave.
    collection = PolyCollection(
        list(slide.cells[shown]),
        array=np.ma.masked_invalid(values[shown]),
        cmap=colormaps[cmap].with_extremes(bad=missing),
        norm=norm,
        edgecolors="face",
        linewidths=0.3,
    )
    ax.add_collection(collection)
    return collection


def _genes(
    adata: AnnData, genes: str | Sequence[str] | None, errors: pd.DataFrame, key: str, *, visible: np.ndarray
) -> list[str]:
    known = errors.index[errors["mse"].notna() & errors.index.isin(adata.var_names)]
    if genes is None:
        if not len(known):
            raise ValueError(
                f"adata.uns[{key!r}]['errors'] has no gene of adata.var_names: reconstruct the region again."
            )
        measured = sparse.csc_matrix(adata.layers[key][visible])[:, adata.var_names.get_indexer(known)]
        variance = measured.multiply(measured).mean(axis=0) - np.square(measured.mean(axis=0))
        return list(known[np.argsort(-np.asarray(variance).ravel(), kind="stable")[:3]])
    genes = [genes] if isinstance(genes, str) else list(genes)
    if not genes:
        raise ValueError("`genes` must name at least one gene, found none; leave it out for the three that vary most.")
    absent = [gene for gene in genes if gene not in adata.var_names]
    if absent:
        raise KeyError(
            f"`genes` {_validate.listing(absent)} are not in adata.var_names (e.g. {_validate.listing(adata.var_names, 3)})."
        )
    unknown = [gene for gene in genes if gene not in known]
    if unknown:
        raise ValueError(
            f"`genes` {_validate.listing(unknown)} were not reconstructed; choose among the {len(known)} genes of "
            f"adata.uns[{key!r}]['errors'] (e.g. {_validate.listing(known, 3)})."
        )
    return genes


def _near(slide: SlideSites, masked: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Which sites were hidden, and which are in the smallest box around them with the context added."""
    hidden = np.zeros(len(slide.index), dtype=bool)
    hidden[slide.site[masked[slide.observations]]] = True
    low, high = slide.index[hidden].min(axis=0) - context, slide.index[hidden].max(axis=0) + context
    return hidden, ((slide.index >= low) & (slide.index <= high)).all(axis=1)


def _by_site(slide: SlideSites, values: np.ndarray) -> np.ndarray:
    return pd.DataFrame(values).groupby(slide.site).mean().to_numpy()


def _log1p_cp10k(counts: np.ndarray | sparse.spmatrix, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    chosen = counts[rows]
    total = np.asarray(chosen.sum(axis=1), dtype=float).reshape(-1, 1)
    chosen = chosen[:, columns]
    chosen = chosen.toarray() if sparse.issparse(chosen) else chosen
    # Tissue without counts has no expression to show, rather than none.
    return np.log1p(np.divide(1e4 * chosen, total, out=np.full(chosen.shape, np.nan), where=total > 0))
