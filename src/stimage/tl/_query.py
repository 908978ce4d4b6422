from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stimage import _keys, _validate
from stimage.models import STAlign
from stimage.models._setup import notes_of
from stimage.models.alignment._prediction import check_prediction
from stimage.models.alignment._query import found_on_slides, gene_weights

if TYPE_CHECKING:
    from anndata import AnnData


def query(
    adata: AnnData,
    aligner: STAlign,
    genes: str | Sequence[str] | Mapping[str, float],
    *,
    image_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    accelerator: str = "auto",
    device: int | str = "auto",
    key_added: str = _keys.QUERY,
    copy: bool = False,
) -> AnnData | None:
    """Look up marker genes on a slide: where does its image look like tissue that expresses them?

    The counts of ``adata`` are not looked at. Places are scored by how much more of the genes their image predicts than the mean
    of their slide, as :func:`stimage.tl.predict_expression` does by regression. :func:`stimage.pl.expression` with
    ``key="stimage_query"`` shows them.

    Parameters
    ----------
    adata
        AnnData after :func:`stimage.pp.compact_grid` and :func:`stimage.pp.build_niches`, with an image; of spots, or what
        :func:`stimage.tl.predict_expression` gave for an image alone.
    aligner
        A trained aligner with images, whose vocabulary holds the genes.
    genes
        Names of genes, or a weight for each: how much more (or, below 0, less) of it there is than in the mean of the slide,
        in log1p of counts per 10,000. Names alone have a weight of 1.
    image_dir
        Folder of the image files that ``uns["spatial"]`` names by relative paths.
    cache_dir
        Folder that keeps image features; by default in the user's cache.
    accelerator, device
        Where the aligner and its encoders run: ``"auto"`` (a GPU if there is one, as in training), ``"cpu"``, ``"gpu"``, ``"cuda"`` or ``"mps"``,
        and the number of the device. See the guide to GPUs.
    key_added
        Key of the result.
    copy
        Return a copy instead of writing to ``adata``.

    Returns
    -------
    AnnData or None
        With ``copy=True`` the copy. Writes:

    ``obs["stimage_query"]``
        Weighted sum of the predicted genes less its mean, in standard deviations, within each slide, float32.
    ``uns["stimage"]["stimage_query"]``
        Model id, version, vocabulary hash, and the genes that were looked up.

    Raises
    ------
    KeyError
        If grid, niches or image are missing, or the aligner knows none of the genes.
    TypeError
        If ``aligner`` is not an aligner.
    ValueError
        If the aligner was built without images or was not trained, or there is no such device.

    Warns
    -----
    UserWarning
        If the aligner does not know some of the genes: the others are looked up.

    Examples
    --------
    >>> import stimage as sti
    >>> sti.tl.query(sti.datasets.simulate_tissue(n_rows=20, n_cols=20), None, "GENE00001")
    Traceback (most recent call last):
    TypeError: `aligner` must be a stimage.models.STAlign, found NoneType: train one with `stimage.tl.align(adatas)`.
    """
    _validate.check_anndata(adata)
    if not isinstance(aligner, STAlign):
        raise TypeError(
            f"`aligner` must be a stimage.models.STAlign, found {type(aligner).__name__}: train one with "
            "`stimage.tl.align(adatas)`."
        )
    _validate.check_key_added(key_added)
    if key_added == "setup":
        raise ValueError('`key_added`="setup" is taken in adata.uns["stimage"]: choose another.')
    check_prediction(aligner, method="regression", n_neighbors=1)
    notes = notes_of(adata)
    weights = gene_weights(aligner, genes)
    looked_up = {str(aligner.genes[number]): float(weights[number]) for number in np.flatnonzero(weights)}
    where = {"accelerator": accelerator, "device": device}
    found = found_on_slides(aligner, adata, weights, image_dir=image_dir, cache_dir=cache_dir, **where)
    adata = adata.copy() if copy else adata
    adata.obs[key_added] = found
    entry = {**aligner.provenance(adata), "genes": list(looked_up), "weights": list(looked_up.values())}
    adata.uns[_keys.STIMAGE] = {**notes, key_added: entry}
    return adata if copy else None
