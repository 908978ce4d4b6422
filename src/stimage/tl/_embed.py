from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stimage import _keys, _validate
from stimage._settings import seed_of
from stimage._validate import notes_of
from stimage.models._setup import corpus_of, with_layer

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.models import SmoothedPCA, STAlign, STImage
    from stimage.models._stalign import Level, Modality
    from stimage.models.embedding._site_vectors import EmbeddingMode

CHOICES = ("closed", "human")


def embed(
    adata: AnnData | Sequence[AnnData],
    model: Literal["closed", "human"] | SmoothedPCA | STImage | STAlign | None = None,
    *,
    layer: str | None = None,
    mode: EmbeddingMode | None = None,
    tile_size: int | None = None,
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
) -> AnnData | list[AnnData] | None:
    """Embed every observation of one slide or several, seen with its surroundings.

    Without a model nothing is trained: the embedding is the closed form of :class:`stimage.models.SmoothedPCA`, fitted to
    the slides that are given. It takes seconds, needs no torch and suits any species, panel and platform.

    Parameters
    ----------
    adata
        AnnData after :func:`stimage.pp.compact_grid`, or a list of them. Slides that are given together, in a list or in one
        AnnData, are described by the same axes, so that their embeddings can be compared. For a model that was trained or fitted before, any genes that
        overlap the model's will do: symbols or Ensembl ids, in ``var_names`` or a column of ``var``.
    model
        ``None`` or ``"closed"``: the closed form, fitted here. ``"human"``: the checkpoint that ships with the package, see
        :func:`stimage.pretrained.load`; for the tissues that it knows. Or a model: a :class:`stimage.models.SmoothedPCA` that
        was fitted before, an :class:`stimage.models.STImage` from :func:`stimage.tl.pretrain`, or an aligner, for which
        ``modality``, ``level``, ``image_dir`` and ``cache_dir`` are. The options of windows, ``mode`` to ``adapt_epochs``, are
        for an ``STImage`` alone.
    layer
        Layer with raw counts; by default the one that :meth:`stimage.models.STImage.setup_anndata` named, or ``X``.
    mode
        ``"visible"``: the encoder's output at a site that is visible; ``"context"``: at a site that is masked together with a
        random half of the slide, beside codes of recurring surroundings. By default ``"context"``; models of the units
        ``"spot"``, ``"neighborhood"`` and ``"slice"`` have ``"visible"`` alone: a spot in its context.
    tile_size
        Rows and columns of the windows, which overlap by half and are averaged. By default twice those of
        training, so that most sites have their surroundings on all sides.
    n_genes
        Genes drawn at random, three times; by default all genes are used.
    batch_size
        Windows in a forward pass at most. The result does not depend on it.
    adapt_epochs
        Train a copy of the model on these slides for so many epochs first, see :meth:`stimage.models.STImage.adapt`;
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
        Seed of all that is random: starts of codes, sites masked together, draws of genes, adaptation. ``None`` takes
        ``scvi.settings.seed``, or 0 where that is not set.
    output
        Path of a zarr array to write the embedding to instead of ``adata``, a few rows of windows at a time, see
        :meth:`stimage.models.STImage.get_latent_representation`. ``adata`` stays as it is, and what ``uns`` would say is in the
        attributes of the array. Of an ``STImage`` and one AnnData only.
    key_added
        Key of the embedding.
    copy
        Return a copy, or a list of them, instead of writing to ``adata``.

    Returns
    -------
    AnnData, list of AnnData or None
        With ``copy=True`` the copy. Writes:

    ``obsm["X_stimage"]``
        Embedding (observations x dimensions), float32: at most 60 numbers of the closed form. A site without counts is
        described by its surroundings.
    ``uns["stimage"]["X_stimage"]``
        Model and model id, version, parameters, vocabulary hash, seed and gene overlap; ``manifest``: JSON of the slides that
        the model was fitted or trained on.

    Raises
    ------
    KeyError
        If there is no grid.
    ValueError
        If counts are not raw, or too few genes are known to the model.
    FileExistsError
        If there is something at ``output`` already.
    FileNotFoundError
        If the checkpoint is asked for and the package was installed without it.

    Warns
    -----
    UserWarning
        If genes match only when upper and lower case are ignored.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> sti.tl.embed(adata)
    >>> adata.obsm["X_stimage"].shape == (adata.n_obs, 60)
    True

    References
    ----------
    Spatial Transcriptomics as Images for Large-Scale Pretraining, section 4 (models of windows).
    """
    adatas = _validate.check_anndatas(adata, "adata")
    _validate.check_key_added(key_added)
    if key_added == "setup":
        raise ValueError('`key_added`="setup" is taken in adata.uns["stimage"]: choose another.')
    if isinstance(model, str):
        _validate.check_choice("model", model, CHOICES)
    if output is not None:
        _check_output(output, adata, key_added, copy)
    notes = [notes_of(one) for one in adatas]
    counted = [with_layer(one, layer) for one in adatas]
    windows = {"mode": mode, "tile_size": tile_size, "n_genes": n_genes}
    windows |= {"batch_size": batch_size, "adapt_epochs": adapt_epochs, "output": output}
    plain = {"batch_size": 32, "adapt_epochs": 0}
    aligned = {"modality": modality, "level": level, "image_dir": image_dir, "cache_dir": cache_dir}
    kind = "closed" if model is None or model == "closed" else "human" if model == "human" else type(model).__name__
    if kind == "STAlign":
        _refuse(windows, plain, "windows, and an aligner has none")
        found = [_embed_aligned(one, model, **aligned) for one in counted]
    elif kind in ("closed", "SmoothedPCA"):
        _refuse(windows, plain, "a trained model of windows, and the closed form has none")
        _refuse(aligned, {}, "an aligner of `stimage.tl.align`")
        found = _embed_closed(counted, None if kind == "closed" else model, seed_of(seed))
    else:
        _refuse(aligned, {}, "an aligner of `stimage.tl.align`")
        found = _embed_windows(counted, model, **windows, seed=seed_of(seed))
    if output is not None:
        return None
    written = [one.copy() for one in adatas] if copy else adatas
    for one, (embedding, entry), earlier in zip(written, found, notes, strict=True):
        one.obsm[key_added] = embedding
        one.uns[_keys.STIMAGE] = {**earlier, key_added: entry}
    if not copy:
        return None
    return written if isinstance(adata, list | tuple) else written[0]


def _refuse(options: dict[str, Any], defaults: dict[str, Any], of: str) -> None:
    for name, value in options.items():
        if value != defaults.get(name):
            raise ValueError(f"`{name}`={value!r} is for {of}: leave it out.")


def _check_output(output: str | Path, adata: Any, key_added: str, copy: bool) -> None:
    from stimage.models.embedding._embed import check_absent

    check_absent(output)
    if isinstance(adata, list | tuple):
        raise ValueError("`output` takes the embedding of one AnnData, not of a list: embed them one by one.")
    written = {"key_added": key_added, "copy": copy}
    _refuse(written, {"key_added": _keys.REPRESENTATION, "copy": False}, "what is written to `adata`, not to `output`")


def _embed_closed(
    adatas: list[AnnData], model: SmoothedPCA | None, seed: int
) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Embeddings by the closed form, fitted to the slides unless it was before, and what to note beside each."""
    from stimage.models import SmoothedPCA
    from stimage.models._smoothed_pca import N_POOL_GENES

    _validate.check_seed(seed)
    corpus = corpus_of(adatas, model.vocabulary if model else None, N_POOL_GENES, parameter="adata")
    model = SmoothedPCA(corpus, seed=seed) if model is None else model
    embedding = model.get_latent_representation(corpus)
    parts = np.split(embedding, np.cumsum([one.n_obs for one in adatas])[:-1])
    return [(part, model.provenance(one)) for one, part in zip(adatas, parts, strict=True)]


def _embed_windows(
    adatas: list[AnnData],
    model: STImage | Literal["human"],
    *,
    batch_size: int,
    adapt_epochs: int,
    output: str | Path | None,
    **options: Any,
) -> list[tuple[Any, dict[str, Any]]]:
    """Embeddings by a model of windows, and what to note beside each."""
    from stimage import pretrained
    from stimage.models import STImage

    if model != "human":
        _validate.check_model(model, STImage)
    _validate.check_positive("adapt_epochs", adapt_epochs, smallest=0)
    model = pretrained.load() if model == "human" else model
    if adapt_epochs:
        model.check_embedding_options(**options, batch_size=batch_size)
        model = model.adapt(adatas, adapt_epochs, seed=options["seed"])
    return [
        (
            model.get_latent_representation(one, **options, batch_size=batch_size, output=output),
            model.embedding_record(one, **options),
        )
        for one in adatas
    ]


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
