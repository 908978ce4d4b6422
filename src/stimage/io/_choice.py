"""What a reader takes of an AnnData: what it is asked for, or the only thing that can be meant, which one warning names."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from stimage import _keys
from stimage._coordinates import OBSM, coordinate_columns, find_coordinates, heights
from stimage._counts import CountsPlace, counts_elsewhere, counts_in_raw, same_counts
from stimage._messages import listing
from stimage._validate import check_counts

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Options:
    """Options of :func:`stimage.io.read`; ``None`` where nothing was asked for."""

    layer: str | None = None
    table: str | None = None
    coordinate_system: str | None = None
    bin_size: int | None = None
    images: bool = True

    def given(self) -> list[str]:
        """Names of the options that some formats have and others have not, as far as they were passed."""
        return [
            field.name for field in fields(self) if field.name != "images" and getattr(self, field.name) is not None
        ]


def raw_counts(adata: AnnData, layer: str | None, *, raw_first: bool = False) -> tuple[Any, pd.DataFrame, str]:
    """Raw counts, the table of their genes and where they were.

    Those of ``X``; where it holds none, the only other matrix that does, or the one of most genes where several agree. With
    ``raw_first`` those of ``.raw`` come first, as conventions have it that keep counts there whenever it exists.

    Raises
    ------
    KeyError
        If the layer asked for is absent.
    ValueError
        If nothing holds raw counts, or matrices that differ do.
    """
    from anndata import AnnData

    if layer is not None:
        return check_counts(adata, layer), adata.var, f"layers[{layer!r}]"
    place = counts_in_raw(adata) if raw_first else None
    if place is None:
        try:
            return check_counts(adata), adata.var, "X"
        except (TypeError, ValueError):
            found = counts_elsewhere(adata, None)
            if not found:
                raise
        place = _only_one(found)
    return check_counts(AnnData(place.matrix, var=place.var)), place.var, place.where


def _only_one(found: list[CountsPlace]) -> CountsPlace:
    most = max(found, key=lambda place: place.matrix.shape[1])
    if not all(same_counts(place, most) for place in found):
        raise ValueError(
            f"adata.X holds no raw counts, and {len(found)} matrices that differ do: {listing(place.where for place in found)}. "
            f"Say which with `layer=`. {' '.join(place.advice for place in found)}"
        )
    return most


def coordinates(adata: AnnData) -> tuple[NDArray[np.float64] | None, str]:
    """X and y, and z where it tells observations apart (n_obs, 2 or 3), and where they were; ``None`` where there are none.

    Coordinates under a usual key of ``obsm`` come first, then columns of ``obs``.

    Raises
    ------
    KeyError
        If only columns of ``obs`` hold coordinates, and several pairs of them differ.
    """
    for key in OBSM:
        if key in adata.obsm:
            xy, _ = find_coordinates(adata, key)
            z, where = heights(adata, key), f"obsm[{key!r}]"
            if z is None:
                return xy, where
            if (z == z[0]).all():
                return xy, f"{where}, first two columns"
            return np.column_stack([xy, z]), where
    columns = coordinate_columns(adata, _keys.SPATIAL)
    if columns is None:
        return None, ""
    return find_coordinates(adata, _keys.SPATIAL)[0], f"obs[{columns[0]!r}], obs[{columns[1]!r}]"


def has_array(adata: AnnData) -> bool:
    """Whether ``obs`` has array positions."""
    return _keys.ARRAY_ROW in adata.obs and _keys.ARRAY_COL in adata.obs


def say_what_was_taken(counts: str, place: str, options: Options) -> None:
    """One warning for what is neither where it is looked for first nor asked for."""
    found = [f"raw counts from adata.{counts}"] if counts != "X" and options.layer is None else []
    if place and place != f"obsm[{_keys.SPATIAL!r}]":
        found.append(f"coordinates from adata.{place}")
    if found:
        warnings.warn(f"Read {' and '.join(found)}.", UserWarning, stacklevel=5)
