from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch.utils.data import Dataset

from stimage.data.sampling._windows import Window, WindowSpec, read_sites
from stimage.data.sampling.units._kind import SampleUnit
from stimage.data.slides._neighbors import NearestSites
from stimage.data.slides._slide import Slide


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
        self.kind = unit.kind
        self.prepared = self.kind.prepare(slide, unit, seed=seed)

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
        n_tokens = self.kind.tokens_per_spot(self.unit)
        n_spots = max(round(spec.window**2 / n_tokens), 1)
        drawn = rng.permutation(self.active)[:n_spots]
        sites = np.full((n_spots, n_tokens), -1, dtype=np.int64)
        sites[: len(drawn), 0] = drawn
        sites[: len(drawn), 1:] = self.kind.context(drawn, self.nearest, self.unit)
        group = self.kind.groups(sites, self.prepared).ravel()
        is_spot = np.arange(sites.size) % n_tokens == 0
        sites = sites.ravel()
        observed, expression, genes, gene_valid = read_sites(self.slide, sites, spec, rng)
        hidden = (rng.random(expression.shape) < spec.mask_ratio) & (observed & is_spot)[:, None] & gene_valid
        positions = np.where(observed[:, None], self.nearest.positions[sites], 0).astype(np.float32)
        return SpotSample(expression, genes, gene_valid, observed, hidden, positions, group)


class SpotDataset(Dataset):
    """Random spots of a set of slides, for the units without windows; item ``i`` is the same in every process.

    A slide is drawn in proportion to its sites, then as many of its spots as a window has tokens.

    Parameters
    ----------
    slides
        The slides.
    spec
        Tokens, genes and what is hidden.
    unit
        ``"spot"``, ``"neighborhood"`` or ``"slice"``.
    seed
        Seed of everything random.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])[0]
    >>> spec = sti.data.WindowSpec(window=8, n_genes=64)
    >>> spots = sti.data.SpotDataset([slide], spec, sti.data.SampleUnit("slice"), seed=0)
    >>> spots[0].expression.shape
    (64, 64)
    """

    def __init__(self, slides: list[Slide], spec: WindowSpec, unit: SampleUnit, *, seed: int) -> None:
        self.spec = spec
        self.seed = seed
        n_active = np.array([int(slide.active.sum()) for slide in slides])
        # The expression of one spot does not vary: there is nothing to predict.
        n_active[n_active < 2] = 0
        if not n_active.any():
            raise ValueError("No slide has data in at least two sites.")
        self.samplers = [SpotSampler(slide, unit, seed=seed) for slide, n in zip(slides, n_active, strict=True) if n]
        self.weights = n_active[n_active > 0] / n_active.sum()

    def __getitem__(self, index: int) -> SpotSample:
        rng = np.random.default_rng([self.seed, index])
        return self.samplers[rng.choice(len(self.samplers), p=self.weights)].draw(self.spec, rng)
