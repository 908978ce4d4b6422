from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stimage import _keys, _validate, pretrained
from stimage._settings import seed_of
from stimage.models import STAlign, STImage
from stimage.models._embedding import check_absent
from stimage.models._setup import notes_of, with_layer

if TYPE_CHECKING:
    import numpy as np
    import zarr
    from anndata import AnnData

    from stimage.models._stalign import Level, Modality
    from stimage.models._views import EmbeddingMode


def embed(
    adata: AnnData,
    model: STImage | STAlign | None = None,
    *,
    layer: str | None = None,
    mode: EmbeddingMode | None = None,
    tile_size: int | None = None,
    n_repeats: int = 3,
    n_genes: int | None = None,
    batch_size: int = 32,
    adapt_epochs: int = 0,
    modality: Modality | None = None,
    level: Level | None = None,
    image_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    seed: int | None = 0,
    output: str | Path | None = None,
    key_added: str = _keys.REPRESENTATION,
    copy: bool = False,
) -> AnnData | None:
    """Embed every observation of a slide, seen with its surroundings.

    Parameters
    ----------
    adata
        AnnData after :func:`stimage.pp.compact_grid`, with any genes that overlap the model's: symbols or Ensembl ids,
        in ``var_names`` or a column of ``var``.
    model
        A trained model. By default the checkpoint that ships with the package, see :func:`stimage.pretrained.load`. With an
        aligner, ``modality``, ``level``, ``image_dir`` and ``cache_dir`` are for it, and the options of windows, ``mode`` to
        ``adapt_epochs``, are not.
    layer
        Layer with raw counts; by default the one that :meth:`stimage.models.STImage.setup_anndata` named, or ``X``.
    mode
        ``"visible"``: what the model says of a site that it sees; ``"context"``: of a site hidden from it with half of the
        slide, which is its surroundings' view of it; ``"surroundings"``: hidden with nine tenths of the slide;
        ``"combined"``: all three side by side with the site's codes, soft assignments to recurring neighbourhoods of the
        training slides. By default ``"combined"``; models of the units ``"spot"``, ``"neighborhood"`` and ``"slice"`` have
        ``"visible"`` alone: a spot in its context.
    tile_size
        Rows and columns of the windows, which overlap by half and are averaged. By default twice those of
        training, so that most sites have their surroundings on all sides.
    n_repeats
        How often a view is repeated with other sites hidden, and with ``n_genes`` the draw of genes.
    n_genes
        Genes drawn in each repeat; by default all genes are used.
    batch_size
        Windows in a forward pass at most. The result does not depend on it.
    adapt_epochs
        Train a copy of the model on this AnnData for so many epochs first, see :meth:`stimage.models.STImage.adapt`;
        ``model`` stays as it is.
    modality
        Of an aligner: ``"image"``, from the image alone, ``"gene"``, from expression alone, or ``"fused"``, from both. By
        default ``"fused"``, and ``"gene"`` of an aligner without images.
    level
        Of an aligner: ``"spot"``, ``"niche"``, or ``"both"`` side by side. By default ``"both"``, and ``"spot"`` of an
        aligner without niches.
    image_dir
        Of an aligner: folder of the image files that ``uns["spatial"]`` names by relative paths.
    cache_dir
        Of an aligner: folder that keeps image features; by default in the user's cache.
    seed
        Seed of the choice of sites hidden together, of gene draws and of adaptation. ``None`` takes ``scvi.settings.seed``, or 0
        where that is not set.
    output
        Path of a zarr array to write the embedding to instead of ``adata``, a few rows of windows at a time, see
        :meth:`stimage.models.STImage.get_latent_representation`. ``adata`` stays as it is, and what ``uns`` would say is in the
        attributes of the array. Of a model of windows only.
    key_added
        Key of the embedding.
    copy
        Return a copy instead of writing to ``adata``.

    Returns
    -------
    AnnData or None
        With ``copy=True`` the copy. Writes:

    ``obsm["X_stimage"]``
        Embedding (observations x dimensions), float32. A site without counts is always hidden, so it is described by
        its surroundings.
    ``uns["stimage"]["X_stimage"]``
        Model id, epochs of adaptation, version, parameters, vocabulary hash, seed and gene overlap; ``manifest``: JSON of the slides that the
        model was trained on.

    Raises
    ------
    KeyError
        If there is no grid.
    ValueError
        If counts are not raw, or too few genes are known to the model.
    FileExistsError
        If there is something at ``output`` already.
    FileNotFoundError
        If no model is given and the package was installed without its checkpoint.

    Warns
    -----
    UserWarning
        If genes match only when upper and lower case are ignored.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> options = {"window": 8, "n_pool_genes": 200, "n_genes": 64, "max_epochs": 1, "enable_progress_bar": False}
    >>> model = sti.tl.pretrain(adata, **options)
    >>> sti.tl.embed(adata, model)
    >>> adata.obsm["X_stimage"].shape == (adata.n_obs, 3 * 128 + 30)
    True

    References
    ----------
    Spatial Transcriptomics as Images for Large-Scale Pretraining, section 4.
    """
    _validate.check_anndata(adata)
    _validate.check_key_added(key_added)
    if key_added == "setup":
        raise ValueError('`key_added`="setup" is taken in adata.uns["stimage"]: choose another.')
    if output is not None:
        check_absent(output)
        written = {"key_added": key_added, "copy": copy}
        _refuse(
            written, {"key_added": _keys.REPRESENTATION, "copy": False}, "what is written to `adata`, not to `output`"
        )
    notes = notes_of(adata)
    counted = with_layer(adata, layer)
    windows = {"mode": mode, "tile_size": tile_size, "n_repeats": n_repeats, "n_genes": n_genes}
    windows |= {"batch_size": batch_size, "adapt_epochs": adapt_epochs, "output": output}
    aligned = {"modality": modality, "level": level, "image_dir": image_dir, "cache_dir": cache_dir}
    if isinstance(model, STAlign):
        _refuse(windows, {"n_repeats": 3, "batch_size": 32, "adapt_epochs": 0}, "windows, and an aligner has none")
        embedding, entry = _embed_aligned(counted, model, **aligned)
    else:
        _refuse(aligned, {}, "an aligner of `stimage.tl.align`")
        embedding, entry = _embed_windows(counted, model, **windows, seed=seed_of(seed))
    if output is not None:
        return None
    adata = adata.copy() if copy else adata
    adata.obsm[key_added] = embedding
    adata.uns[_keys.STIMAGE] = {**notes, key_added: entry}
    return adata if copy else None


def _refuse(options: dict[str, Any], defaults: dict[str, Any], of: str) -> None:
    for name, value in options.items():
        if value != defaults.get(name):
            raise ValueError(f"`{name}`={value!r} is for {of}: leave it out.")


def _embed_windows(
    adata: AnnData,
    model: STImage | None,
    *,
    batch_size: int,
    adapt_epochs: int,
    output: str | Path | None,
    **options: Any,
) -> tuple[np.ndarray | zarr.Array, dict[str, Any]]:
    """Embedding by a model of windows and what to note beside it."""
    if model is not None:
        _validate.check_model(model, STImage)
    _validate.check_positive("adapt_epochs", adapt_epochs, smallest=0)
    model = pretrained.load() if model is None else model
    if adapt_epochs:
        model.check_embedding_options(**options, batch_size=batch_size)
        model = model.adapt(adata, adapt_epochs, seed=options["seed"])
    embedding = model.get_latent_representation(adata, **options, batch_size=batch_size, output=output)
    return embedding, model.embedding_record(adata, **options)


def _embed_aligned(
    adata: AnnData,
    model: STAlign,
    *,
    modality: Modality | None,
    level: Level | None,
    image_dir: str | Path | None,
    cache_dir: str | Path | None,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Embedding by an aligner and what to note beside it."""
    modality, level = model.check_embedding_options(modality=modality, level=level)
    embedding = model.get_latent_representation(
        adata, modality=modality, level=level, image_dir=image_dir, cache_dir=cache_dir
    )
    entry = {**model.provenance(adata), "modality": modality, "level": level}
    return embedding, {**entry, "manifest": json.dumps(model.manifest_record())}
