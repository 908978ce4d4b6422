from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from stimage.data.sampling._windows import Window, WindowSpec, read_sites
from stimage.data.slides._macro_domains import macro_domains
from stimage.data.slides._neighbors import NearestSites
from stimage.data.slides._slide import Slide

Unit = Literal["spot", "neighborhood", "slice", "patch"]
UNITS: tuple[Unit, ...] = ("spot", "neighborhood", "slice", "patch")
NeighborWeights = Literal["learned", "fixed"]
NEIGHBOR_WEIGHTS: tuple[NeighborWeights, ...] = ("learned", "fixed")


@dataclass(frozen=True)
class SampleUnit:
    """What one training sample is (the paper compares four).

    Parameters
    ----------
    name
        ``"spot"``: a spot without context (Eq. 2); ``"neighborhood"``: a spot and its nearest neighbours (Eq. 3);
        ``"slice"``: a slide in macro-domains (Eq. 4); ``"patch"``: a window (Eq. 8).
    n_neighbors
        Neighbours of a spot, for ``"neighborhood"``.
    neighbor_weights
        ``"learned"``: attention of the spot to its neighbours; ``"fixed"``: their mean.
    n_macro_domains
        Macro-domains of a slide, for ``"slice"``.

    Examples
    --------
    >>> from stimage.data import SampleUnit
    >>> SampleUnit("neighborhood").n_neighbors
    16
    """

    name: Unit = "patch"
    n_neighbors: int = 16
    neighbor_weights: NeighborWeights = "learned"
    n_macro_domains: int = 8


@dataclass(frozen=True)
class SpotSample(Window):
    """One training item of the units ``"spot"``, ``"neighborhood"`` and ``"slice"``: spots from all over a slide.

    It has as many tokens as a window, so that a step costs and sees the same whatever the unit.

    Parameters
    ----------
    expression, genes, gene_valid, observed, hidden
        As in :class:`Window`; single values are hidden, in neighbourhoods those of their centres alone.
    positions
        Physical x and y of each spot (sites x 2).
    group
        What each spot belongs to (sites): a number of its own, its neighbourhood in this sample, or its macro-domain of
        the slide. The centre of a neighbourhood comes first, its neighbours follow.

    Examples
    --------
    >>> import numpy as np
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])[0]
    >>> spots = sti.data.SpotSampler(slide, sti.data.SampleUnit("neighborhood"), seed=0)
    >>> sample = spots.draw(sti.data.WindowSpec(window=8, n_genes=64), np.random.default_rng(0))
    >>> sample.group[:18].tolist()
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    """

    group: np.ndarray


class SpotSampler:
    """Draws spots of a slide, with the context that a unit gives them.

    Parameters
    ----------
    slide
        The slide.
    unit
        ``"spot"``, ``"neighborhood"`` or ``"slice"``.
    seed
        Seed of the macro-domains.

    Examples
    --------
    >>> import numpy as np
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])[0]
    >>> spots = sti.data.SpotSampler(slide, sti.data.SampleUnit("spot"), seed=0)
    >>> spots.draw(sti.data.WindowSpec(window=8, n_genes=32), np.random.default_rng(0)).expression.shape
    (64, 32)
    """

    def __init__(self, slide: Slide, unit: SampleUnit, *, seed: int) -> None:
        self.slide = slide
        self.unit = unit
        self.active = np.flatnonzero(slide.active)
        self.nearest = NearestSites(slide)
        self.domains = macro_domains(slide, unit.n_macro_domains, seed=seed) if unit.name == "slice" else None

    def draw(self, spec: WindowSpec, rng: np.random.Generator) -> SpotSample:
        """Draw a sample of ``window ** 2`` tokens, or of the number of whole neighbourhoods that comes nearest to it.

        Spots, or centres, are drawn uniformly without replacement; a slide of fewer spots is padded. Macro-domains are
        those of the slide, represented by the spots that were drawn.

        Parameters
        ----------
        spec
            Number of tokens (``window ** 2``), genes and their selection, share of values to hide.
        rng
            Source of randomness.

        Returns
        -------
        SpotSample
            The sample.
        """
        group_size = 1 + self.unit.n_neighbors if self.unit.name == "neighborhood" else 1
        n_spots = max(round(spec.window**2 / group_size), 1)
        drawn = rng.permutation(self.active)[:n_spots]
        spots = np.full(n_spots, -1, dtype=np.int64)
        spots[: len(drawn)] = drawn
        sites = spots[:, None]
        if self.unit.name == "neighborhood":
            neighbors = np.full((n_spots, self.unit.n_neighbors), -1, dtype=np.int64)
            neighbors[: len(drawn)] = self.nearest(drawn, self.unit.n_neighbors)
            sites = np.hstack([sites, neighbors])
        group = np.repeat(np.arange(n_spots), group_size)
        is_spot = np.arange(sites.size) % group_size == 0
        sites = sites.ravel()
        if self.domains is not None:
            group = np.where(sites >= 0, self.domains[sites], 0)
        observed, expression, genes, gene_valid = read_sites(self.slide, sites, spec, rng)
        hidden = (rng.random(expression.shape) < spec.mask_ratio) & (observed & is_spot)[:, None] & gene_valid
        positions = np.where(observed[:, None], self.nearest.positions[sites], 0).astype(np.float32)
        return SpotSample(expression, genes, gene_valid, observed, hidden, positions, group)
