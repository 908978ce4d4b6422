"""Spatial data of CELLxGENE Discover, schema 5.1 and later: Visium and Slide-seq of one library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stimage import _keys
from stimage._libraries import image_libraries
from stimage.io._choice import Options, coordinates, raw_counts
from stimage.io._note import add_note, drop_outside_tissue, known_donors

if TYPE_CHECKING:
    from anndata import AnnData

_IS_SINGLE = "is_single"
_FACTS = {"tissue": "tissue", "species": "organism", "technology": "assay"}


def is_cellxgene(adata: AnnData) -> bool:
    """Whether ``uns["spatial"]`` has the flag that the schema demands."""
    spatial = adata.uns.get(_keys.SPATIAL)
    return isinstance(spatial, Mapping) and _IS_SINGLE in spatial


def tidy_cellxgene(adata: AnnData, path: Path | None, options: Options) -> AnnData:
    """Counts from ``.raw``, spots under tissue, and the library without the flag beside it."""
    from anndata import AnnData

    counts, var, where = raw_counts(adata, options.layer, raw_first=True)
    xy, place = coordinates(adata)
    if xy is None:
        raise KeyError("It has no obsm['spatial'], which the schema of CELLxGENE demands: download the file again.")
    xy = xy[:, :2]
    dropped = {}
    inside = np.ones(adata.n_obs, dtype=bool)
    if "in_tissue" in adata.obs:
        inside = drop_outside_tissue(adata.obs["in_tissue"], "obs['in_tissue']")
        dropped["spots outside of tissue (in_tissue is 0)"] = int((~inside).sum())
    libraries = image_libraries(adata)
    if not options.images:
        libraries = {name: {**entry, "images": {}} for name, entry in libraries.items()}
    uns = {key: value for key, value in adata.uns.items() if key != _keys.SPATIAL}
    result = AnnData(
        X=counts if inside.all() else counts[inside],
        obs=adata.obs[inside].copy(),
        var=var.copy(),
        obsm={**{key: adata.obsm[key][inside] for key in adata.obsm}, _keys.SPATIAL: xy[inside]},
        uns={**uns, **({_keys.SPATIAL: libraries} if libraries else {})},
    )
    add_note(
        result,
        format="CELLxGENE",
        path=path,
        counts=where,
        coordinates=f"{place}, x and y",
        dropped=dropped,
        donor_key=known_donors(result, "donor_id"),
        slide=next(iter(libraries)) if len(libraries) == 1 else "",
        study=adata.uns.get("title"),
        **{fact: _only(adata, column) for fact, column in _FACTS.items()},
    )
    return result


def _only(adata: AnnData, column: str) -> str:
    """The one value of a column, or of ``uns`` in newer versions of the schema."""
    if column in adata.obs:
        values = adata.obs[column].dropna().astype(str).unique()
        return values[0] if len(values) == 1 else ""
    return str(adata.uns.get(column, ""))
