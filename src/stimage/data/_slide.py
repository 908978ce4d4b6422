from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from stimage import _keys, _validate

if TYPE_CHECKING:
    from anndata import AnnData

COUNTS_PER_SPOT = 1e4
ROW_SPACING = {"hex": np.sqrt(3) / 2}


@dataclass(frozen=True)
class Slide:
    """A slide seen as an image: expression of its sites and a raster of row numbers.

    Sites are numbered in raster order (row by row), so that a window reads few contiguous runs of rows.

    Parameters
    ----------
    name
        Name of the slide.
    expression
        CSR matrix (sites x genes) of log1p of counts per 10,000; the counts of all genes of the slide, not only those
        kept here, make the library size.
    library_size
        Counts of each site over all genes. A site with none is tissue without data: it is never shown to a model.
    raster
        Integer image (rows x columns) of site numbers, -1 where there is no tissue.
    layout
        ``"hex"``, ``"square"``, ``"rank"`` or ``"bins"``.
    parity
        On a hexagonal lattice, row ``r`` is shifted right by half a site when ``(r + parity) % 2`` is 1.
    measured
        Which genes this slide measured (genes).
    observation_index
        Positions of the slide's observations in the AnnData that it came from (observations).
    site_of_observation
        Site of each of these observations (observations).
    centre
        Expression that counts as zero (genes); the mean over the active sites by default.
    """

    name: str
    expression: sparse.csr_matrix
    library_size: np.ndarray
    raster: np.ndarray
    layout: str
    parity: int
    measured: np.ndarray
    observation_index: np.ndarray
    site_of_observation: np.ndarray
    centre: np.ndarray | None = None

    @property
    def n_sites(self) -> int:
        """Number of sites with tissue."""
        return self.expression.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the raster."""
        return self.raster.shape

    @cached_property
    def active(self) -> np.ndarray:
        """Which sites are in the raster and have counts (sites)."""
        active = np.zeros(self.n_sites, dtype=bool)
        active[self.raster[self.raster >= 0]] = True
        return active & (self.library_size > 0)

    @cached_property
    def gene_mean(self) -> np.ndarray:
        """Expression that counts as zero: the mean of each gene over the active sites (genes)."""
        if self.centre is not None:
            return self.centre
        weights = self.active / max(self.active.sum(), 1)
        return np.asarray(self.expression.T @ weights, dtype=np.float32)

    @cached_property
    def site_index(self) -> np.ndarray:
        """Row and column of each site (sites x 2); -1 for sites that the raster does not show."""
        index = np.full((self.n_sites, 2), -1)
        rows, cols = np.nonzero(self.raster >= 0)
        index[self.raster[rows, cols]] = np.column_stack([rows, cols])
        return index

    def restrict(self, allowed: np.ndarray, *, centre: np.ndarray | None = None) -> Slide:
        """The same slide with only some raster positions left as tissue.

        Parameters
        ----------
        allowed
            Boolean image (rows x columns).
        centre
            Expression that counts as zero (genes); the mean over the remaining active sites by default.

        Returns
        -------
        Slide
            Shares the expression with this one.
        """
        return replace(self, raster=np.where(allowed, self.raster, -1).astype(np.int32), centre=centre)

    def hide(self, sites: np.ndarray) -> Slide:
        """The same slide with some sites treated as tissue without data.

        Nothing of the hidden sites' expression enters means, variances or a model.

        Parameters
        ----------
        sites
            Boolean mask over the sites.
        """
        return replace(self, library_size=np.where(sites, 0, self.library_size))

    @classmethod
    def from_anndata(
        cls,
        adata: AnnData,
        genes: np.ndarray,
        *,
        name: str = "slide",
        observations: np.ndarray | None = None,
        layer: str | None = None,
        grid_key: str = _keys.GRID,
    ) -> Slide:
        """Read one slide from an AnnData with a compact grid.

        Parameters
        ----------
        adata
            AnnData after :func:`stimage.pp.compact_grid`.
        genes
            Vocabulary: names of the genes to keep, in this order. Genes that the slide lacks are zero and not measured.
        name
            Name of the slide: its row in ``uns[grid_key]["slides"]``.
        observations
            Positions of the slide's observations; all of them by default.
        layer
            Layer with raw counts; ``X`` by default.
        grid_key
            ``key_added`` of the grid.

        Raises
        ------
        KeyError
            If there is no grid, or no slide of this name in it.
        ValueError
            If the counts are not raw counts.
        """
        grid = _validate.check_grid(adata, grid_key)
        if name not in grid.index:
            raise KeyError(f"Slide {name!r} is not in `adata.uns[{grid_key!r}]`, which knows {list(grid.index)[:5]}.")
        facts = grid.loc[name]
        if observations is None:
            observations = np.arange(adata.n_obs)
        counts = adata.layers[layer] if layer is not None else adata.X
        counts = sparse.csr_matrix(counts[observations], dtype=np.float32)

        rows = adata.obs[_keys.grid_row(grid_key)].to_numpy()[observations]
        cols = adata.obs[_keys.grid_col(grid_key)].to_numpy()[observations]
        shape = (int(facts["n_rows"]), int(facts["n_cols"]))
        sites, site_of_observation = np.unique(rows.astype(np.int64) * shape[1] + cols, return_inverse=True)
        if len(sites) < len(observations):
            ones = np.ones(len(observations), dtype=np.float32)
            gather = sparse.csr_matrix((ones, (site_of_observation, np.arange(len(observations)))))
            counts = gather @ counts
        else:
            counts = counts[np.argsort(site_of_observation)]
        raster = np.full(shape, -1, dtype=np.int32)
        raster.flat[sites] = np.arange(len(sites))

        library_size = np.asarray(counts.sum(axis=1)).ravel()
        names = adata.var_names.get_indexer(genes)
        measured = names >= 0
        scale = np.divide(COUNTS_PER_SPOT, library_size, out=np.zeros_like(library_size), where=library_size > 0)
        kept = sparse.csr_matrix(sparse.diags(scale) @ counts[:, names[measured]], dtype=np.float32)
        kept.data = np.log1p(kept.data)
        place = sparse.csr_matrix(
            (np.ones(measured.sum(), dtype=np.float32), (np.arange(measured.sum()), np.flatnonzero(measured))),
            shape=(int(measured.sum()), len(genes)),
        )
        expression = sparse.csr_matrix(kept @ place)
        expression.sort_indices()
        return cls(
            name=name,
            expression=expression,
            library_size=library_size,
            raster=raster,
            layout=str(facts["layout"]),
            parity=int(facts["parity"]),
            measured=measured,
            observation_index=np.asarray(observations),
            site_of_observation=site_of_observation,
        )


def site_positions(rows: np.ndarray, cols: np.ndarray, *, layout: str, parity: int = 0) -> np.ndarray:
    """Physical positions of raster sites, in units of the distance between neighbours.

    On a hexagonal lattice every second row is shifted by half a site and rows are √3/2 apart; elsewhere rows and
    columns are one unit apart.

    Parameters
    ----------
    rows, cols
        Raster indices (sites).
    layout
        Layout of the slide.
    parity
        Parity of the slide, see :class:`Slide`.

    Returns
    -------
    numpy.ndarray
        x and y of each site (sites x 2), float32.
    """
    shift = 0.5 * ((rows + parity) % 2) if layout == "hex" else 0.0
    return np.stack([cols + shift, rows * ROW_SPACING.get(layout, 1.0)], axis=-1).astype(np.float32)
