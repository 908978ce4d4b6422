"""AnnData in memory, h5ad or zarr: read in the way of a public convention where they follow one, else as they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stimage import _keys
from stimage._libraries import library_name
from stimage._validate import has_grid, listing
from stimage.io._cellxgene import is_cellxgene, tidy_cellxgene
from stimage.io._choice import Options, coordinates, has_array, raw_counts, say_what_was_taken
from stimage.io._note import FACTS, add_note, known_donors, note_of

if TYPE_CHECKING:
    from anndata import AnnData

CONVENTIONS = ((is_cellxgene, tidy_cellxgene),)
"""Conventions that files of AnnData follow: what tells that an AnnData is of one, and what brings it into shape."""
_SPATIAL_CORPUS = "library_key"
"""Column of SpatialCorpus-110M with the slide of each cell."""
_DONOR = "donor_id"


def read_h5ad_file(path: Path, options: Options) -> AnnData:
    """Read an h5ad file."""
    from anndata import read_h5ad

    return tidy(read_h5ad(path), path, options)


def tidy(adata: AnnData, path: Path | None, options: Options) -> AnnData:
    """An AnnData with counts in ``X`` and coordinates in ``obsm["spatial"]``; what was passed stays as it is."""
    earlier = note_of(adata)  # of a slide that was read and stored: what was known of it still holds
    for follows, bring in CONVENTIONS:
        if follows(adata):
            return bring(adata, path, options)
    counts, var, where = raw_counts(adata, options.layer)
    xy, place = coordinates(adata)
    if xy is None and not has_array(adata) and not any(has_grid(adata, key) for key in adata.uns):
        no_coordinates(adata)
    say_what_was_taken(where, place, options)
    result = assemble(adata, counts, var)
    if xy is not None:
        result.obsm[_keys.SPATIAL] = xy
    donor = earlier.get("donor_key", "") or known_donors(adata, _DONOR)
    slide = _SPATIAL_CORPUS if _SPATIAL_CORPUS in adata.obs and adata.obs[_SPATIAL_CORPUS].nunique() > 1 else ""
    add_note(
        result,
        format=earlier.get("format", "AnnData"),
        path=Path(earlier["path"]) if earlier.get("path") else path,
        counts=where,
        coordinates=place or ("obs['array_row'], obs['array_col']" if has_array(adata) else "the grid"),
        dropped=earlier.get("dropped"),
        slide_key=slide,
        donor_key=donor if donor in adata.obs else "",
        **{
            "slide": library_name(adata, None, only_slide=True)
            or ("" if path is None else path.name.removesuffix(path.suffix)),
            **{fact: earlier[fact] for fact in FACTS if earlier.get(fact)},
        },
    )
    return result


def assemble(adata: AnnData, counts: Any, var: Any) -> AnnData:
    """A new AnnData with the counts as ``X``; everything else is shared, layers are kept where they have these genes."""
    from anndata import AnnData

    same = var is adata.var
    layers = {
        key: adata.layers[key] for key in adata.layers if key is not None and same and adata.layers[key] is not counts
    }
    # Matrices between observations and what belongs to other genes is of no use to what reads counts.
    return AnnData(
        X=counts, obs=adata.obs.copy(), var=var.copy(), obsm=dict(adata.obsm), uns=dict(adata.uns), layers=layers
    )


def no_coordinates(adata: AnnData) -> None:
    """Raise ``KeyError`` for an AnnData without coordinates."""
    raise KeyError(
        f"No spatial coordinates: adata.obsm has {listing(adata.obsm.keys(), 30)}, adata.obs has "
        f"{listing(adata.obs.columns, 30)}: put x and y into adata.obsm['spatial'], or rows and columns of an array into "
        "adata.obs['array_row'] and adata.obs['array_col']."
    )
