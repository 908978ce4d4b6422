from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import sparse

from stimage.data.slides._slide import Slide

_CLIP = 3.0
_SMALLEST_SPREAD = 1e-3


@dataclass(frozen=True)
class PairedSlide:
    """The spots of a slide with their niches: expression of both, and what is known of the image of both.

    Parameters
    ----------
    slide
        The slide. Its observations are the spots here, several of which may share a site.
    niches
        CSR matrix (spots x spots): row i has the spots of the niche of spot i, itself included; None to leave niches out.
    spot_image
        Features of the image patch of each spot (spots x features, float32), or the patch itself (spots x height x width
        x 3, uint8); None without histology.
    niche_image
        Features of the image patch of each niche (spots x features, float32); None without histology.
    spot_embedding
        Features of each spot's expression from a frozen encoder (spots x features, float32), in its place; None
        without one.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> sti.pp.build_niches(adata)
    >>> slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])[0]
    >>> paired = sti.data.PairedSlide(slide, adata.obsp["niche_connectivities"])
    >>> paired.batch([0, 1, 2])["niche_genes"].shape
    (3, 100)
    """

    slide: Slide
    niches: sparse.csr_matrix | None
    spot_image: np.ndarray | None = None
    niche_image: np.ndarray | None = None
    spot_embedding: np.ndarray | None = None

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        return len(self.slide.site_of_observation)

    @cached_property
    def measured(self) -> np.ndarray:
        """Which spots have counts (spots)."""
        return self.slide.active[self.slide.site_of_observation]

    @cached_property
    def niche_weights(self) -> sparse.csr_matrix:
        """Share of each spot in the mean over a niche (spots x sites); spots without counts have none."""
        n_spots = self.n_spots
        site_of_spot = sparse.csr_matrix(
            (self.measured.astype(np.float32), (np.arange(n_spots), self.slide.site_of_observation)),
            shape=(n_spots, self.slide.n_sites),
        )
        members = self.niches.astype(bool).astype(np.float32) @ site_of_spot
        total = np.asarray(members.sum(axis=1)).ravel()
        return sparse.csr_matrix(sparse.diags(1 / np.maximum(total, 1)) @ members, dtype=np.float32)

    def batch(self, spots: np.ndarray | list[int]) -> dict[str, np.ndarray]:
        """What a model is shown of some spots.

        Parameters
        ----------
        spots
            Positions of the spots.

        Returns
        -------
        dict
            ``spot_genes`` and ``niche_genes``: log expression less the slide's mean (spots x genes, float32), zero for a
            spot or a niche without counts; ``spot_genes`` is the embedding where there is one. ``spot_image`` and
            ``niche_image`` where there are any. Of niches there is nothing where they are left out.
        """
        spots = np.asarray(spots)
        sites = self.slide.site_of_observation[spots]
        mean = self.slide.gene_mean
        if self.spot_embedding is not None:
            spot_genes = self.spot_embedding[spots]
        else:
            spot_genes = self.slide.expression[sites].toarray() - mean
            spot_genes[~self.measured[spots]] = 0
        batch = {"spot_genes": spot_genes}
        if self.niches is not None:
            weights = self.niche_weights[spots]
            niche_genes = (weights @ self.slide.expression).toarray() - mean
            niche_genes[np.asarray(weights.sum(axis=1)).ravel() == 0] = 0
            batch["niche_genes"] = niche_genes
        for name in ("spot_image", "niche_image"):
            values = getattr(self, name)
            if values is not None:
                batch[name] = values[spots]
        return batch


def standardised_features(features: np.ndarray) -> np.ndarray:
    """Features of the patches of one slide, less their mean and over their spread, within three of it.

    Stain and scanner shift and scale features of a whole slide; single patches with folds or ink are far from the others.

    Parameters
    ----------
    features
        Features (patches x features).

    Returns
    -------
    numpy.ndarray
        Standardised features, float32.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.data import standardised_features
    >>> standardised_features(np.array([[0.0, 5.0], [2.0, 5.0]])).round(2).tolist()
    [[-1.0, 0.0], [1.0, 0.0]]
    """
    features = np.asarray(features, dtype=np.float32)
    # Sums of many float32 values drift: the mean of 100,000 equal ones is off by more than the smallest spread.
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features - mean.astype(np.float32)
    spread = np.sqrt(np.square(centred).mean(axis=0, dtype=np.float64))
    return standardised_by(features, mean, spread)


def standardised_by(features: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Features (patches x features) less a mean and over a spread that are known, within three of it, float32."""
    centred = features - mean.astype(np.float32)
    return np.clip(centred / (spread.astype(np.float32) + _SMALLEST_SPREAD), -_CLIP, _CLIP)
