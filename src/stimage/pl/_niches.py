from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import EllipseCollection
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from stimage import _keys, _validate
from stimage._libraries import library_name
from stimage.pl._figure import figure, tissue_axes
from stimage.pl._palette import PALETTE

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stimage.data import SlideImage

_SLIDE = 3.6  # inches, the longer side
_PATCH = 0.9
_OVERVIEW_PIXELS = 1000
_PATCH_PIXELS = 224
_COLORS = tuple(color for color in PALETTE if color not in ("#CC79A7",))  # pink is the colour of the stain


def niches(
    adata: AnnData,
    *,
    spots: Sequence[str] | None = None,
    niche_key: str = _keys.NICHE,
    image_dir: str | PathLike[str] | None = None,
    library_id: str | None = None,
    slide_key: str | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Figure:
    """Niches on the tissue image: where a few spots and their niches are, and the patches that are cut for them.

    Parameters
    ----------
    adata
        AnnData after :func:`stimage.pp.build_niches`, with a tissue image in ``uns["spatial"]``.
    spots
        Names of spots of one slide. By default four in different parts of the slide.
    niche_key
        ``key_added`` of the niches.
    image_dir
        Folder of the full-resolution image, see :meth:`stimage.data.SlideImage.from_anndata`. Where the file is not
        found, the image in the AnnData is shown.
    library_id
        Which slide, and which library of ``uns["spatial"]``; they must be called the same if there are several. May be left
        out if there is one, or if ``spots`` says which.
    slide_key
        Key in ``obs`` of the slide of each observation. By default the one that the niches were built with.
    show
        Open a window with the figure. A notebook shows the returned figure without it.
    save
        File to write the figure to; its ending says the format.

    Returns
    -------
    matplotlib.figure.Figure
        Left, the tissue with all spots; of each chosen spot, its patch (the smaller box), the members of its niche and the
        niche's box. Right, a row for each: the patch of the spot and of the niche, in true proportions.

    Raises
    ------
    KeyError
        If niches, spots, slides or the image are missing.
    ValueError
        If spots are of several slides, or the image does not fit the coordinates.

    Examples
    --------
    >>> import numpy as np
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> adata.uns["spatial"] = {
    ...     "slide": {
    ...         "images": {"hires": np.full((250, 300, 3), 220, dtype=np.uint8)},
    ...         "scalefactors": {"tissue_hires_scalef": 0.1, "spot_diameter_fullres": 55.0},
    ...     }
    ... }
    >>> sti.pp.compact_grid(adata)
    >>> sti.pp.build_niches(adata)
    >>> figure = sti.pl.niches(adata)
    """
    from stimage.data import SlideImage, square_boxes

    connectivities, boxes, params, table = _read_niches(adata, niche_key)
    coordinates = _validate.check_spatial(adata, str(params["spatial_key"]))
    slide_key = str(params["slide_key"]) or None if slide_key is None else slide_key
    chosen = None if spots is None else _find_spots(adata, spots)
    slide, members = _choose_slide(adata, slide_key, library_id, chosen)
    options: dict[str, Any] = {"library_id": library_id, "spatial_key": str(params["spatial_key"])}
    if len(members) < adata.n_obs:
        options |= {"library_id": slide, "slide_key": slide_key}
    image = SlideImage.from_anndata(adata, image_dir=image_dir, **options)
    library = options["library_id"] or library_name(adata, None, only_slide=True)
    # A whole slide needs no full resolution where the AnnData has a rendering.
    rendered = "hires" in adata.uns["spatial"][library].get("images", {})
    overview = SlideImage.from_anndata(adata, resolution="hires", **options) if rendered else image
    if chosen is None:
        chosen = members[_spread(coordinates[members], adata.obs_names[members].to_numpy().astype(str))]
    radius = float(table.loc[slide if slide in table.index else table.index[0], "spot_radius"])
    spot_boxes = square_boxes(coordinates, 2 * radius)

    low = np.minimum(coordinates[members].min(axis=0) - 2 * radius, boxes[chosen, :2].min(axis=0))
    high = np.maximum(coordinates[members].max(axis=0) + 2 * radius, boxes[chosen, 2:].max(axis=0))
    width, height = _SLIDE * (high - low) / (high - low).max()
    n = len(chosen)
    with figure(width + 2 * _PATCH + 0.7, max(height, n * _PATCH * 1.12) + 0.3, show=show, save=save) as fig:
        on_tissue, cut = fig.subfigures(1, 2, width_ratios=[max(width, 1.0), 2 * _PATCH + 0.7])
        ax = on_tissue.subplots()
        panels = cut.subplots(n, 2, squeeze=False)
        side = (high - low).max()
        _draw_patch(ax, overview, np.concatenate([low, low + side]), _OVERVIEW_PIXELS)
        _draw_spots(ax, coordinates[members], radius, "#404040", 0.3)
        tissue_axes(ax, tuple(low), tuple(high))
        ax.set_title(library)
        for number, spot in enumerate(chosen):
            color = _COLORS[number % len(_COLORS)]
            niche = connectivities[spot].indices
            _draw_niche(ax, coordinates[niche], radius, spot_boxes[spot], boxes[spot], color)
            x0, y0 = boxes[spot, :2]
            label = ax.annotate(
                str(number + 1), (x0, y0), (0, 1), textcoords="offset points", color=color, weight="bold"
            )
            label.set_path_effects([withStroke(linewidth=2, foreground="white")])

            left, right = panels[number]
            for panel, box in ((left, spot_boxes[spot]), (right, boxes[spot])):
                _draw_patch(panel, image, box, _PATCH_PIXELS)
                tissue_axes(panel, tuple(box[:2]), tuple(box[2:]))
                panel.add_patch(
                    Rectangle((0, 0), 1, 1, transform=panel.transAxes, fill=False, color=color, linewidth=2)
                )
            _draw_spots(right, coordinates[niche], radius, color, 0.8)
            left.text(
                -0.06,
                0.5,
                str(number + 1),
                transform=left.transAxes,
                color=color,
                weight="bold",
                ha="right",
                va="center",
            )
            if number == 0:
                left.set_title("spot")
                right.set_title("niche")
    return fig


def _draw_patch(ax: Axes, image: SlideImage, box: np.ndarray, n_pixels: int) -> None:
    (pixels,), _ = image.patches(box[None], n_pixels)
    ax.imshow(pixels, extent=(box[0], box[2], box[3], box[1]), interpolation="antialiased")


def _draw_spots(ax: Axes, centres: np.ndarray, radius: float, color: str, line_width: float) -> None:
    diameter = np.full(len(centres), 2 * radius)
    circles = EllipseCollection(
        diameter, diameter, 0, units="xy", offsets=centres, offset_transform=ax.transData, facecolors="none"
    )
    circles.set(edgecolor=color, linewidth=line_width)
    ax.add_collection(circles)


def _draw_niche(
    ax: Axes, centres: np.ndarray, radius: float, spot_box: np.ndarray, niche_box: np.ndarray, color: str
) -> None:
    _draw_spots(ax, centres, radius, color, 0.8)
    for box, line_width in ((spot_box, 0.8), (niche_box, 1.2)):
        ax.add_patch(Rectangle(box[:2], *(box[2:] - box[:2]), fill=False, edgecolor=color, linewidth=line_width))


def _read_niches(adata: AnnData, niche_key: str) -> tuple[Any, np.ndarray, Mapping[str, Any], Any]:
    _validate.check_anndata(adata)
    _validate.check_size(adata, n_obs=1, n_vars=0)
    _validate.check_text("niche_key", niche_key)
    keys = (_keys.niche_connectivities(niche_key), _keys.niche_bbox(niche_key))
    stored = adata.uns.get(niche_key)
    complete = isinstance(stored, Mapping) and {"params", "slides"} <= set(stored)
    if not complete or keys[0] not in adata.obsp or keys[1] not in adata.obsm:
        raise KeyError(
            f"No niches: adata.obsp[{keys[0]!r}], adata.obsm[{keys[1]!r}] and adata.uns[{niche_key!r}] are needed: run "
            "`stimage.pp.build_niches(adata)` first."
        )
    return adata.obsp[keys[0]].tocsr(), np.asarray(adata.obsm[keys[1]]), stored["params"], stored["slides"]


def _find_spots(adata: AnnData, spots: Sequence[str]) -> np.ndarray:
    names = [spots] if isinstance(spots, str) else list(spots)
    if not names:
        raise ValueError("`spots` must name at least one observation, found none.")
    index = adata.obs_names.get_indexer(names)
    absent = [name for name, position in zip(names, index, strict=True) if position < 0]
    if absent:
        raise KeyError(f"`spots` has {_validate.listing(absent, 3)}, which are not in adata.obs_names.")
    return index


def _choose_slide(
    adata: AnnData, slide_key: str | None, library_id: str | None, chosen: np.ndarray | None
) -> tuple[str, np.ndarray]:
    """Name of the slide to show and its observations."""
    names, codes = _validate.slide_codes(adata, slide_key)
    if len(names) == 1:
        return (names[0] if slide_key is not None or library_id is None else library_id), np.arange(adata.n_obs)
    if library_id is None and chosen is not None:
        of_spots = sorted({names[code] for code in codes[chosen]})
        if len(of_spots) > 1:
            raise ValueError(f"`spots` are of slides {_validate.listing(of_spots)}: name those of one slide.")
        library_id = of_spots[0]
    if library_id is None:
        raise KeyError(f"adata has {len(names)} slides ({_validate.listing(names)}): pass `library_id=` or `spots=`.")
    if library_id not in names:
        raise KeyError(
            f"`library_id`={library_id!r} is not a slide of adata.obs[{slide_key!r}] (`slide_key`), which has "
            f"{_validate.listing(names)}."
        )
    members = np.flatnonzero(codes == names.index(library_id))
    if chosen is not None and not np.isin(chosen, members).all():
        raise ValueError(f"`spots` are not all of slide {library_id!r} (`library_id`): name those of one slide.")
    return library_id, members


def _spread(xy: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Four positions (fewer on a tiny slide): in the middle of the quarters that medians of x, then of y, cut."""
    order = np.lexsort((names, xy[:, 1], xy[:, 0]))
    quarters = []
    for half in np.array_split(order, 2):
        by_y = half[np.lexsort((names[half], xy[half, 0], xy[half, 1]))]
        quarters += [quarter for quarter in np.array_split(by_y, 2) if len(quarter)]
    middle = []
    for quarter in quarters:
        distance = np.linalg.norm(xy[quarter] - xy[quarter].mean(axis=0), axis=1).round(6)
        middle.append(quarter[np.lexsort((names[quarter], distance))[0]])
    return np.array(middle)
