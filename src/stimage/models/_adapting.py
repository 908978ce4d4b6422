from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
import torch

from stimage import _validate
from stimage.data import Corpus, Slide, principal_genes
from stimage.models._setup import manifest_of
from stimage.models.embedding._inference import project
from stimage.modules import MaskedAutoencoder, SpotAutoencoder

if TYPE_CHECKING:
    from anndata import AnnData


class AdaptMixin:
    """Training a copy of a model further on slides of the user."""

    def adapt(
        self,
        data: AnnData | Sequence[AnnData] | Corpus,
        max_epochs: int = 10,
        *,
        learning_rate: float | None = None,
        seed: int | None = None,
        **training: Any,
    ) -> Self:
        """Train a copy of this model further on some slides, without labels; this model stays as it is.

        Gene embeddings start anew from the principal axes of these slides, turned so that tokens stay as near as can be to
        what they were: genes that did not vary in the tissues of the training are heard from the start. Genes that a slide
        does not measure are left out of its windows, and their embeddings stay as they were.

        Parameters
        ----------
        data
            Slides, over any genes that overlap the vocabulary. A slide may be smaller than the window.
        max_epochs
            Number of epochs.
        learning_rate
            Highest learning rate; that of the training by default.
        seed
            Seed of windows, genes and masks; that of the training by default.
        training
            Passed on to :meth:`stimage.models.STImage.train`.

        Returns
        -------
        Self
            The adapted copy. Its manifest names the slides of both trainings, ``adapted_from`` (model id) and
            ``adapted_epochs``.

        Raises
        ------
        ValueError
            If too few genes are known to the model, or counts are not raw.

        Examples
        --------
        >>> import stimage as sti
        >>> first, second = (sti.datasets.simulate_tissue(n_rows=20, n_cols=20, seed=seed) for seed in (0, 1))
        >>> for adata in (first, second):
        ...     sti.pp.compact_grid(adata)
        >>> options = {"window": 8, "n_pool_genes": 200, "n_genes": 64, "max_epochs": 1, "enable_progress_bar": False}
        >>> model = sti.tl.pretrain(first, **options)
        >>> model.adapt(second, 1, enable_progress_bar=False).manifest["adapted_epochs"]
        1
        """
        _validate.check_positive("max_epochs", max_epochs)
        if seed is not None:
            _validate.check_seed(seed)
        adapted = copy.copy(self)
        adapted.module = copy.deepcopy(self.module)
        adapted.corpus = self._corpus_for(data)
        adapted.seed = self.seed if seed is None else seed
        added = manifest_of(adapted.corpus)
        adapted.manifest = {
            **self.manifest,
            "slides": pd.concat([self.manifest["slides"], added["slides"]], ignore_index=True),
            "adapted_from": self.model_id,
            "adapted_epochs": self.manifest.get("adapted_epochs", 0) + max_epochs,
        }
        turn_genes_to(adapted.module, list(adapted.corpus))
        adapted.train(max_epochs, learning_rate=learning_rate, **training)
        return adapted


@torch.no_grad()
def turn_genes_to(module: MaskedAutoencoder | SpotAutoencoder, slides: list[Slide]) -> None:
    """Replace gene embeddings by principal axes of some slides, in the orientation that the module is used to.

    The rotation is the orthogonal one that brings tokens from the axes closest to the module's own tokens (Procrustes).

    Parameters
    ----------
    module
        The module, changed in place. Genes that no slide measures stay as they are.
    slides
        Slides over the module's genes.
    """

    def tokens(of: MaskedAutoencoder | SpotAutoencoder) -> np.ndarray:
        parts = [project(of, slide).cpu().numpy()[slide.active] for slide in slides]
        return np.concatenate([part - part.mean(axis=0) for part in parts])

    fresh = copy.deepcopy(module)
    axes, deviation = principal_genes(slides, module.config.dim)
    fresh.genes.start_from_spectrum(torch.from_numpy(axes), torch.from_numpy(deviation))
    left, _, right = np.linalg.svd(tokens(fresh).T @ tokens(module))
    genes, device = module.genes, module.genes.embedding.device
    rotation = torch.as_tensor(left @ right, dtype=genes.embedding.dtype, device=device)
    measured = torch.as_tensor(np.any([slide.measured for slide in slides], axis=0), device=device)
    genes.embedding[measured] = (fresh.genes.embedding @ rotation)[measured]
    genes.output_embedding[measured] = (fresh.genes.output_embedding @ rotation)[measured]
    genes.output_projection.load_state_dict(fresh.genes.output_projection.state_dict())
