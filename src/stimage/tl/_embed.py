from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stimage import _keys, _validate
from stimage._settings import seed_of
from stimage._validate import notes_of
from stimage.models._embed_slides import embed_slides
from stimage.models._setup import with_layer

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.models import SmoothedPCA, STAlign, STImage


def embed(
    adata: AnnData | Sequence[AnnData],
    model: Literal["closed", "human"] | SmoothedPCA | STImage | STAlign | None = None,
    *,
    layer: str | None = None,
    adapt_epochs: int = 0,
    output: str | Path | None = None,
    seed: int | None = 0,
    key_added: str = _keys.REPRESENTATION,
    copy: bool = False,
    **options: Any,
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
        was fitted before, an :class:`stimage.models.STImage` from :func:`stimage.tl.pretrain`, or an aligner from
        :func:`stimage.tl.align`.
    layer
        Layer with raw counts; by default the one that :meth:`stimage.models.STImage.setup_anndata` named, or ``X``.
    adapt_epochs
        Of an ``STImage``: train a copy of the model on these slides for so many epochs first, see
        :meth:`stimage.models.STImage.adapt`; ``model`` stays as it is.
    output
        Of an ``STImage`` and one AnnData: path of a zarr array to write the embedding to instead of ``adata``, a few rows of
        windows at a time. ``adata`` stays as it is, and what ``uns`` would say is in the attributes of the array.
    seed
        Seed of all that is random: starts of codes, sites masked together, draws of genes, adaptation. ``None`` takes
        ``scvi.settings.seed``, or 0 where that is not set.
    key_added
        Key of the embedding.
    copy
        Return a copy, or a list of them, instead of writing to ``adata``.
    options
        Those of the model's ``get_latent_representation``: ``mode``, ``tile_size``, ``n_genes`` and ``batch_size`` of an
        :meth:`STImage <stimage.models.STImage.get_latent_representation>`; ``modality``, ``level``, ``image_dir`` and
        ``cache_dir`` of an :meth:`aligner <stimage.models.STAlign.get_latent_representation>`; the closed form has none.

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
    TypeError
        If the model has no such option.
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
    if output is not None:
        _check_output(output, adata, key_added, copy)
        options["output"] = output
    notes = [notes_of(one) for one in adatas]
    counted = [with_layer(one, layer) for one in adatas]
    found = embed_slides(counted, model, adapt_epochs=adapt_epochs, seed=seed_of(seed), options=options)
    if output is not None:
        return None
    written = [one.copy() for one in adatas] if copy else adatas
    for one, (embedding, entry), earlier in zip(written, found, notes, strict=True):
        one.obsm[key_added] = embedding
        one.uns[_keys.STIMAGE] = {**earlier, key_added: entry}
    if not copy:
        return None
    return written if isinstance(adata, list | tuple) else written[0]


def _check_output(output: str | Path, adata: Any, key_added: str, copy: bool) -> None:
    from stimage.models.embedding._output import check_absent

    check_absent(output)
    if isinstance(adata, list | tuple):
        raise ValueError("`output` takes the embedding of one AnnData, not of a list: embed them one by one.")
    if key_added != _keys.REPRESENTATION or copy:
        raise ValueError("`key_added` and `copy` are for what is written to `adata`, not to `output`: leave them out.")
