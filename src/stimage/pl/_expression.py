from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.collections import EllipseCollection
from scipy import sparse

from stimage import _keys, _validate
from stimage._libraries import image_libraries, library_name
from stimage.pl._figure import LIGHT_GREY, figure, tissue_axes
from stimage.pl._sites import observation_diameter

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.figure import Figure

_PANEL = 2.4  # inches, the longer side of a panel
_N_GENES = 3


def expression(
    adata: AnnData,
    *,
    genes: str | Sequence[str] | None = None,
    key: str = _keys.PREDICTED,
    grid_key: str = _keys.GRID,
    spatial_key: str = _keys.SPATIAL,
    img: bool = True,
    cmap: str = "viridis",
    ncols: int = 4,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Figure:
    """Predicted expression on one slide, beside the picture that it was predicted from.

    Nothing measured is shown and needed: :func:`stimage.pl.alignment` compares with counts.

    Parameters
    ----------
    adata
        AnnData after :func:`stimage.tl.predict_expression`, of spots or of an image alone, or after
        :func:`stimage.tl.query`.
    genes
        Genes to show; by default the three that are predicted to vary most. With a ``key`` in ``obs`` there are none.
    key
        Layer or data frame in ``obsm`` with the prediction, or column of ``obs`` with one number for each place.
    grid_key
        ``key_added`` of the grid, which tells the distance of neighbours.
    spatial_key
        Key in ``obsm`` of x and y (n_obs, 2), in pixels of the full-resolution image.
    img
        Show the picture ``uns["spatial"][library]["images"]`` first, where there is one.
    cmap
        Colour map of the expression.
    ncols
        Panels in a row.
    show
        Open a window with the figure. A notebook shows the returned figure without it.
    save
        File to write the figure to; its ending says the format.

    Returns
    -------
    matplotlib.figure.Figure
        A panel for each gene, in colours from the 1st to the 99th percentile.

    Raises
    ------
    KeyError
        If prediction, coordinates or genes are missing.
    ValueError
        If a gene was not predicted.

    Examples
    --------
    >>> import numpy as np
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> adata.layers["stimage_predicted"] = np.log1p(adata.X.toarray())  # as sti.tl.predict_expression would
    >>> figure = sti.pl.expression(adata, genes=["GENE00001"])
    """
    _validate.check_anndata(adata)
    _validate.check_size(adata)
    _validate.check_text("key", key)
    _validate.check_positive("ncols", ncols)
    coordinates = _validate.check_spatial(adata, spatial_key)
    panels = _values(adata, key, genes)
    picture = _picture(adata) if img else None
    diameter = observation_diameter(
        adata, coordinates, _slide_name(adata, grid_key), grid_key=grid_key, spatial_key=spatial_key
    )
    low, high = coordinates.min(axis=0) - diameter, coordinates.max(axis=0) + diameter
    n_panels = len(panels) + (picture is not None)
    n_columns = min(ncols, n_panels)
    n_rows = -(-n_panels // n_columns)
    width, height = _PANEL * (high - low) / (high - low).max()
    with figure(n_columns * (width + 0.5), n_rows * (height + 0.3), show=show, save=save) as fig:
        axes = list(fig.subplots(n_rows, n_columns, squeeze=False).flat)
        if picture is not None:
            pixels, scale = picture
            rows, columns = pixels.shape[:2]
            axes[0].imshow(pixels, extent=(0, columns / scale, rows / scale, 0), interpolation="antialiased")
            tissue_axes(axes[0], tuple(low), tuple(high))
        for ax, (title, values) in zip(axes[n_panels - len(panels) :], panels.items(), strict=False):
            sizes = np.full(len(coordinates), diameter)
            spots = EllipseCollection(sizes, sizes, 0, units="xy", offsets=coordinates, offset_transform=ax.transData)
            spots.set(linewidths=0, array=np.ma.masked_invalid(values))
            spots.set_cmap(colormaps[cmap].with_extremes(bad=LIGHT_GREY))
            spots.set_clim(*np.nanquantile(values, [0.01, 0.99]) if np.isfinite(values).any() else (0, 1))
            ax.add_collection(spots)
            tissue_axes(ax, tuple(low), tuple(high))
            ax.set_title(title)
            fig.colorbar(spots, ax=ax, shrink=0.75, aspect=15, pad=0.02)
        for ax in axes[n_panels:]:
            ax.remove()
    return fig


def _values(adata: AnnData, key: str, genes: str | Sequence[str] | None) -> dict[str, np.ndarray]:
    """Values of each panel by its title."""
    if key in adata.obs and key not in adata.layers and key not in adata.obsm:
        if genes is not None:
            raise ValueError(f"`genes` were given, and `key`={key!r} is one number for each place: leave them out.")
        return {key: adata.obs[key].to_numpy(dtype=np.float64)}
    if key not in adata.layers and key not in adata.obsm:
        raise KeyError(
            f"No prediction: adata.layers[{key!r}], adata.obsm[{key!r}] or adata.obs[{key!r}] is needed (found layers "
            f"{_validate.listing(_validate.layer_names(adata))}): run `stimage.tl.predict_expression` first, or pass its "
            "`key_added` as `key`."
        )
    frame = key not in adata.layers
    names = adata.obsm[key].columns if frame else adata.var_names
    values = adata.obsm[key].to_numpy() if frame else adata.layers[key]
    if genes is None:
        dense = values.toarray() if sparse.issparse(values) else np.asarray(values)
        spread = np.where(np.isfinite(dense).all(axis=0), dense.astype(np.float64), np.nan).std(axis=0)
        order = np.argsort(-np.nan_to_num(spread, nan=-1.0), kind="stable")[:_N_GENES]
        genes = [str(names[position]) for position in order]
    genes = [genes] if isinstance(genes, str) else list(genes)
    _validate.check_positive("len(genes)", len(genes))
    missing = [gene for gene in genes if gene not in names]
    if missing:
        raise KeyError(f"`genes`: there is no {_validate.listing(missing, 5)}.")
    panels = {}
    for gene in genes:
        column = values[:, names.get_loc(gene)]
        column = (column.toarray() if sparse.issparse(column) else np.asarray(column)).ravel().astype(np.float64)
        if np.isnan(column).all():
            raise ValueError(f"`genes`: {gene!r} was not predicted, the aligner does not know it.")
        panels[gene] = column
    return panels


def _slide_name(adata: AnnData, grid_key: str) -> str:
    if not _validate.has_grid(adata, grid_key):
        return ""
    slides = adata.uns[grid_key]["slides"].index
    if len(slides) > 1:
        raise ValueError(f"adata has {len(slides)} slides ({_validate.listing(slides, 5)}): pass one, `adata[...]`.")
    return str(slides[0])


def _picture(adata: AnnData) -> tuple[np.ndarray, float] | None:
    """The picture of the slide and its pixels for each one of the full-resolution image."""
    library = image_libraries(adata).get(library_name(adata, None, only_slide=True) or "", {})
    for name in ("hires", "lowres"):
        scale = library.get("scalefactors", {}).get(f"tissue_{name}_scalef")
        if name in library.get("images", {}) and scale is not None:
            return np.asarray(library["images"][name]), float(scale)
    return None
