"""The source note, and how a reader puts together the AnnData that it returns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stimage import _keys
from stimage._labels import reads_missing

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

FACTS = ("slide", "donor", "tissue", "species", "technology", "study")
"""What a source may say of its slide."""
_NO_DONOR = {"unknown", "pooled"}
"""What CELLxGENE writes for a donor that is not known, beside what reads like a missing value."""
LONGEST_SIDE = 2000
"""Pixels of the longer side of an image that is kept in an AnnData."""


def add_note(
    adata: AnnData,
    *,
    format: str,
    path: Path | None = None,
    counts: str,
    coordinates: str,
    dropped: Mapping[str, int] | None = None,
    slide_key: str = "",
    donor_key: str = "",
    **facts: str | None,
) -> None:
    """Write the source note, and the slide and its donor as columns of ``obs`` where these have none.

    Parameters
    ----------
    adata
        What was read; changed in place.
    format, path
        Name of the format, and the file or folder.
    counts, coordinates
        Which part of the source was taken for them.
    dropped
        How many observations or features were left out, by reason.
    slide_key, donor_key
        Columns of ``obs`` that name slides and donors, where the source has such.
    facts
        What the source says of the slide, see :data:`FACTS`.
    """
    known = {name: str(value).strip() for name, value in facts.items() if not _is_missing(value)}
    if slide_key:
        known.pop("slide", None)
    elif "slide" in known:
        slide_key = _add_column(adata, _keys.SLIDE, known["slide"])
    if not donor_key and "donor" in known:
        donor_key = _add_column(adata, _keys.DONOR, known["donor"])
    adata.uns[_keys.SOURCE] = {
        "format": format,
        "path": "" if path is None else str(path),
        "counts": counts,
        "coordinates": coordinates,
        "slide_key": slide_key,
        "donor_key": donor_key,
        "dropped": {reason: int(number) for reason, number in (dropped or {}).items() if number},
        **{name: known.get(name, "") for name in FACTS},
    }


def note_of(adata: AnnData) -> dict[str, Any]:
    """The source note of an AnnData; empty when it was not read by :func:`stimage.io.read`."""
    note = adata.uns.get(_keys.SOURCE)
    return dict(note) if isinstance(note, Mapping) and "format" in note else {}


def known_donors(adata: AnnData, key: str) -> str:
    """The column if it names donors; empty if there is none, or one that says for all that they are not known."""
    if key not in adata.obs:
        return ""
    named = {str(donor).lower() for donor in adata.obs[key].unique() if not _is_missing(donor)}
    return key if named - _NO_DONOR else ""


def drop_outside_tissue(in_tissue: pd.Series, where: str) -> NDArray[np.bool_]:
    """Which observations are under tissue; raise ``ValueError`` if none is, or the column does not say."""
    values = pd.to_numeric(in_tissue, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    if not np.isin(values, (0, 1)).all():
        raise ValueError(
            f"{where} must be 0 or 1 for every spot, found e.g. {in_tissue[~np.isin(values, (0, 1))].iloc[0]!r}."
        )
    if not values.any():
        raise ValueError(
            f"{where} is 0 for all {len(values)} spots, so that none is under tissue: correct or remove it."
        )
    return values == 1


def open_rendering(path: Path) -> tuple[NDArray[np.uint8], float] | None:
    """An image of at most 2,000 pixels and its pixels for each of the file's; ``None`` where it cannot be read as RGB."""
    from stimage._pixels import to_rgb
    from stimage.data.images._open import open_image

    source = open_image(path)
    width, height = source.sizes[0]
    # The coarsest level that is still fine enough.
    level = max(
        (n for n, size in enumerate(source.sizes) if max(size) >= min(LONGEST_SIDE, max(width, height))),
        key=lambda n: -max(source.sizes[n]),
        default=0,
    )
    columns, rows = source.sizes[level]
    step = max(1, int(np.ceil(max(columns, rows) / LONGEST_SIDE)))
    bands = []
    for top in range(0, rows - rows % step or rows, step * 64):
        band = source.read(level, 0, top, columns, min(top + step * 64, rows))
        band = band[: len(band) // step * step, : columns // step * step]
        bands.append(band.reshape(len(band) // step, step, columns // step, step, 3).mean(axis=(1, 3)))
    pixels = to_rgb(np.rint(np.concatenate(bands)).astype(np.uint8))
    return pixels, columns / width / step


def library(
    *, image: Path | None = None, load: bool = True, scalefactors: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """An entry of ``uns["spatial"]`` for a slide whose coordinates are pixels of an image file."""
    entry: dict[str, Any] = {"images": {}, "scalefactors": dict(scalefactors or {})}
    if image is not None:
        entry["metadata"] = {"source_image_path": str(image.resolve())}
        if load:
            entry["images"]["hires"], scale = open_rendering(image)
            entry["scalefactors"]["tissue_hires_scalef"] = scale
    return entry


def _add_column(adata: AnnData, key: str, value: str) -> str:
    """The column with one value for all observations; where the source has one of its own, this stays and counts."""
    if key not in adata.obs:
        adata.obs[key] = pd.Categorical([value] * adata.n_obs)
    return key


def _is_missing(value: object) -> bool:
    return value is None or reads_missing(str(value))
