from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.patches import Patch

from stimage import _keys, _validate
from stimage._labels import natural_order
from stimage._libraries import image_libraries, library_name
from stimage.pl._figure import LIGHT_GREY, figure, tissue_axes
from stimage.pl._palette import category_colors
from stimage.pl._sites import observation_diameter

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

_PANEL = 2.6  # inches, the longer side of the largest panel
_DIAMETER = "spot_diameter_fullres"
_MISSING = "not annotated"
_LEGEND_ROWS = 16
_MANY = 50_000
"""Observations of a panel from which they are drawn as one collection: a shape for each takes 4 kB and 0.1 ms."""
_MOST_SLIDES = 40  # in one figure, unless they are named: more take minutes and are too small to read


def domains(
    adata: AnnData,
    *,
    color: str | Sequence[str] = _keys.DOMAIN,
    slide_key: str | None = None,
    slides: str | Sequence[str] | None = None,
    spatial_key: str = _keys.SPATIAL,
    grid_key: str = _keys.GRID,
    img: bool | None = None,
    palette: Mapping[str, str] | Sequence[str] | None = None,
    size: float = 1.0,
    ncols: int = 4,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Figure:
    """Domains, or any other labels, on the slide.

    Parameters
    ----------
    adata
        AnnData with labels and spatial coordinates.
    color
        Column of ``obs`` with the labels, or several, which are shown side by side. With several slides each gets rows
        of its own.
    slide_key
        Key in ``obs`` of the slide of each observation. By default the one that the grid was built with, if any.
    slides
        Slides to show, in this order. By default all, which may be 40 at most: more are shown when they are named.
    spatial_key
        Key in ``obsm`` of x and y (n_obs, 2), in pixels of the full-resolution image if there is one.
    grid_key
        ``key_added`` of the grid, which has the distance of neighbours. Without a grid it is estimated.
    img
        Draw the tissue image ``uns["spatial"][library]["images"]``. By default where there is one. With several slides
        the libraries are those called as the slides.
    palette
        Colours by category, or in the order of the categories. By default those of ``uns[f"{color}_colors"]``, as scanpy
        keeps them, else colours that differ in the common kinds of colour blindness.
    size
        Diameter of an observation relative to its true one on an image, and to the one at which neighbours nearly touch
        without an image.
    ncols
        Panels in a row.
    show
        Open a window with the figure. A notebook shows the returned figure without it.
    save
        File to write the figure to; its ending says the format.

    Returns
    -------
    matplotlib.figure.Figure
        One panel per slide and column, y pointing down as in the image. Missing labels are light grey.

    Raises
    ------
    KeyError
        If labels, slides, coordinates or a requested tissue image are missing.
    TypeError
        If ``color`` names numbers that are not labels.
    ValueError
        If coordinates are not finite, ``palette`` has too few colours, or there are more than 40 slides and none is chosen.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> figure = sti.pl.domains(adata, color="domain")
    """
    _validate.check_anndata(adata)
    _validate.check_size(adata, n_obs=1, n_vars=0)
    _validate.check_range("size", size, 0, np.inf)
    _validate.check_positive("ncols", ncols)
    keys = [color] if isinstance(color, str) else list(color)
    if not keys:
        raise ValueError("`color` must name at least one column of adata.obs, found none.")
    labels = {key: _labels(adata, key) for key in keys}
    colors = {key: category_colors(adata, key, labels[key].cat.categories, palette) for key in keys}
    for key in keys:
        labels[key], colors[key] = _in_natural_order(labels[key], colors[key])
    coordinates = _validate.check_spatial(adata, spatial_key)
    has_grid = _validate.has_grid(adata, grid_key)
    if slide_key is None and has_grid:
        slide_key = str(adata.uns[grid_key]["params"]["slide_key"]) or None
    names, codes = _validate.slide_codes(adata, slide_key)
    chosen = _chosen_slides(slides, names, slide_key)
    libraries = []
    for name in chosen:
        members = np.flatnonzero(codes == names.index(name))
        found = library_name(adata, name if slide_key else None, members, only_slide=slide_key is None)
        libraries.append(_library(adata, found, img))

    blocks = []
    for name, library in zip(chosen, libraries, strict=True):
        rows = np.flatnonzero(codes == names.index(name))
        if library is None:
            grid_name = name
            if slide_key is None and has_grid:
                grid_name = str(adata.uns[grid_key]["slides"].index[0])
            diameter = observation_diameter(
                adata, coordinates[rows], grid_name, grid_key=grid_key, spatial_key=spatial_key
            )
            library = {"images": {}, "scalefactors": {"tissue_hires_scalef": 1.0, "spot_diameter_fullres": diameter}}
        blocks.append((name, rows, library))
    return _draw(blocks, labels, colors, coordinates, size, ncols, titled=slide_key is not None, show=show, save=save)


def _chosen_slides(slides: str | Sequence[str] | None, names: list[str], slide_key: str | None) -> list[str]:
    """Names of the slides to show."""
    if slides is None:
        if len(names) > _MOST_SLIDES:
            raise ValueError(
                f"`adata` has {len(names)} slides, a figure shows {_MOST_SLIDES} unless more are named: choose some with "
                f"`slides=`, e.g. `slides={names[:4]}`."
            )
        return names
    chosen = [slides] if isinstance(slides, str) else list(slides)
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"`slides` must name at least one slide and none twice, found {_validate.listing(chosen)}.")
    unknown = [name for name in chosen if name not in names]
    if unknown:
        where = (
            "`slide_key` is not given and `adata` is one slide" if slide_key is None else f"`slide_key`={slide_key!r}"
        )
        raise KeyError(
            f"`slides` names {_validate.listing(unknown, 3)}, which `adata` does not have ({where}); available: "
            f"{_validate.listing(names, 30)}."
        )
    return chosen


def _draw(
    blocks: list[tuple[str, np.ndarray, dict[str, Any]]],
    labels: dict[str, pd.Series],
    colors: dict[str, list[str]],
    coordinates: np.ndarray,
    size: float,
    ncols: int,
    *,
    titled: bool,
    show: bool | None,
    save: str | Path | None,
) -> Figure:
    # One slide: its keys side by side, each with a legend. Several: rows of slides, one legend for each key.
    several = len(blocks) > 1
    n_columns = min(ncols, len(blocks) if several else len(labels))
    rows_per_key = -(-len(blocks) // n_columns) if several else 1
    n_rows = rows_per_key * len(labels) if several else -(-len(labels) // n_columns)
    extents = [np.ptp(coordinates[rows], axis=0) for _, rows, _ in blocks]
    # Slides of one figure may have units of their own, so each is scaled to its panel.
    aspect = max(extent[0] / extent[1] if extent.min() > 0 else 1.0 for extent in extents)
    width, height = (_PANEL, _PANEL / aspect) if aspect > 1 else (_PANEL * aspect, _PANEL)
    width, height = max(width, 1.0), max(height, 1.0)
    legends = [_legend_width(key, labels[key]) for key in labels]
    beside = max(legends) if several else sum(max(legends[column::n_columns]) for column in range(n_columns))

    with figure(n_columns * width + beside, n_rows * (height + 0.3), show=show, save=save) as fig:
        axes = fig.subplots(n_rows, n_columns, squeeze=False)
        for position, key in enumerate(labels):
            panels = axes[position * rows_per_key : (position + 1) * rows_per_key].ravel() if several else None
            for number, (name, rows, library) in enumerate(blocks):
                ax = axes.flat[position] if panels is None else panels[number]
                _panel(ax, labels[key].iloc[rows], colors[key], coordinates[rows], library, size)
                ax.set_title(f"{name}: {key}" if titled and not several else name if several else key)
            last = axes.flat[position] if panels is None else panels[min(n_columns, len(blocks)) - 1]
            _legend(last, key if several else None, labels[key], colors[key])
        for ax in axes.flat:
            if not ax.collections:
                ax.remove()
    return fig


def _panel(
    ax: Axes, labels: pd.Series, colors: list[str], coordinates: np.ndarray, library: dict[str, Any], size: float
) -> None:
    from matplotlib.colors import ListedColormap

    # Missing is a label like the others: squidpy cannot colour missing ones where two labels share a colour.
    palette = [*colors, LIGHT_GREY]
    codes = np.where(labels.isna(), len(colors), labels.cat.codes)
    draw = _many_circles if len(labels) > _MANY else _circles
    # A rim keeps spots apart from the stain, whatever its colour.
    rim = {"linewidths": 0.4 if library["images"] else 0.0, "edgecolors": "white"}
    draw(ax, codes, ListedColormap(palette), coordinates, library, size, rim)
    scale = library["scalefactors"]["tissue_hires_scalef"]
    margin = (
        scale * library["scalefactors"]["spot_diameter_fullres"] * max(size, 1.0) * (2 if library["images"] else 0.6)
    )
    xy = scale * coordinates
    tissue_axes(ax, tuple(xy.min(axis=0) - margin), tuple(xy.max(axis=0) + margin))


def _circles(
    ax: Axes,
    codes: np.ndarray,
    palette: ListedColormap,
    coordinates: np.ndarray,
    library: dict[str, Any],
    size: float,
    rim: dict[str, Any],
) -> None:
    from anndata import AnnData
    from squidpy.pl import spatial_scatter

    # Only what the panel shows, so that neither the order of libraries nor other entries of the AnnData matter.
    panel = AnnData(
        obs=pd.DataFrame(
            {"label": pd.Categorical.from_codes(codes, [str(code) for code in range(palette.N)])},
            index=np.arange(len(codes)).astype(str),
        ),
        obsm={"spatial": coordinates},
        uns={"spatial": {"slide": library}},
    )
    spatial_scatter(
        panel,
        shape="circle",
        color="label",
        img=bool(library["images"]),
        img_res_key="hires",
        size=size,
        palette=palette,
        legend_loc=None,
        title="",
        ax=ax,
        **rim,
    )


def _many_circles(
    ax: Axes,
    codes: np.ndarray,
    palette: ListedColormap,
    coordinates: np.ndarray,
    library: dict[str, Any],
    size: float,
    rim: dict[str, Any],
) -> None:
    """The same picture without an object for each observation; as pixels in files of shapes."""
    from matplotlib.collections import EllipseCollection

    for image in library["images"].values():
        ax.imshow(image)
    scale = library["scalefactors"]["tissue_hires_scalef"]
    diameter = size * scale * library["scalefactors"]["spot_diameter_fullres"]
    circles = EllipseCollection(
        [diameter],
        [diameter],
        [0.0],
        units="xy",
        offsets=scale * coordinates,
        offset_transform=ax.transData,
        facecolors=palette(codes),
        rasterized=True,
        **rim,
    )
    ax.add_collection(circles, autolim=False)


def _legend_names(labels: pd.Series) -> list[str]:
    return [*map(str, labels.cat.categories), *([_MISSING] if labels.isna().any() else [])]


def _legend_width(title: str, labels: pd.Series) -> float:
    """Inches, about: the panels fill what the legends leave."""
    names = _legend_names(labels)
    n_columns = -(-len(names) // _LEGEND_ROWS)
    return n_columns * (0.35 + 0.065 * max(map(len, [*names, title])))


def _legend(ax: Axes, title: str | None, labels: pd.Series, colors: list[str]) -> None:
    names = _legend_names(labels)
    handles = [Patch(facecolor=color, label=name) for name, color in zip(names, [*colors, LIGHT_GREY], strict=False)]
    ax.legend(
        handles=handles,
        title=title,
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.0,
        handlelength=0.9,
        handleheight=0.9,
        alignment="left",
        ncols=-(-len(handles) // _LEGEND_ROWS),
    )


def _labels(adata: AnnData, key: str) -> pd.Series:
    if key not in adata.obs and key == _keys.DOMAIN:
        raise KeyError(
            f"`color`={key!r} is not in adata.obs (available: {_validate.listing(adata.obs.columns, 30)}): run "
            "`stimage.tl.domains(adata)` first."
        )
    values = _validate.check_obs_key(adata, key, "color")
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values
    if pd.api.types.is_float_dtype(values) or (pd.api.types.is_integer_dtype(values) and values.nunique() > 100):
        raise TypeError(
            f"adata.obs[{key!r}] (`color`) must hold labels, found numbers ({values.dtype}): make it a categorical, or "
            "use `squidpy.pl.spatial_scatter` for measurements."
        )
    return values.astype("category")


def _in_natural_order(labels: pd.Series, colors: list[str]) -> tuple[pd.Series, list[str]]:
    """Categories in the order that people count in, unless they have an order; each keeps its colour."""
    names = [str(name) for name in labels.cat.categories]
    if labels.cat.ordered or names != sorted(names):  # an order that someone chose
        return labels, colors
    order = [names.index(name) for name in natural_order(names)]
    return labels.cat.reorder_categories(labels.cat.categories[order]), [colors[position] for position in order]


def _library(adata: AnnData, name: str | None, img: bool | None) -> dict[str, Any] | None:
    """Image and scale factors of a slide under the names that squidpy takes by default; None without image."""
    if img is False:
        return None
    libraries = image_libraries(adata)
    entry = libraries.get(name, {})
    scales = entry.get("scalefactors", {})
    images = entry.get("images", {})
    for resolution in sorted(images, key=lambda name: name != "hires"):
        if f"tissue_{resolution}_scalef" in scales and "spot_diameter_fullres" in scales:
            factors = {"tissue_hires_scalef": f"tissue_{resolution}_scalef", _DIAMETER: _DIAMETER}
            scalefactors = {
                ours: _validate.positive_number(f"adata.uns['spatial'][{name!r}]['scalefactors'][{key!r}]", scales[key])
                for ours, key in factors.items()
            }
            return {"images": {"hires": np.asarray(images[resolution])}, "scalefactors": scalefactors}
    if img:
        raise KeyError(
            "`img`=True needs adata.uns['spatial'][library] with 'images' and 'scalefactors' (tissue_hires_scalef, "
            f"spot_diameter_fullres) for each slide, found libraries {_validate.listing(libraries)}: pass `img=None`, or "
            "name the libraries as the slides."
        )
    return None
