from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import pandas as pd

from stimage import _validate
from stimage.data import Corpus
from stimage.models._setup import manifest_of

if TYPE_CHECKING:
    from anndata import AnnData

ADAPTATION_RATE = 1 / 3
"""Learning rate of an adaptation over that of the training."""


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

        Genes that a slide does not measure are left out of its windows, and their embeddings stay as they were.

        Parameters
        ----------
        data
            Slides, over any genes that overlap the vocabulary. A slide may be smaller than the window.
        max_epochs
            Number of epochs.
        learning_rate
            Highest learning rate; a third of that of the training by default.
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
        rate = self.optimizer.learning_rate * ADAPTATION_RATE if learning_rate is None else learning_rate
        adapted.train(max_epochs, learning_rate=rate, **training)
        return adapted
