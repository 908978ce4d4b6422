"""Embedding slides with any model, or with none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stimage import _validate, pretrained
from stimage._settings import say
from stimage.models._base import SlideModel
from stimage.models._setup import check_setup, corpus_of, setup_of
from stimage.models._smoothed_pca import N_POOL_GENES, SmoothedPCA

if TYPE_CHECKING:
    from anndata import AnnData

CHOICES = ("closed", "human")
FEWEST_SITES = 1_000
"""Sites of a slide below which a checkpoint is not asked: on slides of a few hundred its predictions gained nothing."""
MOST_SITES = 50_000
"""Sites of all slides above which it is not asked either: it takes about a millisecond of a processor for each."""


def embed_slides(
    adatas: list[AnnData],
    model: Literal["closed", "human"] | SlideModel | None,
    *,
    adapt_epochs: int,
    seed: int,
    options: dict[str, Any],
    accelerator: str = "auto",
    device: int | str = "auto",
) -> list[tuple[Any, dict[str, Any]]]:
    """Embedding of each AnnData, and what to note beside it; see :func:`stimage.tl.embed`.

    Parameters
    ----------
    adatas
        The slides.
    model
        The model, or the name of one; ``None`` for the closed form.
    adapt_epochs
        Epochs of adaptation of a model that can be adapted.
    seed
        Seed of everything random.
    options
        Options of the model's ``get_latent_representation``.
    accelerator, device
        Where a model runs; the closed form has the CPU alone.

    Returns
    -------
    list of tuple
        Vectors (observations x dimensions), and entries of ``uns``.

    Raises
    ------
    TypeError
        If the model has no such option.
    ValueError
        If there is no such device, or the closed form is asked for elsewhere than on the CPU.
    """
    _validate.check_seed(seed)
    where = {"accelerator": accelerator, "device": device}
    if list(where.values()) != ["auto", "auto"]:  # which need no torch
        from stimage.models._devices import find_device

        if find_device(accelerator, device).type != "cpu" and (model == "closed" or isinstance(model, SmoothedPCA)):
            raise ValueError(
                f"`accelerator`={accelerator!r} and `device`={device!r} are for models that run there: the closed form is computed "
                "on the CPU. Leave them out."
            )
    if isinstance(model, str):
        _validate.check_choice("model", model, CHOICES)
    if model is None or model == "closed" or (model == "human" and not options and not adapt_epochs):
        _check_options(SmoothedPCA, adapt_epochs, options)
        return _embed_on_own_axes(adatas, model, seed, **where)
    if model == "human":
        model = pretrained.load()
    elif not isinstance(model, SlideModel):
        raise TypeError(
            f"`model` must be None, {_validate.listing(CHOICES)} or a model of stimage.models, found "
            f"{type(model).__name__}: train one with `stimage.tl.pretrain(adata)` or load one."
        )
    known = _check_options(type(model), adapt_epochs, options)
    if "seed" in known:
        options = {**options, "seed": seed}
    noted = {name: value for name, value in options.items() if name != "output"}
    model.embedding_record(**noted)  # raises for values that the model cannot be asked for
    if isinstance(model, SmoothedPCA):
        return [(model.get_latent_representation(adata), model.embedding_record(adata)) for adata in adatas]
    from stimage.models._devices import find_device, on_device, trainer_devices

    if adapt_epochs:
        model = model.adapt(adatas, adapt_epochs, seed=seed, **trainer_devices(accelerator, device))
    with on_device(find_device(accelerator, device, model.module), model.module):  # once for all slides
        return [
            (model.get_latent_representation(adata, **options, **where), model.embedding_record(adata, **noted))
            for adata in adatas
        ]


def _embed_on_own_axes(
    adatas: list[AnnData], model: Literal["closed", "human"] | None, seed: int, **where: Any
) -> list[tuple[np.ndarray, dict[str, Any]]]:
    """Embeddings by the closed form, with what the package knows of other slides where it fits or is asked for."""
    notes: dict[str, Any] = {"tissue": "", "tissue_manifest": ""}
    notes |= {"predictor": "", "predictor_id": "", "predictor_manifest": ""}
    said, genes = [], None
    if model is None:
        for adata in adatas:
            check_setup(adata, setup_of(adata), backed=True)
        known = pretrained.known_tissues()
        tissue = known.recognise(adatas) if known else None
        if tissue:
            genes = tissue.genes
            seen = json.dumps({"slides": tissue.slides}, sort_keys=True)
            notes |= {"tissue": tissue.tissue, "tissue_manifest": seen, "tissue_correlation": tissue.correlation}
            said.append(
                f"on genes that vary in {tissue.tissue} (variation of genes correlates by {tissue.correlation:.2f})"
            )
    corpus = corpus_of(adatas, genes, N_POOL_GENES, parameter="adata", in_memory=False, backed=True)
    predicted: list[np.ndarray | None] = [None] * len(corpus)
    n_sites = [int(slide.active.sum()) for slide in corpus]
    fit = min(n_sites) >= FEWEST_SITES and sum(n_sites) <= MOST_SITES
    if model == "human" or (model is None and fit and pretrained.measures_enough(adatas)):
        from stimage.models._own_axes import LEAST_RATIO, fit_on_own_axes

        checkpoint = pretrained.load()
        fitted, predicted, found = fit_on_own_axes(
            adatas, corpus, checkpoint, seed=seed, asked=model == "human", **where
        )
        notes |= {"explained_by_predictor": found.model, "explained_by_neighbors": found.neighbors}
        used = predicted[0] is not None
        if used:
            seen = json.dumps(checkpoint.manifest_record(), sort_keys=True)
            notes |= {"predictor": "human", "predictor_id": checkpoint.model_id, "predictor_manifest": seen}
        said.append(
            f"{'with' if used else 'without'} the checkpoint 'human', which explains {found.ratio:.2f} of what neighbours explain "
            f"of masked sites ({LEAST_RATIO} or more are asked for)"
        )
    else:
        fitted = SmoothedPCA(corpus, seed=seed)
    if said and model is None:
        say(f"Embedded in closed form {', '.join(said)}.")
    vectors = fitted.embed(corpus, predicted)
    parts = np.split(vectors, np.cumsum([adata.n_obs for adata in adatas])[:-1])
    return [(part, {**fitted.embedding_record(adata), **notes}) for adata, part in zip(adatas, parts, strict=True)]


def _check_options(kind: type[SlideModel], adapt_epochs: int, options: dict[str, Any]) -> list[str]:
    """Options that a kind of model has; raise ``TypeError`` for others."""
    _validate.check_positive("adapt_epochs", adapt_epochs, smallest=0)
    known = [name for name in _validate.keyword_names(kind.get_latent_representation) if name != "data"]
    _validate.check_keys(
        f"{kind.__name__}.get_latent_representation",
        options,
        [name for name in known if name not in ("seed", "accelerator", "device")],
    )
    if adapt_epochs and not hasattr(kind, "adapt"):
        raise TypeError(
            f"`adapt_epochs`={adapt_epochs} trains a model further, and a {kind.__name__} is not trained so."
        )
    return known
