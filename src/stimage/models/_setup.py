from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from stimage import _keys, _validate
from stimage.data import Corpus

if TYPE_CHECKING:
    from anndata import AnnData


def setup_of(adata: AnnData) -> dict[str, Any]:
    """Layer, slide key and grid key that :meth:`STImage.setup_anndata` noted, or the defaults."""
    setup = adata.uns.get(_keys.STIMAGE, {}).get("setup", {})
    return {
        "layer": setup.get("layer") or None,
        "slide_key": setup.get("slide_key") or None,
        "grid_key": setup.get("grid_key", _keys.GRID),
    }


def corpus_of(
    data: AnnData | Sequence[AnnData], genes: Sequence[str] | None = None, n_pool_genes: int | None = None
) -> Corpus:
    """Corpus of AnnData as they were set up, over given genes or over the pool selected for them."""
    adatas = _validate.check_anndatas(data)
    setups = [setup_of(adata) for adata in adatas]
    if genes is None:
        from stimage.pp import select_genes

        layers, keys = {setup["layer"] for setup in setups}, {setup["slide_key"] for setup in setups}
        if len(layers) > 1 or len(keys) > 1:
            raise ValueError(f"All AnnData must be set up alike, found layers {layers} and slide keys {keys}.")
        genes = select_genes(adatas, n_genes=n_pool_genes, layer=layers.pop(), slide_key=keys.pop()).genes
    parts = [Corpus.from_anndata(adata, genes=genes, **setup) for adata, setup in zip(adatas, setups, strict=True)]
    source = [number for number, part in enumerate(parts) for _ in part]
    return Corpus.with_unique_names([slide for part in parts for slide in part], genes, source=source)


def manifest_of(corpus: Corpus) -> dict[str, Any]:
    """What a model was trained on: slides, with a hash of their counts, and a hash of the vocabulary."""
    slides = pd.DataFrame(
        {
            "name": [slide.name for slide in corpus],
            "n_sites": [slide.n_sites for slide in corpus],
            "counts_sha256": [hashlib.sha256(slide.library_size.tobytes()).hexdigest() for slide in corpus],
        }
    )
    return {"slides": slides, "vocabulary_sha256": vocabulary_hash(corpus.genes)}


def vocabulary_hash(genes: Sequence[str]) -> str:
    """SHA-256 of gene names in their order."""
    return hashlib.sha256("\n".join(genes).encode()).hexdigest()
