from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from stimage import _keys, _validate
from stimage.models import STAlign
from stimage.models._setup import notes_of, setup_of
from stimage.models.alignment._prediction import check_prediction
from stimage.models.alignment._prediction_layer import prediction_layer
from stimage.models.alignment.bare_slide._output import predicted_slide

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.models.alignment._prediction import PredictionMethod


def predict_expression(
    adata: AnnData | None = None,
    aligner: STAlign | None = None,
    *,
    image: str | Path | Any | None = None,
    micrometres_per_pixel: float | None = None,
    pitch: float | None = None,
    spot_distance: float | None = None,
    tissue: Literal["otsu", "all"] = "otsu",
    method: PredictionMethod = "regression",
    n_neighbors: int = 50,
    image_dir: str | Path | None = None,
    cache_dir: str | Path | None = None,
    accelerator: str = "auto",
    device: int | str = "auto",
    key_added: str = _keys.PREDICTED,
    copy: bool = False,
) -> AnnData | None:
    """Predict expression from the image alone, at the spots of ``adata`` or all over the tissue of an ``image``.

    The counts of ``adata`` are not looked at, and may all be zero. An ``image`` needs no spots at all: predictions are made at
    places of a square lattice over its tissue, which is found by its saturation. It is worked on by tiles, so that a whole
    slide takes little memory.

    Predictions are what similar looking tissue of the training slides expresses. They are shrunk towards the mean: compare
    genes by correlation over the slide, and judge them against the ridge regression of
    :func:`stimage.benchmark.evaluate_expression` on slides or patients left out.

    Parameters
    ----------
    adata
        AnnData after :func:`stimage.pp.compact_grid` and :func:`stimage.pp.build_niches`, with an image; ``None`` with
        ``image``.
    aligner
        A trained aligner.
    image
        Path of an image file, or an array (rows x columns, with or without channels), of a slide without spots.
    micrometres_per_pixel
        Size of a pixel of ``image`` at its full resolution.
    pitch
        Distance between the places to predict in micrometres; by default ``spot_distance``.
    spot_distance
        Distance between the spots of the training slides in micrometres, which says how large patches are; by default what
        their grids say.
    tissue
        ``"otsu"``: places on stained tissue, by Otsu's threshold of saturation; ``"all"``: on the whole image.
    method
        ``"regression"``: ridge regression on aligned image vectors; ``"retrieval"``: mean of the training
        spots whose gene vectors are nearest to the image vector.
    n_neighbors
        Training spots averaged in retrieval.
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
        With ``copy=True`` the copy. With ``image`` an AnnData of the places (places x predicted genes), whose counts in ``X`` are
        all zero, with a grid, ``obsm["spatial"]`` in pixels of the image, ``obs["tissue"]`` (share of tissue in the cell of a
        place) and a picture in ``uns["spatial"]``, which :func:`stimage.pl.expression` shows. Writes:

    ``layers["stimage_predicted"]``
        log1p of counts per 10,000 (observations x genes), float32; NaN for genes that the aligner does not know. With more than
        20 times as many genes as are predicted a sparse CSC matrix: the predicted genes are stored, and NaN for unknown genes that
        have counts in ``adata``; of a gene that has neither nothing is stored, which reads as 0.
    ``obsm["stimage_predicted"]``
        Instead of the layer, where the NaN would take ten times the room of the predictions: a data frame of the predicted
        genes alone (observations x predicted genes), float32.
    ``uns["stimage"]["stimage_predicted"]``
        Model id, version, parameters, vocabulary hash and gene overlap; with ``image`` its SHA-256, too.

    Raises
    ------
    TypeError
        If ``aligner`` is not an aligner.
    KeyError
        If grid, niches or image are missing.
    ValueError
        If the aligner was built without images or was not trained, too few genes are known to it, both ``adata`` and
        ``image`` are given or neither, the image shows no tissue, or there is no such device.

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
    _check_source(adata, image, copy=copy, of_image=[micrometres_per_pixel, pitch, spot_distance])
    if not isinstance(aligner, STAlign):
        raise TypeError(
            f"`aligner` must be a stimage.models.STAlign, found {type(aligner).__name__}: train one with "
            "`stimage.tl.align(adatas)`."
        )
    _validate.check_key_added(key_added)
    if key_added == "setup":
        raise ValueError('`key_added`="setup" is taken in adata.uns["stimage"]: choose another.')
    options = {"method": method, "n_neighbors": n_neighbors}
    where = {"accelerator": accelerator, "device": device}
    check_prediction(aligner, **options)
    if image is not None:
        for parameter, value in (("pitch", pitch), ("spot_distance", spot_distance)):
            if value is not None:
                _validate.check_range(parameter, value, 0, np.inf)
        _validate.check_range("micrometres_per_pixel", micrometres_per_pixel, 0, np.inf)
        _validate.check_choice("tissue", tissue, ("otsu", "all"))
        return predicted_slide(
            aligner,
            image,
            micrometres_per_pixel=micrometres_per_pixel,
            pitch=pitch,
            spot_distance=spot_distance,
            tissue=tissue,
            **options,
            **where,
            key_added=key_added,
        )
    notes = notes_of(adata)
    match = aligner.vocabulary.match(adata)
    match.report()
    reading = {"image_dir": image_dir, "cache_dir": cache_dir}
    predicted = aligner.predict_expression(adata, **options, **reading, **where)
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


def _check_source(adata: Any, image: Any, *, copy: bool, of_image: list[float | None]) -> None:
    """Raise unless there is one thing to predict for, and what belongs to it."""
    if image is None:
        if adata is None:
            raise TypeError(
                "`adata` must be an AnnData with an image and spots; or pass `image`, an image without spots."
            )
        _validate.check_anndata(adata)
        if any(value is not None for value in of_image):
            raise ValueError(
                "`micrometres_per_pixel`, `pitch` and `spot_distance` are of an `image`, which is not given: `adata` has spots."
            )
        return
    if adata is not None:
        raise ValueError("`adata` and `image` exclude one another: pass `None` for `adata`, or leave `image` out.")
    if copy:
        raise ValueError("`copy=True` is of `adata`: with `image` a new AnnData is returned anyway.")
    if of_image[0] is None:
        raise ValueError(
            "`micrometres_per_pixel` is needed with `image`: patches are cut at the scale of the training."
        )
