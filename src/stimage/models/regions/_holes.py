from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from stimage import _keys
from stimage.data import Slide, Vocabulary, site_positions
from stimage.models._setup import corpus_of
from stimage.models.regions._region import Fill

if TYPE_CHECKING:
    from anndata import AnnData

N_NEIGHBORS = 6
"""Sites whose deviation from a perfect lattice places a hole."""


@dataclass(frozen=True)
class Holes:
    """Sites without data inside the tissue of one slide, filled in.

    Parameters
    ----------
    slide
        Name of the slide.
    site_index
        Row and column of each site on the grid (holes x 2).
    observation
        Position in the AnnData of the first observation on the site, -1 where there is none (holes).
    coordinates
        x and y of each site in the slide's own coordinates (holes x 2).
    expression
        Predicted log1p of counts per 10,000, with an interval followed by lower and upper bounds (1 or 3 x holes x genes).
    """

    slide: str
    site_index: np.ndarray
    observation: np.ndarray
    coordinates: np.ndarray
    expression: np.ndarray


def fill_holes(adata: AnnData, vocabulary: Vocabulary, coordinates: np.ndarray, fill: Fill) -> list[Holes]:
    """Fill in the sites without data of each slide of an AnnData; see :func:`stimage.tl.fill_holes`.

    Parameters
    ----------
    adata
        AnnData with a grid.
    vocabulary
        Genes of the model.
    coordinates
        Coordinates of its observations (observations x 2).
    fill
        The model: predicts hidden sites of a slide.

    Returns
    -------
    list of Holes
        Of each slide.
    """
    slides = corpus_of(adata, vocabulary).slides
    for slide in slides:
        if not slide.lattice.is_complete:
            raise ValueError(
                f"The grid of slide {slide.name!r} has layout {slide.layout!r}, which leaves sites between spots empty that were "
                "never measured: run `stimage.pp.compact_grid` with another `layout` first."
            )
    found = []
    for slide in slides:
        filled, hidden = with_holes(slide)
        observation = np.full(filled.n_sites, -1)
        observation[filled.site_of_observation[::-1]] = filled.observation_index[::-1]
        expression = fill(filled, hidden)
        places = site_coordinates(filled, coordinates)
        found.append(Holes(slide.name, filled.site_index[hidden], observation[hidden], places[hidden], expression))
    return found


def holes_anndata(
    adata: AnnData,
    slides: list[Holes],
    vocabulary: Vocabulary,
    *,
    grid_key: str,
    slide_key: str,
    bounds: Sequence[str],
) -> AnnData:
    """Holes of all slides as an AnnData of their own, see :func:`stimage.tl.fill_holes`.

    Parameters
    ----------
    adata
        Where they were found.
    slides
        Holes of each slide.
    vocabulary
        Genes that they were filled in with.
    grid_key, slide_key
        Keys of the grid, and of the slides in ``obs``, empty for none.
    bounds
        Names of the layers with lower and upper bounds; empty without an interval.

    Returns
    -------
    AnnData
        One row per hole, over the genes of ``adata`` that the vocabulary has.
    """
    from anndata import AnnData

    columns = vocabulary.match(adata).first_variable
    shared = columns >= 0
    names, obs = [], []
    for holes in slides:
        prefix = f"{holes.slide}_" if len(slides) > 1 else ""
        names += [
            adata.obs_names[number] if number >= 0 else f"{prefix}hole_{row}_{col}"
            for (row, col), number in zip(holes.site_index, holes.observation, strict=True)
        ]
        part = pd.DataFrame(
            holes.site_index.astype(np.int32), columns=[_keys.grid_row(grid_key), _keys.grid_col(grid_key)]
        )
        of_slide = {slide_key: holes.slide} if slide_key else {}
        obs.append(part.assign(is_observation=holes.observation >= 0, **of_slide))
    expression = np.concatenate([holes.expression for holes in slides], axis=1)[:, :, shared]
    found = AnnData(
        expression[0],
        obs=pd.concat(obs).set_axis(pd.Index(names, dtype=object)),
        var=adata.var.iloc[columns[shared]].copy(),
        obsm={str(adata.uns[grid_key]["params"]["spatial_key"]): np.concatenate([part.coordinates for part in slides])},
        layers=dict(zip(bounds, expression[1:], strict=True)),
    )
    if slide_key:
        found.obs[slide_key] = found.obs[slide_key].astype("category")
    found.uns[grid_key] = adata.uns[grid_key]
    return found


def site_coordinates(slide: Slide, coordinates: np.ndarray) -> np.ndarray:
    """Coordinates of all sites of a slide from those of its observations.

    A site with observations has their mean. Others lie where an affine map of the lattice puts them, moved by as much as the
    nearest sites with observations are off it, so that a slightly warped lattice is followed.

    Parameters
    ----------
    slide
        The slide.
    coordinates
        Coordinates of the AnnData's observations (observations x 2).

    Returns
    -------
    numpy.ndarray
        x and y (sites x 2).
    """
    counts = np.bincount(slide.site_of_observation, minlength=slide.n_sites)
    known = counts > 0
    own = coordinates[slide.observation_index]
    sums = [np.bincount(slide.site_of_observation, axis, slide.n_sites) for axis in own.T]
    mean = np.column_stack(sums)[known] / counts[known, None]
    positions = site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity).astype(np.float64)
    design = np.column_stack([positions, np.ones(slide.n_sites)])
    mapped = design @ np.linalg.lstsq(design[known], mean, rcond=None)[0]
    _, near = cKDTree(positions[known]).query(positions[~known], k=range(1, min(N_NEIGHBORS, known.sum()) + 1))
    mapped[~known] += (mean - mapped[known])[near].mean(axis=1)
    mapped[known] = mean
    return mapped


def enclosed(tissue: np.ndarray, *, layout: str, parity: int) -> np.ndarray:
    """Sites without tissue from which no path of neighbouring sites without tissue leads out of the raster.

    Parameters
    ----------
    tissue
        Which sites hold tissue (rows x columns).
    layout, parity
        Lattice of the raster, as in :class:`stimage.data.Slide`.

    Returns
    -------
    numpy.ndarray
        Boolean image (rows x columns).
    """
    outside = np.pad(~tissue, 1, constant_values=True)
    rows, cols = np.nonzero(outside)
    # With the border, rows are one further down: where shifted rows lie depends on it.
    positions = site_positions(rows - 1, cols - 1, layout=layout, parity=parity)
    pairs = cKDTree(positions).query_pairs(1.2, output_type="ndarray")
    graph = sparse.csr_matrix((np.ones(len(pairs)), pairs.T), shape=(len(rows), len(rows)))
    component = connected_components(graph, directed=False)[1]
    image = np.zeros(outside.shape, dtype=bool)
    image[rows, cols] = component != component[0]
    return image[1:-1, 1:-1]


def with_holes(slide: Slide) -> tuple[Slide, np.ndarray]:
    """The slide with a site for each hole in its tissue, and which of its sites are without data.

    Parameters
    ----------
    slide
        The slide, its expression in memory.

    Returns
    -------
    tuple
        The slide, its sites again in raster order, and a boolean mask over them: holes, and the slide's sites without
        counts.
    """
    holes = enclosed(slide.raster >= 0, layout=slide.layout, parity=slide.parity)
    shown = (slide.raster >= 0) | holes
    raster = np.full(slide.shape, -1, dtype=np.int32)
    raster[shown] = np.arange(shown.sum())
    earlier = slide.raster[shown]  # -1 for a hole
    old = np.flatnonzero(earlier >= 0)
    place = np.empty(slide.n_sites, dtype=np.int64)
    place[earlier[old]] = old
    n_sites, n_genes = len(earlier), slide.expression.shape[1]
    lengths = np.zeros(n_sites, dtype=np.int64)
    rows = slide.expression[earlier[old]]
    lengths[old] = np.diff(rows.indptr)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    library_size = np.zeros(n_sites, dtype=slide.library_size.dtype)
    library_size[old] = slide.library_size[earlier[old]]
    larger = replace(
        slide,
        expression=sparse.csr_matrix((rows.data, rows.indices, indptr), shape=(n_sites, n_genes)),
        library_size=library_size,
        raster=raster,
        site_of_observation=place[slide.site_of_observation],
    )
    return larger, library_size == 0
