from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import colormaps
from matplotlib.collections import EllipseCollection
from matplotlib.patches import Patch

from stimage import _keys, _validate
from stimage.pl._alignment_examples import (
    PredictedGene,
    RetrievedSpots,
    choose_queries,
    compare_genes,
    retrieve,
    spot_distance,
)
from stimage.pl._figure import LIGHT_GREY, figure, tissue_axes
from stimage.pl._sites import observation_diameter

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

    from stimage.models import STAlign

_PANEL = 2.1  # inches, the longer side of a panel of a gene
_PATCH = 0.95
_HEADING = 4.4  # as wide as the heading of the retrieved patches
_COLUMNS = 4  # genes side by side, at most
_QUERY, _FOUND, _OWN = "black", "#56B4E9", "#D55E00"  # apart from each other and from the stain for all eyes


def alignment(
    adata: AnnData,
    *,
    genes: str | Sequence[str] | None = None,
    predicted_key: str = _keys.PREDICTED,
    layer: str | None = None,
    aligner: STAlign | None = None,
    queries: str | Sequence[str] | None = None,
    n_neighbors: int = 5,
    image_dir: str | PathLike[str] | None = None,
    cache_dir: str | PathLike[str] | None = None,
    library_id: str | None = None,
    cmap: str = "viridis",
    show: bool | None = None,
    save: str | Path | None = None,
) -> Figure:
    """Expression from images: predicted beside measured genes, and the spots that an image patch retrieves.

    Genes and patches are examples. The genes shown by default are even chosen by the result, so their correlations are no
    score: :func:`stimage.benchmark.evaluate_expression` and :func:`stimage.benchmark.retrieval_recall` measure.

    Parameters
    ----------
    adata
        AnnData after :func:`stimage.tl.predict_expression`, with the raw counts.
    genes
        Genes to show; by default, of the 50 predicted genes that vary most over the slide, the three whose prediction
        correlates best with the measurement.
    predicted_key
        ``key_added`` of the prediction.
    layer
        Layer with raw counts; by default that of ``setup_anndata``, or ``X``.
    aligner
        A trained aligner: shows retrieval as well, by its vectors of spots, from the counts that ``setup_anndata`` names.
    queries
        Names of the spots whose patch is looked up; by default three in different parts of the slide.
    n_neighbors
        Spots to show for each query.
    image_dir
        Folder of the image files that ``uns["spatial"]`` names by relative paths.
    cache_dir
        Folder that keeps image features; by default in the user's cache.
    library_id
        Which slide, named as its entry of ``uns["spatial"]``; may be left out if there is one.
    cmap
        Colour map of the expression.
    show
        Open a window with the figure. A notebook shows the returned figure without it.
    save
        File to write the figure to; its ending says the format.

    Returns
    -------
    matplotlib.figure.Figure
        A column for each gene: log1p of counts per 10,000 as measured and as predicted, in colour scales of their own
        (predictions are shrunk) from the 1st to the 99th percentile; *r* is the Pearson correlation over the spots with counts. With ``aligner``, a row for each
        query: its place (black) and those of its neighbours on the slide, its image patch, and the patches of the spots of
        the slide whose gene vectors are nearest to its image vector, the nearest first. Patches are as wide as the widest
        that the aligner uses; the query's own spot is framed if it is found.

    Raises
    ------
    KeyError
        If prediction, grid, genes, queries, the slide or its image are missing.
    TypeError
        If ``aligner`` is not an aligner.
    ValueError
        If genes were not predicted, counts are not raw counts, or ``aligner`` was built without images.

    Examples
    --------
    >>> import numpy as np
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> adata.layers["stimage_predicted"] = np.log1p(adata.X.toarray())  # as sti.tl.predict_expression would
    >>> figure = sti.pl.alignment(adata)
    """
    _validate.check_anndata(adata)
    _validate.check_size(adata)
    _validate.check_unique_names(adata, genes=True)
    _validate.check_text("predicted_key", predicted_key)
    _validate.check_positive("n_neighbors", n_neighbors)
    if aligner is not None:
        _check_aligner(aligner)
    if predicted_key not in adata.layers and predicted_key not in adata.obsm:
        raise KeyError(
            f"No prediction: adata.layers[{predicted_key!r}] or adata.obsm[{predicted_key!r}] is needed (found layers "
            f"{_validate.listing(_validate.layer_names(adata))}): run `stimage.tl.predict_expression(adata, aligner)` "
            "first, or pass its `key_added` as `predicted_key`."
        )
    setup = _validate.notes_of(adata).get("setup", {})
    grid_key = setup.get("grid_key", _keys.GRID)
    _validate.check_grid(adata, grid_key)
    params = adata.uns[grid_key]["params"]
    spatial_key = str(params["spatial_key"])
    slide_key = setup.get("slide_key") or str(params["slide_key"]) or None
    name, adata = _one_slide(adata, slide_key, library_id)
    coordinates = _validate.check_spatial(adata, spatial_key)
    counts = _validate.check_counts(adata, layer or setup.get("layer") or None)
    has_counts = np.asarray(counts.sum(axis=1)).ravel() > 0
    if not has_counts.any():
        raise ValueError("No spot has counts: there is nothing to compare the prediction with.")
    shown = compare_genes(adata, genes, counts, has_counts, predicted_key)
    found = []
    if aligner is not None:
        from stimage.data import SlideImage, square_boxes
        from stimage.models.alignment._setup import library_of

        library_id = library_of(adata, name, 1)
        image = SlideImage.from_anndata(adata, library_id=library_id, image_dir=image_dir, spatial_key=spatial_key)
        chosen = choose_queries(adata, queries, coordinates, has_counts)
        vectors = {
            modality: aligner.get_latent_representation(
                adata, modality=modality, level="spot", image_dir=image_dir, cache_dir=cache_dir
            )
            for modality in ("image", "gene")
        }
        width = max(aligner.patches.spot_widths) * spot_distance(coordinates)
        found = retrieve(vectors, chosen, has_counts, n_neighbors, image, square_boxes(coordinates, width))
    diameter = observation_diameter(adata, coordinates, name, grid_key=grid_key, spatial_key=spatial_key)
    return _draw(shown, found, coordinates, diameter, cmap, show=show, save=save)


def _check_aligner(aligner: object) -> None:
    from stimage.models import STAlign

    if not isinstance(aligner, STAlign):
        raise TypeError(
            f"`aligner` must be a stimage.models.STAlign, found {type(aligner).__name__}: train one with "
            "`stimage.tl.align(adatas)`."
        )
    if aligner.image_encoder is None:
        raise ValueError(
            "`aligner` was built without images (`image_encoder=None`) and has no image vectors to look spots up with: "
            "leave it out, or align with an image encoder."
        )


def _one_slide(adata: AnnData, slide_key: str | None, library_id: str | None) -> tuple[str, AnnData]:
    names, codes = _validate.slide_codes(adata, slide_key)
    if len(names) == 1:
        return names[0], adata
    if library_id not in names:
        found = "is not given" if library_id is None else f"is {library_id!r}"
        raise KeyError(f"adata has {len(names)} slides ({_validate.listing(names)}), `library_id` {found}: pass one.")
    return library_id, adata[codes == names.index(library_id)].copy()


def _draw(
    genes: list[PredictedGene],
    queries: list[RetrievedSpots],
    coordinates: np.ndarray,
    diameter: float,
    cmap: str,
    *,
    show: bool | None,
    save: str | Path | None,
) -> Figure:
    extent = np.ptp(coordinates, axis=0) + diameter
    panel_width, panel_height = _PANEL * extent / extent.max()
    n_blocks = -(-len(genes) // _COLUMNS)
    n_columns, n_rows = -(-len(genes) // n_blocks), 2 * n_blocks
    size = np.array([n_columns * (panel_width + 0.5), n_rows * (panel_height + 0.25)])
    below = np.zeros(2)
    if queries:
        width = max((2 + len(queries[0].found)) * (_PATCH + 0.1), _HEADING)
        below = np.array([width, len(queries) * (_PATCH + 0.3) + 0.8])
    with figure(max(size[0], below[0]), size[1] + below[1], show=show, save=save) as fig:
        # A compressed layout cuts off what two parts of a figure have at its border.
        fig.set_layout_engine("constrained", h_pad=0.06)
        parts = fig.subfigures(2, 1, height_ratios=[size[1], below[1]]) if queries else [fig]
        axes = parts[0].subplots(n_rows, n_columns, squeeze=False)
        for number, gene in enumerate(genes):
            block, column = divmod(number, n_columns)
            r = f"$r$ = {gene.correlation:.2f}" if np.isfinite(gene.correlation) else "$r$ undefined"
            rows = {"measured": (gene.measured, gene.name), "predicted": (gene.predicted, r)}
            for ax, (label, (values, title)) in zip(axes[2 * block :, column], rows.items(), strict=False):
                spots = _draw_spots(ax, coordinates, diameter)
                spots.set(array=np.ma.masked_invalid(values), cmap=colormaps[cmap].with_extremes(bad=LIGHT_GREY))
                spots.set_clim(*_color_limits(values))
                ax.set_title(title)
                parts[0].colorbar(spots, ax=ax, shrink=0.75, aspect=15, pad=0.02)
                if column == 0:
                    text = f"{label}\nlog1p CP10k"
                    ax.text(-0.04, 0.5, text, transform=ax.transAxes, rotation=90, ha="right", va="center")
        for ax in axes.flat:
            if not ax.collections:
                ax.remove()
        if queries:
            _draw_retrieval(parts[1], queries, coordinates, diameter)
    return fig


def _draw_retrieval(fig: SubFigure, queries: list[RetrievedSpots], coordinates: np.ndarray, diameter: float) -> None:
    axes = fig.subplots(len(queries), 2 + len(queries[0].found), squeeze=False)
    fig.suptitle("Spots whose gene vectors are nearest to the query's image vector", fontsize=9)
    # As square as the patches beside it.
    low, high = coordinates.min(axis=0), coordinates.max(axis=0)
    middle, half = (low + high) / 2, (high - low).max() / 2 + 0.6 * diameter
    for panels, query in zip(axes, queries, strict=True):
        colors = np.full(len(coordinates), LIGHT_GREY)
        colors[query.found], colors[query.spot] = _FOUND, _QUERY
        _draw_spots(panels[0], coordinates, diameter).set(facecolor=colors)
        tissue_axes(panels[0], tuple(middle - half), tuple(middle + half))
        frames = [_QUERY, *(_OWN if spot == query.spot else _FOUND for spot in query.found)]
        for ax, pixels, color in zip(panels[1:], query.patches, frames, strict=True):
            ax.imshow(pixels, interpolation="antialiased")
            ax.set(xticks=[], yticks=[])
            for spine in ax.spines.values():
                spine.set(edgecolor=color, linewidth=2.5 if color == _OWN else 1.2)
        panels[1].set_xlabel(f"own spot: rank {query.rank} / {query.n_candidates}", fontsize=6.5, labelpad=3)
    for ax, title in zip(axes[0], ["slide", "query", *range(1, len(queries[0].found) + 1)], strict=True):
        ax.set_title(title)
    names = {_QUERY: "query", _FOUND: "nearest spots, in order", _OWN: "the query's own spot"}
    handles = [Patch(facecolor="white", edgecolor=color, linewidth=1.5, label=name) for color, name in names.items()]
    fig.legend(handles=handles, loc="outside lower center", ncols=3, handlelength=0.9, handleheight=0.9)


def _draw_spots(ax: Axes, coordinates: np.ndarray, diameter: float) -> EllipseCollection:
    diameters = np.full(len(coordinates), diameter)
    spots = EllipseCollection(
        diameters, diameters, 0, units="xy", offsets=coordinates, offset_transform=ax.transData, linewidths=0
    )
    ax.add_collection(spots)
    margin = 0.6 * diameter
    tissue_axes(ax, tuple(coordinates.min(axis=0) - margin), tuple(coordinates.max(axis=0) + margin))
    return spots


def _color_limits(values: np.ndarray) -> tuple[float, float]:
    """A few extreme spots do not take the colours from the others, unless only they differ."""
    low, high = np.nanquantile(values, [0.01, 0.99])
    return (float(low), float(high)) if low < high else (float(np.nanmin(values)), float(np.nanmax(values)))
