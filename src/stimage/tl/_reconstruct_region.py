from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stimage import _keys, _validate, pretrained
from stimage._settings import seed_of
from stimage.models import STImage
from stimage.models._setup import with_layer

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def reconstruct_region(
    adata: AnnData,
    model: STImage | None = None,
    *,
    layer: str | None = None,
    region: str | Sequence[str] | np.ndarray | pd.Series | None = None,
    size: int | None = None,
    context: int = 8,
    interval: float | None = None,
    seed: int | None = 0,
    accelerator: str = "auto",
    device: int | str = "auto",
    key_added: str = _keys.REGION,
    copy: bool = False,
) -> AnnData | None:
    """Mask a region of a slide and fill it in from the visible sites around it.

    The masked counts are used for the errors only: the means that the prediction is added to come from the
    visible sites. A model that was pretrained on the same slide has seen them in training, however.
    The prediction is calibrated on regions of the same shape elsewhere on the slide, see
    :meth:`stimage.models.STImage.reconstruct`.

    Parameters
    ----------
    adata
        AnnData after :func:`stimage.pp.compact_grid`.
    model
        A trained model. By default the checkpoint that ships with the package, see :func:`stimage.pretrained.load`.
    layer
        Layer with raw counts; by default the one that :meth:`stimage.models.STImage.setup_anndata` named, or ``X``.
    region
        What to mask: a boolean mask, observation names, or a boolean column of ``obs``. This includes damaged areas, whose
        counts are then not used. Sites without data are filled in by :func:`stimage.tl.fill_holes`.
    size
        Instead of ``region``: mask a random block of ``size`` x ``size`` sites.
    context
        Visible sites that the model uses on every side of the region.
    interval
        Also write bounds that should contain this share of the measured values, such as 0.9. Their width is calibrated on
        regions of the same shape elsewhere on the slide, see :meth:`stimage.models.STImage.reconstruct`.
    seed
        Seed of the block's place and of those that the prediction is calibrated on. ``None`` takes ``scvi.settings.seed``, or
        0 where that is not set.
    accelerator, device
        Where the model runs: ``"auto"`` (a GPU if there is one, as in training), ``"cpu"``, ``"gpu"``, ``"cuda"`` or ``"mps"``,
        and the number of the device. See the guide to GPUs.
    key_added
        Key of the results.
    copy
        Return a copy instead of writing to ``adata``.

    Returns
    -------
    AnnData or None
        With ``copy=True`` the copy. Writes:

    ``layers["stimage_region"]``
        Sparse (observations x genes), log1p of counts per 10,000: predicted for masked observations (NaN for genes that
        the model does not know), measured for the others.
    ``layers["stimage_region_lower"]``, ``layers["stimage_region_upper"]``
        With ``interval``: bounds for masked observations, in the same form; measured values for the others.
    ``obs["stimage_region_masked"]``
        Which observations were masked.
    ``uns["stimage_region"]``
        ``params``; ``errors``: a data frame with ``mse``, ``mae`` and ``pearson`` of each gene over the masked sites that
        have counts, with ``interval`` also ``coverage``, the share of them within the bounds; ``mse``, ``mae``, ``pearson``,
        ``coverage``: their means over genes.

    Raises
    ------
    KeyError
        If there is no grid, or ``region`` names what does not exist.
    ValueError
        If both or neither of ``region`` and ``size`` are given, nothing or everything would be masked, or ``interval`` is not
        between 0 and 1, or there is no such device.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> model = sti.models.STImage(adata, window=8, n_pool_genes=200, n_genes=64)
    >>> model.train(max_epochs=1, enable_progress_bar=False)
    >>> sti.tl.reconstruct_region(adata, model, size=4)
    >>> sorted(adata.uns["stimage_region"]["errors"].columns)
    ['mae', 'mse', 'pearson']

    References
    ----------
    Spatial Transcriptomics as Images for Large-Scale Pretraining, section 4 (masked region reconstruction).
    """
    _validate.check_anndata(adata)
    if model is not None:
        _validate.check_model(model, STImage)
    _validate.check_key_added(key_added)
    seed = seed_of(seed)
    model = pretrained.load() if model is None else model
    counted = with_layer(adata, layer)
    options = {"context": context, "interval": interval, "seed": seed, "accelerator": accelerator, "device": device}
    result = model.reconstruct_region(counted, region=region, size=size, **options)
    adata = adata.copy() if copy else adata
    adata.layers[key_added] = result.expression
    bounds = {_keys.region_lower(key_added): result.lower, _keys.region_upper(key_added): result.upper}
    for key, bound in bounds.items():
        if bound is not None:
            adata.layers[key] = bound
        elif key in adata.layers:  # of an earlier region
            del adata.layers[key]
    adata.obs[_keys.region_masked(key_added)] = result.masked
    summary = result.errors.mean()
    adata.uns[key_added] = {
        "params": {**model.provenance(counted), **result.params},
        "errors": result.errors,
        **{name: float(value) for name, value in summary.items()},
    }
    return adata if copy else None
