from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from stimage import _keys, _validate
from stimage._features import absent_genes
from stimage._validate import notes_of
from stimage.data import Corpus, Slide, Vocabulary
from stimage.data.corpus._corpus import read_corpus
from stimage.data.corpus._index import vocabulary_hash
from stimage.data.slides._observations import slide_observations

if TYPE_CHECKING:
    from anndata import AnnData


def setup_of(adata: AnnData) -> dict[str, Any]:
    """Layer, slide key, grid key and donor key that :meth:`STImage.setup_anndata` noted, or the defaults."""
    setup = notes_of(adata).get("setup", {})
    return {
        "layer": setup.get("layer") or None,
        "slide_key": setup.get("slide_key") or None,
        "grid_key": setup.get("grid_key", _keys.GRID),
        "donor_key": setup.get("donor_key") or None,
    }


def with_layer(adata: AnnData, layer: str | None) -> AnnData:
    """The same data, set up to read counts from another layer; ``adata`` itself where ``layer`` is ``None``."""
    if layer is None:
        return adata
    _validate.check_counts(adata, layer, backed=True)
    return with_setup(adata, {**notes_of(adata).get("setup", {}), "layer": layer})


def with_setup(adata: AnnData, setup: dict[str, Any]) -> AnnData:
    """The same data, nothing copied, with another setup; ``adata`` stays as it is."""
    from anndata import AnnData

    parts = {part: dict(getattr(adata, part)) for part in ("obsm", "varm", "obsp", "varp")}
    layers = {name: adata.layers[name] for name in _validate.layer_names(adata)}
    uns = {**adata.uns, _keys.STIMAGE: {**notes_of(adata), "setup": setup}}
    # A layer of a backed AnnData is in memory, its ``X`` is not.
    matrix = None if adata.isbacked else adata.X
    return AnnData(matrix, obs=adata.obs, var=adata.var, uns=uns, layers=layers, **parts)


def check_setup(adata: AnnData, setup: dict[str, Any], *, backed: bool = False) -> None:
    """Raise unless an AnnData has the grid, the counts and the slides that ``setup`` names.

    ``backed``: counts may be in a file.
    """
    notes_of(adata)
    _validate.check_grid(adata, setup["grid_key"])
    _validate.check_size(adata)
    _validate.check_unique_names(adata, genes=True)
    _validate.check_counts(adata, setup["layer"], backed=backed)
    for key in ("slide_key", "donor_key"):
        if setup[key] is not None:
            _validate.check_obs_key(adata, setup[key], key)


def corpus_of(
    data: AnnData | Sequence[AnnData],
    genes: Sequence[str] | Vocabulary | None = None,
    n_pool_genes: int | None = None,
    *,
    parameter: str = "data",
    setup: dict[str, Any] | None = None,
    in_memory: bool = True,
    backed: bool = False,
) -> Corpus:
    """Corpus of AnnData as they were set up, or as ``setup`` says, over given genes or the pool selected for them.

    ``in_memory``: as of :meth:`Slide.from_anndata`; ``backed``: counts may be in a file, which a caller that needs nothing
    else of them allows.
    """
    adatas = _validate.check_anndatas(data, parameter)
    setups = [setup or setup_of(adata) for adata in adatas]
    advice = _validate.SETUP_ADVICE if setup is None else _validate.LAYER_ADVICE
    if genes is None:
        for adata, places in zip(adatas, setups, strict=True):
            _validate.check_counts(adata, places["layer"], advice=advice, backed=backed)
        with warnings.catch_warnings():  # of what is no gene, which is told when the slides are read
            warnings.filterwarnings("ignore", message=".*variables are left out of library sizes")
            genes = _gene_pool(adatas, setups, n_pool_genes)
    if not isinstance(genes, Vocabulary):
        genes = Vocabulary.from_anndata(adatas, genes)
    parts = [
        read_corpus([adata], genes, **places, advice=advice, in_memory=in_memory, backed=backed)
        for adata, places in zip(adatas, setups, strict=True)
    ]
    source = [number for number, part in enumerate(parts) for _ in part]
    return Corpus.with_unique_names([slide for part in parts for slide in part], genes, source=source)


def corpus_over(
    data: AnnData | Sequence[AnnData] | Corpus, vocabulary: Vocabulary, *, in_memory: bool = True
) -> Corpus:
    """Slides over the genes of a model; raise ``ValueError`` for a corpus over other genes."""
    if not isinstance(data, Corpus):
        return corpus_of(data, vocabulary, in_memory=in_memory, backed=True)
    if not np.array_equal(data.genes, vocabulary.genes):
        raise ValueError(
            f"`data` is a corpus over other genes (e.g. {_validate.listing(data.genes, 3)}) than the model's (e.g. "
            f"{_validate.listing(vocabulary.genes, 3)}): build it with `genes=model.genes`."
        )
    return data


def _gene_pool(adatas: list[AnnData], setups: list[dict[str, Any]], n_genes: int | None) -> list[str]:
    from stimage.pp import select_genes

    layers = {setup["layer"] for setup in setups}
    if len(layers) > 1:
        raise ValueError(f"All AnnData must be set up alike, found layers {layers}.")
    keys = []
    for adata, setup in zip(adatas, setups, strict=True):
        _validate.check_grid(adata, setup["grid_key"])
        keys.append(setup["slide_key"] or str(adata.uns[setup["grid_key"]]["params"]["slide_key"]) or None)
    layer = layers.pop()
    if len(adatas) == 1:
        return select_genes(adatas[0], n_genes=n_genes, layer=layer, slide_key=keys[0]).genes
    # Genes are ranked within slides: each is passed on its own, so that the same slides in one AnnData or in several
    # give the same genes.
    slides = []
    for adata, key, setup in zip(adatas, keys, setups, strict=True):
        parts = slide_observations(adata, slide_key=key, grid_key=setup["grid_key"])
        rows = [observations for _, observations in parts]
        absent = absent_genes(_validate.check_counts(adata, layer, backed=True), rows)
        slides += [adata] if len(parts) == 1 else [adata[part, ~none] for part, none in zip(rows, absent, strict=True)]
    return select_genes(slides, n_genes=n_genes, layer=layer).genes


def manifest_of(corpus: Corpus) -> dict[str, Any]:
    """What a model was trained on: slides, with fingerprints of their counts and donors, and a hash of the vocabulary."""
    slides = pd.DataFrame(
        {
            "name": [slide.name for slide in corpus],
            "n_sites": [slide.n_sites for slide in corpus],
            "counts_sha256": [library_size_hash(slide) for slide in corpus],
            "spot_sketch": [slide.spot_sketch for slide in corpus],
            "donor": [slide.donor for slide in corpus],
        }
    )
    return {"slides": slides, "vocabulary_sha256": vocabulary_hash(corpus.genes)}


def library_size_hash(slide: Slide) -> str:
    """SHA-256 of the counts of each site, in raster order."""
    return hashlib.sha256(slide.library_size.tobytes()).hexdigest()
