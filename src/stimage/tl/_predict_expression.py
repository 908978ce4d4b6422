from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stimage import _keys, _validate
from stimage.models import STAlign
from stimage.models._setup import notes_of, setup_of
from stimage.models.alignment._prediction_layer import prediction_layer

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.models._stalign import PredictionMethod


def predict_expression(
    adata: AnnData,
    aligner: STAlign,
    *,
    method: PredictionMethod = "regression",
    n_neighbors: int = 50,
    image_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    key_added: str = _keys.PREDICTED,
    copy: bool = False,
) -> AnnData | None:
    """Predict expression from the image alone; the counts of ``adata`` are not used and may all be zero.

    Predictions are what similar looking tissue of the training slides expresses. They are shrunk towards the mean: compare
    genes by correlation over the slide, and judge them against the ridge regression of
    :func:`stimage.benchmark.evaluate_expression` on slides or patients left out.

    Parameters
    ----------
    adata
        AnnData after :func:`stimage.pp.compact_grid` and :func:`stimage.pp.build_niches`, with an image.
    aligner
        A trained aligner.
    method
        ``"regression"``: ridge regression on aligned image vectors; ``"retrieval"``: mean of the training
        spots whose gene vectors are nearest to the image vector.
    n_neighbors
        Training spots averaged in retrieval.
    image_dir
        Folder of the image files that ``uns["spatial"]`` names by relative paths.
    cache_dir
        Folder that keeps image features; by default in the user's cache.
    key_added
        Key of the result.
    copy
        Return a copy instead of writing to ``adata``.

    Returns
    -------
    AnnData or None
        With ``copy=True`` the copy. Writes:

    ``layers["stimage_predicted"]``
        log1p of counts per 10,000 (observations x genes), float32; NaN for genes that the aligner does not know. With more than
        20 times as many genes as are predicted a sparse CSC matrix: the predicted genes are stored, and NaN for unknown genes that
        have counts in ``adata``; of a gene that has neither nothing is stored, which reads as 0.
    ``obsm["stimage_predicted"]``
        Instead of the layer, where the NaN would take ten times the room of the predictions: a data frame of the predicted
        genes alone (observations x predicted genes), float32.
    ``uns["stimage"]["stimage_predicted"]``
        Model id, version, parameters, vocabulary hash and gene overlap.

    Raises
    ------
    TypeError
        If ``aligner`` is not an aligner.
    KeyError
        If grid, niches or image are missing.
    ValueError
        If the aligner was built without images or was not trained, or too few genes are known to it.

    Warns
    -----
    UserWarning
        If genes match only when upper and lower case are ignored.

    Examples
    --------
    >>> import stimage as sti
    >>> sti.tl.predict_expression(sti.datasets.simulate_tissue(n_rows=20, n_cols=20), None)
    Traceback (most recent call last):
    TypeError: `aligner` must be a stimage.models.STAlign, found NoneType: train one with `stimage.tl.align(adatas)`.

    References
    ----------
    ST-Align, evaluation of gene expression prediction.
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
    notes = notes_of(adata)
    options = {"method": method, "n_neighbors": n_neighbors}
    aligner.check_prediction_options(**options)
    match = aligner.vocabulary.match(adata)
    match.report()
    predicted = aligner.predict_expression(adata, **options, image_dir=image_dir, cache_dir=cache_dir)
    adata = adata.copy() if copy else adata
    for place in (adata.layers, adata.obsm):  # of an earlier prediction
        place.pop(key_added, None)
    layer = prediction_layer(adata, predicted, match.gene_of_variable, setup_of(adata)["layer"])
    known = np.flatnonzero(match.gene_of_variable >= 0)
    if layer is None:
        values = predicted[:, match.gene_of_variable[known]]
        adata.obsm[key_added] = pd.DataFrame(values, index=adata.obs_names, columns=adata.var_names[known])
    else:
        adata.layers[key_added] = layer
    adata.uns[_keys.STIMAGE] = {**notes, key_added: {**aligner.provenance(adata), **options}}
    return adata if copy else None
