"""What :func:`stimage.pl.alignment` shows: genes beside their predictions, and the spots that image patches find."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.spatial import cKDTree

from stimage import _validate

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.data import SlideImage

_N_VARIABLE = 50
_N_GENES = 3
_PATCH_PIXELS = 224


@dataclass(frozen=True)
class PredictedGene:
    """Expression of a gene at each spot, measured (NaN: no counts) and predicted, and how the two correlate."""

    name: str
    measured: np.ndarray
    predicted: np.ndarray
    correlation: float


@dataclass(frozen=True)
class RetrievedSpots:
    """The spots that the image of a spot finds."""

    spot: int
    found: np.ndarray  # spots, the nearest first
    rank: int  # of the query's own spot, from 1
    n_candidates: int
    patches: np.ndarray  # of the query, then of those found


def compare_genes(
    adata: AnnData,
    genes: str | Sequence[str] | None,
    counts: np.ndarray | sparse.spmatrix,
    has_counts: np.ndarray,
    predicted_key: str,
) -> list[PredictedGene]:
    """The requested genes; by default those predicted best among the ones that vary most."""
    predicted, known = predicted_genes(adata, predicted_key)
    if not known.any():
        raise ValueError(f"{predicted_key!r} has no gene predicted for all spots: predict them again.")
    place = np.cumsum(known) - 1  # of a gene among those that are known
    columns = np.flatnonzero(known) if genes is None else _columns(adata, genes, known, predicted_key)
    total = np.asarray(counts.sum(axis=1), dtype=float).ravel()
    scale = sparse.diags(1e4 / np.where(has_counts, total, 1))
    measured = sparse.csc_matrix(scale @ sparse.csc_matrix(counts[:, columns])).log1p()
    if genes is None:
        seen = measured[has_counts]
        variance = np.asarray(seen.multiply(seen).mean(axis=0) - np.square(seen.mean(axis=0))).ravel()
        variable = np.argsort(-variance, kind="stable")[:_N_VARIABLE]
        columns, measured = columns[variable], measured[:, variable]
    result = []
    for values, column in zip(measured.toarray().T, columns, strict=True):
        shown = predicted[:, place[column]]
        correlation = _pearson(values[has_counts], shown[has_counts])
        # Tissue without counts has no expression to show, rather than none.
        values = np.where(has_counts, values, np.nan)
        result.append(PredictedGene(str(adata.var_names[column]), values, shown, correlation))
    if genes is None:
        result.sort(key=lambda gene: -np.nan_to_num(gene.correlation, nan=-2.0))
        return result[:_N_GENES]
    return result


def predicted_genes(adata: AnnData, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Predictions (observations x predicted genes) under a key of ``layers`` or ``obsm``, and which genes they are of."""
    if key in adata.obsm:
        frame = adata.obsm[key]
        columns = adata.var_names.get_indexer(frame.columns)
        order = np.argsort(columns[columns >= 0])
        values = frame.to_numpy()[:, np.flatnonzero(columns >= 0)[order]]
        known = np.isin(np.arange(adata.n_vars), columns)
    else:
        layer = adata.layers[key]
        full = np.ones(adata.n_vars, dtype=bool)
        if sparse.issparse(layer):
            layer = layer.tocsc()
            full = np.diff(layer.indptr) > 0
            layer = layer[:, np.flatnonzero(full)].toarray()
        values, known = np.asarray(layer), full
    finite = np.isfinite(values).all(axis=0)
    known = known.copy()
    known[np.flatnonzero(known)[~finite]] = False
    return values[:, finite], known


def _columns(adata: AnnData, genes: str | Sequence[str], known: np.ndarray, predicted_key: str) -> np.ndarray:
    genes = [genes] if isinstance(genes, str) else list(genes)
    if not genes:
        raise ValueError("`genes` must name at least one gene, found none; leave it out for three that are chosen.")
    columns = adata.var_names.get_indexer(genes)
    absent = [gene for gene, column in zip(genes, columns, strict=True) if column < 0]
    if absent:
        raise KeyError(
            f"`genes` {_validate.listing(absent)} are not in adata.var_names (e.g. {_validate.listing(adata.var_names, 3)})."
        )
    unknown = [gene for gene, column in zip(genes, columns, strict=True) if not known[column]]
    if unknown:
        raise ValueError(
            f"`genes` {_validate.listing(unknown)} were not predicted; choose among the {known.sum()} genes of "
            f"{predicted_key!r} without NaN (e.g. {_validate.listing(adata.var_names[known], 3)})."
        )
    return columns


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    constant = np.ptp(a) == 0 or np.ptp(b) == 0
    return np.nan if constant else float(np.corrcoef(a, b)[0, 1])


def choose_queries(
    adata: AnnData, queries: str | Sequence[str] | None, coordinates: np.ndarray, has_counts: np.ndarray
) -> np.ndarray:
    """Spots whose images to look up; only ones with counts can be found again."""
    if queries is None:
        spots = np.flatnonzero(has_counts)
        return spots[_spread(coordinates[spots], adata.obs_names[spots].to_numpy().astype(str))]
    names = [queries] if isinstance(queries, str) else list(queries)
    if not names:
        raise ValueError("`queries` must name at least one spot, found none; leave it out for three that are chosen.")
    spots = adata.obs_names.get_indexer(names)
    absent = [name for name, spot in zip(names, spots, strict=True) if spot < 0]
    if absent:
        raise KeyError(
            f"`queries` {_validate.listing(absent)} are not spots of the slide "
            f"(e.g. {_validate.listing(adata.obs_names, 3)})."
        )
    empty = [name for name, spot in zip(names, spots, strict=True) if not has_counts[spot]]
    if empty:
        raise ValueError(
            f"`queries` {_validate.listing(empty)} have no counts: they could not be found by their genes."
        )
    return spots


def _spread(xy: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Three positions (fewer on a tiny slide): in the middle of the upper and lower left and of the right of a slide."""
    left, middle, right = np.array_split(np.lexsort((names, xy[:, 1], xy[:, 0])), 3)
    left = np.concatenate([left, middle])
    parts = [*np.array_split(left[np.lexsort((names[left], xy[left, 0], xy[left, 1]))], 2), right]
    spots = []
    for part in parts:
        if len(part):
            distance = np.linalg.norm(xy[part] - xy[part].mean(axis=0), axis=1).round(6)
            spots.append(part[np.lexsort((names[part], distance))[0]])
    return np.array(spots)


def spot_distance(coordinates: np.ndarray) -> float:
    """Distance of neighbouring spots."""
    distances, _ = cKDTree(coordinates).query(coordinates, k=2)
    return float(np.median(distances[:, 1]))


def retrieve(
    vectors: Mapping[str, np.ndarray],
    chosen: np.ndarray,
    has_counts: np.ndarray,
    n_neighbors: int,
    image: SlideImage,
    boxes: np.ndarray,
) -> list[RetrievedSpots]:
    """Spots with counts whose gene vectors are nearest to the image vectors of the chosen ones, by their cosine."""
    candidates = np.flatnonzero(has_counts)
    queries = []
    for spot in chosen:
        cosine = vectors["gene"][candidates] @ vectors["image"][spot]
        order = candidates[np.argsort(-cosine, kind="stable")]
        found = order[:n_neighbors]
        patches, _ = image.patches(boxes[[spot, *found]], _PATCH_PIXELS)
        rank = int(np.flatnonzero(order == spot)[0]) + 1
        queries.append(RetrievedSpots(int(spot), found, rank, len(candidates), patches))
    return queries
