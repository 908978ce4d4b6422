"""The closed form of some slides, with what a checkpoint predicts of them where it knows their tissue."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stimage._settings import progress
from stimage.data import Corpus, Slide, Vocabulary
from stimage.models._devices import find_device, on_device
from stimage.models._setup import corpus_of
from stimage.models._smoothed_pca import TARGET_SUM, SmoothedPCA
from stimage.models.embedding._axes import own_axes
from stimage.models.embedding._neighbors import explained, explained_by_neighbors
from stimage.models.embedding._predicted import predicted_components
from stimage.models.embedding._readout import components_of, sample

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.models import STImage

LEAST_RATIO = 0.85
"""Of what a checkpoint explains to what Gaussian means do, from which on its predictions are used; see the user guide."""
TEST_SITES = 5_000
"""Sites that it is tested on."""


@dataclass(frozen=True)
class Familiarity:
    """How well a checkpoint predicts masked sites of slides, beside the best of six Gaussian means.

    Parameters
    ----------
    model
        Share of the principal components of masked sites that the checkpoint explains.
    neighbors
        The share that the Gaussian mean explains.
    """

    model: float
    neighbors: float

    @property
    def ratio(self) -> float:
        """What the checkpoint explains relative to the Gaussian mean."""
        return self.model / max(self.neighbors, 1e-6)


def fit_on_own_axes(
    adatas: Sequence[AnnData],
    corpus: Corpus,
    model: STImage,
    *,
    seed: int,
    asked: bool,
    accelerator: str = "auto",
    device: int | str = "auto",
) -> tuple[SmoothedPCA, list[np.ndarray | None], Familiarity]:
    """Closed form of slides, with what a checkpoint predicts of them where it knows their tissue.

    Parameters
    ----------
    adatas
        The slides.
    corpus
        The slides over the genes of the closed form.
    model
        The checkpoint.
    seed
        Seed of everything random.
    asked
        Use the predictions however well the checkpoint knows the tissue.
    accelerator, device
        Where the checkpoint runs.

    Returns
    -------
    tuple
        The closed form, predicted components of each slide (``None`` where they are not used) and the familiarity.
    """
    known = list(
        corpus_of(adatas, model.vocabulary, backed=True).to_target_sum(model.target_sum)
    )  # raises for too few genes
    scaled = corpus.to_target_sum(TARGET_SUM)
    own = list(scaled)
    axes = own_axes(own)
    place = shared_genes(adatas, corpus.vocabulary, model.vocabulary)
    on_model = np.zeros((len(model.genes), axes.shape[1]), dtype=np.float32)
    on_model[place[place >= 0]] = axes[place >= 0]
    options = {"tile_size": 2 * model.spec.window, "batch_size": 32, "seed": seed}

    def predict(slide: Slide) -> np.ndarray:
        return predicted_components(model.module, slide, on_model, **options)

    parts = sample(own, TEST_SITES, seed=seed)
    predicted: list[np.ndarray | None] = [None] * len(own)
    with on_device(find_device(accelerator, device, model.module), model.module):
        tested = {
            number: predict(
                known[number]
                if part is own[number]
                else known[number].restrict(part.raster >= 0, centre=known[number].gene_mean)
            )
            for number, (part, _) in parts.items()
        }
        familiarity = familiarity_of(axes, list(parts.values()), list(tested.values()), seed=seed)
        if asked or familiarity.ratio >= LEAST_RATIO:
            whole = {number: tested[number] for number, (part, _) in parts.items() if part is own[number]}
            predicted = [
                whole[number] if number in whole else predict(slide)
                for number, slide in enumerate(progress(known, "Predicting masked sites"))
            ]
    return SmoothedPCA.with_predictions(scaled, axes, predicted, seed=seed), predicted, familiarity


def familiarity_of(
    axes: np.ndarray,
    parts: Sequence[tuple[Slide, np.ndarray]],
    predicted: Sequence[np.ndarray],
    *,
    seed: int,
) -> Familiarity:
    """How well a checkpoint predicts masked sites; no label is used.

    Parameters
    ----------
    axes
        Principal axes (genes x components).
    parts
        Slides over their genes, and the sites of each that count.
    predicted
        Components of the sites of each slide that the checkpoint predicts (sites x components).
    seed
        Seed of the sites that are hidden from the Gaussian means.

    Returns
    -------
    Familiarity
        Over all sites that count.
    """
    own, theirs, neighbors = [], [], []
    for (slide, sites), found in zip(parts, predicted, strict=True):
        components = components_of(slide, axes)
        own.append(components[sites])
        theirs.append(found[sites])
        neighbors.append(explained_by_neighbors(slide, components, sites, seed=seed))
    weights = [float(np.square(part).sum()) for part in own]
    if not sum(weights):
        return Familiarity(0.0, 0.0)
    return Familiarity(
        explained(np.concatenate(own), np.concatenate(theirs)), float(np.average(neighbors, weights=weights))
    )


def shared_genes(adatas: Sequence[AnnData], own: Vocabulary, model: Vocabulary) -> np.ndarray:
    """Index in the vocabulary of a model of each gene of another, -1 for none; through the variables that are both."""
    place = np.full(len(own), -1)
    for adata in adatas:
        ours, theirs = (names.match(adata).gene_of_variable for names in (own, model))
        both = (ours >= 0) & (theirs >= 0)
        place[ours[both]] = theirs[both]
    return place
