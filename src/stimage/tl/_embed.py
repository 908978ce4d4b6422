from __future__ import annotations

import json
from typing import TYPE_CHECKING

from stimage import _keys, _validate, pretrained
from stimage.models import STImage
from stimage.models._options import embedding_mode
from stimage.models._setup import notes_of

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.models._inference import EmbeddingMode


def embed(
    adata: AnnData,
    model: STImage | None = None,
    *,
    mode: EmbeddingMode | None = None,
    tile_size: int | None = None,
    n_repeats: int = 3,
    n_genes: int | None = None,
    batch_size: int = 32,
    adapt_epochs: int = 0,
    seed: int = 0,
    key_added: str = _keys.REPRESENTATION,
    copy: bool = False,
) -> AnnData | None:
    """Embed every observation of a slide, seen with its surroundings.

    Parameters
    ----------
    adata
        AnnData after :func:`stimage.pp.compact_grid`, with any genes that overlap the model's: symbols or Ensembl ids,
        in ``var_names`` or a column of ``var``. Counts are read from ``X``, or from where
        :meth:`stimage.models.STImage.setup_anndata` said.
    model
        A trained model. By default the checkpoint that ships with the package, see :func:`stimage.pretrained.load`.
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
        Windows in a forward pass. The result does not depend on it.
    adapt_epochs
        Train a copy of the model on this AnnData for so many epochs first, see :meth:`stimage.models.STImage.adapt`;
        ``model`` stays as it is.
    seed
        Seed of the choice of sites hidden together, of gene draws and of adaptation.
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
    if model is not None:
        _validate.check_model(model, STImage)
    _validate.check_key_added(key_added)
    if key_added == "setup":
        raise ValueError('`key_added`="setup" is taken in adata.uns["stimage"]: choose another.')
    _validate.check_positive("adapt_epochs", adapt_epochs, smallest=0)
    notes = notes_of(adata)
    model = pretrained.load() if model is None else model
    mode = embedding_mode(mode, model.unit, tile_size=tile_size)
    if tile_size is None and model.unit.name == "patch":
        tile_size = 2 * model.spec.window
    options = {"mode": mode, "tile_size": tile_size, "n_repeats": n_repeats, "seed": seed}
    if adapt_epochs:
        model.check_embedding_options(**options, n_genes=n_genes, batch_size=batch_size)
        model = model.adapt(adata, adapt_epochs, seed=seed)
    embedding = model.get_latent_representation(adata, **options, n_genes=n_genes, batch_size=batch_size)
    entry = {**model.provenance(adata), **options, "tile_size": tile_size or 0, "n_genes_drawn": n_genes or 0}
    entry["manifest"] = json.dumps(model.manifest_record())
    adata = adata.copy() if copy else adata
    adata.obsm[key_added] = embedding
    adata.uns[_keys.STIMAGE] = {**notes, key_added: entry}
    return adata if copy else None
