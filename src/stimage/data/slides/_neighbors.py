from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from stimage.data.slides._slide import Slide

SPARE = 32
"""Candidates looked at beyond the number asked for, so that sites at equal distance are all among them."""


class NearestSites:
    """Finds the nearest sites with data of any site of a slide.

    Parameters
    ----------
    slide
        The slide. Hidden sites and sites without counts are nobody's neighbours.

    Examples
    --------
    >>> import numpy as np
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])[0]
    >>> sti.data.NearestSites(slide)(np.array([0, 7]), 16).shape
    (2, 16)
    """

    def __init__(self, slide: Slide) -> None:
        self.positions = slide.positions
        self.candidates = np.flatnonzero(slide.active)
        self.tree = cKDTree(self.positions[self.candidates])

    def __call__(self, sites: np.ndarray, n_neighbors: int) -> np.ndarray:
        """Nearest other sites, by physical distance.

        Parameters
        ----------
        sites
            Site numbers (sites).
        n_neighbors
            How many neighbours each gets.

        Returns
        -------
        numpy.ndarray
            Site numbers (sites x neighbours), nearest first, of equally near ones the lower number first; -1 where the
            slide has too few sites.
        """
        n_candidates = min(2 * n_neighbors + 1 + SPARE, len(self.candidates))
        distance, index = self.tree.query(self.positions[sites], k=np.arange(1, n_candidates + 1))
        found = self.candidates[index]
        # The site itself goes last; rounding makes lattice distances that differ by rounding errors equal.
        distance = np.where(found == np.asarray(sites)[:, None], np.inf, distance.round(4))
        order = np.lexsort((found, distance))[:, :n_neighbors]
        nearest = np.full((len(sites), n_neighbors), -1, dtype=np.int64)
        chosen = np.take_along_axis(found, order, axis=1)
        chosen[np.isinf(np.take_along_axis(distance, order, axis=1))] = -1
        nearest[:, : chosen.shape[1]] = chosen
        return nearest
