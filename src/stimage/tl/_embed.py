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
    accelerator: str = "auto",
    device: int | str = "auto",
    key_added: str = _keys.REPRESENTATION,
    copy: bool = False,
    **options: Any,
) -> AnnData | list[AnnData] | None:
    """Embed every observation of one or several slides in the context of its tissue.

    Without a model nothing is trained: the embedding is the closed form of :class:`stimage.models.SmoothedPCA`, fitted to
    the slides that are given. It takes seconds and suits any species, panel and platform. If a slide is like a tissue that the
    package knows from other donors (genes vary alike, correlation of at least .72), it is made of the genes that vary most there;
    several slides are if all have 1,000 observations or more. If all slides share at least 200
    gene names with the checkpoint ``"human"``, up to 5,000 sites are masked and predicted by the checkpoint and by six
    Gaussian means of visible sites. The predictions of the checkpoint are added to the closed form if they explain at
    least .85 as much of the masked sites as the best mean. One printed line says both. No label is used.

    Parameters
    ----------
    adata
        AnnData after :func:`stimage.pp.compact_grid`, or a list of them; they may be backed. Slides that are given together, in a list or in one
        AnnData, share their axes, so that their embeddings can be compared. A model that was trained or fitted before needs
        some of its genes: symbols or Ensembl ids, in ``var_names`` or a column of ``var``.
    model
        ``None``: the closed form, with genes of a known tissue and predictions of the checkpoint where they help (see above).
        ``"closed"``: the closed form alone, without torch. ``"human"``: the closed form with predictions of the checkpoint always added; with ``adapt_epochs`` or
        ``options`` it is used as a trained model, see :func:`stimage.pretrained.load`. Or a model: a fitted
        :class:`stimage.models.SmoothedPCA`, an :class:`stimage.models.STImage` from :func:`stimage.tl.pretrain`, or an
        aligner from :func:`stimage.tl.align`.
    layer
        Layer with raw counts; by default the one that :meth:`stimage.models.STImage.setup_anndata` named, or ``X``.
    adapt_epochs
        For an ``STImage``: first train a copy of the model on these slides for this many epochs, see
        :meth:`stimage.models.STImage.adapt`; ``model`` is not changed.
    output
        For an ``STImage`` and one AnnData: path of a zarr array to write the embedding to, a few rows of windows at a time.
        ``adata`` is not changed; the attributes of the array hold what ``uns`` would.
    seed
        Seed of everything random: starts of codes, which sites are masked together, draws of genes, adaptation. ``None``
        takes ``scvi.settings.seed``, or 0 where that is not set.
    accelerator, device
        Where a model runs: ``"auto"`` (a GPU if there is one, as in training), ``"cpu"``, ``"gpu"``, ``"cuda"`` or ``"mps"``, and
        the number of the device; also where ``adapt_epochs`` are trained. The closed form is computed on the CPU, and refuses to
        be asked for elsewhere. See the guide to GPUs.
    key_added
        Key of the embedding.
    copy
        Return a copy, or a list of them, instead of writing to ``adata``.
    options
        Options of the model's ``get_latent_representation``: ``mode``, ``tile_size``, ``n_genes`` and ``batch_size`` of an
        :meth:`STImage <stimage.models.STImage.get_latent_representation>`; ``modality``, ``level``, ``image_dir`` and
        ``cache_dir`` of an :meth:`aligner <stimage.models.STAlign.get_latent_representation>`. The closed form has none.

    Returns
    -------
    AnnData, list of AnnData or None
        With ``copy=True`` the copy. Writes:

    ``obsm["X_stimage"]``
        Embedding (observations x dimensions), float32: at most 60 dimensions without a model. A site without counts is
        described by its neighbours.
    ``uns["stimage"]["X_stimage"]``
        Model and model id, version, parameters, vocabulary hash, seed and gene overlap; ``manifest``: JSON of the slides that
        the model was fitted or trained on. Without a model also ``tissue`` (the known tissue whose genes were taken, or empty),
        ``tissue_correlation``, ``tissue_manifest``, ``predictor`` (``"human"``, or empty where no predictions
        were added), ``predictor_id``, and where the checkpoint was tested ``explained_by_predictor`` and
        ``explained_by_neighbors``, the shares of the masked sites' components that are explained.

    Raises
    ------
    KeyError
        If there is no grid.
    TypeError
        If the model has no such option.
    ValueError
        If counts are not raw, the model knows too few of the genes, or there is no such device.
    FileExistsError
        If ``output`` exists already.
    FileNotFoundError
        If ``model="human"`` and the package was installed without the checkpoint.

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
    for one in adatas:
        _validate.check_copy(one, copy)
    _validate.check_key_added(key_added)
    if key_added == "setup":
        raise ValueError('`key_added`="setup" is taken in adata.uns["stimage"]: choose another.')
    if output is not None:
        _check_output(output, adata, key_added, copy)
        options["output"] = output
    notes = [notes_of(one) for one in adatas]
    counted = [with_layer(one, layer) for one in adatas]
    where = {"accelerator": accelerator, "device": device}
    found = embed_slides(counted, model, adapt_epochs=adapt_epochs, seed=seed_of(seed), options=options, **where)
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
