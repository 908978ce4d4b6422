"""Where on a slide the image looks like tissue that expresses some genes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stimage import _validate
from stimage.models._devices import find_device, on_device
from stimage.models.alignment._prediction import head_inputs, images_of

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.models._stalign import STAlign


def gene_weights(model: STAlign, genes: object) -> np.ndarray:
    """How much more or less of each gene of the vocabulary is asked for (genes), in units of log1p expression.

    Raises
    ------
    KeyError
        If the aligner knows none of the genes.
    TypeError, ValueError
        If ``genes`` is something else, or asks for nothing.

    Warns
    -----
    UserWarning
        If the aligner does not know some of the genes.
    """
    if isinstance(genes, str):
        genes = [genes]
    if isinstance(genes, Mapping):
        wanted = {str(name): float(weight) for name, weight in genes.items()}
    else:
        try:
            wanted = {str(name): 1.0 for name in genes}  # type: ignore[attr-defined]
        except TypeError as error:
            raise TypeError(
                f"`genes` must be names of genes, or weights by name, found {type(genes).__name__}."
            ) from error
    position = {name: number for number, name in enumerate(model.genes)}
    known = {name: weight for name, weight in wanted.items() if name in position}
    if not known:
        raise KeyError(
            f"`genes`: the aligner knows none of {_validate.listing(wanted, 5)}; it knows {_validate.listing(model.genes, 5)}."
        )
    unknown = [name for name in wanted if name not in position]
    if unknown:
        warnings.warn(
            f"The aligner does not know {_validate.listing(unknown, 5)}: only {_validate.listing(known, 5)} are looked up. Train "
            "with `genes=` that hold them.",
            UserWarning,
            stacklevel=3,
        )
    weights = np.zeros(len(position), dtype=np.float32)
    for name, weight in known.items():
        weights[position[name]] = weight
    if not np.isfinite(weights).all() or not weights.any():
        raise ValueError(f"`genes` asks for {_validate.listing(known, 5)} with weights that are all 0 or not finite.")
    return weights


def found_on_slides(
    model: STAlign,
    data: AnnData,
    weights: np.ndarray,
    *,
    accelerator: str = "auto",
    device: int | str = "auto",
    **reading: Any,
) -> np.ndarray:
    """How much more of some genes the image predicts than in the mean of a slide (observations), in standard deviations.

    That is the regression of expression before it is shrunk, which changes no order of places. The vector that encodes some
    genes alone is no such thing: spots that have more of a gene differ in all that goes with it.

    Parameters
    ----------
    model
        A trained aligner with images.
    data
        Slides with grid, niches and images.
    weights
        How much each gene of the vocabulary counts (genes).
    accelerator, device
        Where the aligner and its image encoders run.
    reading
        Folders of images and of their features.

    Returns
    -------
    numpy.ndarray
        One number for each observation, float32; 0 on a slide whose places all look the same.
    """
    place = find_device(accelerator, device, model.module)
    paired = model._paired_for(data, **reading, accelerator=accelerator, device=device, counts=False)
    direction = model.head.weights @ weights
    found = []
    with on_device(place, model.module):
        for slide in paired.slides:
            inputs = head_inputs(model.module, images_of(slide), spot_context=model.spot_context)
            values = (inputs - inputs.mean(axis=0)) @ direction
            found.append(values / max(float(values.std()), 1e-12))
    return np.concatenate(found)[paired.corpus.observation_order].astype(np.float32)
