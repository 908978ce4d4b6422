"""Where on a slide the image looks like tissue that expresses some genes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from stimage import _validate
from stimage.models._devices import find_device, on_device, to_numpy
from stimage.modules import AlignmentBatch

if TYPE_CHECKING:
    from stimage.models._stalign import STAlign


def gene_weights(model: STAlign, genes: object) -> np.ndarray:
    """How much more or less of each gene of the vocabulary is asked for (genes), in units of log1p expression.

    Raises
    ------
    KeyError
        If the aligner knows none of the genes.
    TypeError, ValueError
        If ``genes`` is something else, or asks for nothing.
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
    weights = np.zeros(len(position), dtype=np.float32)
    for name, weight in known.items():
        weights[position[name]] = weight
    if not np.isfinite(weights).all() or not weights.any():
        raise ValueError(f"`genes` asks for {_validate.listing(known, 5)} with weights that are all 0 or not finite.")
    return weights


def query_vector(
    model: STAlign, weights: np.ndarray, *, accelerator: str = "auto", device: int | str = "auto"
) -> np.ndarray:
    """Gene vector of a spot that differs from its slide's mean by these weights, less that of the mean itself (dim)."""
    place = find_device(accelerator, device, model.module)
    with on_device(place, model.module):
        expression = torch.as_tensor(np.stack([weights, np.zeros_like(weights)]), device=place)
        vectors = to_numpy(model.module.embed(AlignmentBatch(spot_genes=expression), "spot", "gene"))
    return vectors[0] - vectors[1]


def similarity(images: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Cosine of image vectors of the spots of a slide (spots x dim), less their mean, with a query (dim)."""
    centred = images - images.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1) * max(float(np.linalg.norm(query)), 1e-12)
    return (centred @ query / np.maximum(lengths, 1e-12)).astype(np.float32)
