from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from stimage import _keys, _validate
from stimage._count_rows import count_rows
from stimage._counts import stored_matrix
from stimage._features import counted_genes
from stimage.data.lattices import Lattice, lattice_of
from stimage.data.slides._counts_matrix import CountsMatrix
from stimage.data.slides._expression import COUNTS_PER_SPOT, rescaled
from stimage.data.slides._row_matrix import RowMatrix
from stimage.data.slides._spot_sketch import spot_sketch

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Slide:
    """A slide seen as an image: expression of its sites and a raster of row numbers.

    Sites are numbered in raster order (row by row), so that a window reads few contiguous runs of rows.

    Parameters
    ----------
    name
        Name of the slide.
    expression
        CSR matrix (sites x genes), in memory or on disk, of log1p of counts per ``target_sum``, which is 10,000 in a slide
        as it is read from an AnnData; the counts of all genes of the slide, not only those kept here, make the library size.
    library_size
        Counts of each site over all genes: antibodies, control probes, blanks and genes of another species are none. A site with none is tissue without data: it is never shown to a model.
    raster
        Integer image (rows x columns) of site numbers, -1 where there is no tissue.
    layout
        Key of :data:`LATTICES`: ``"hex"``, ``"square"``, ``"rank"`` or ``"bins"``.
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
    donor
        Who the tissue is from; empty when unknown.
    spot_sketch
        Fingerprint of observations and counts, by which a benchmark recognises the slide; empty when unknown.
    target_sum
        Counts that each site's expression adds up to before the logarithm, over all genes of the slide.
    known_mean
        Mean over the active sites where it is known already (genes), so that it is not computed from the expression.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])[0]
    >>> slide.n_sites == adata.n_obs, slide.expression.shape[1]
    (True, 100)
    """

    name: str
    expression: sparse.csr_matrix | RowMatrix
    library_size: np.ndarray
    raster: np.ndarray
    layout: str
    parity: int
    measured: np.ndarray
    observation_index: np.ndarray
    site_of_observation: np.ndarray
    centre: np.ndarray | None = None
    donor: str = ""
    spot_sketch: str = ""
    target_sum: float = COUNTS_PER_SPOT
    known_mean: np.ndarray | None = None

    @property
    def n_sites(self) -> int:
        """Number of sites with tissue."""
        return self.expression.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the raster."""
        return self.raster.shape

    @property
    def lattice(self) -> Lattice:
        """The lattice of the raster."""
        return lattice_of(self.layout)

    @cached_property
    def positions(self) -> np.ndarray:
        """Physical position of each site, in units of the distance between neighbours (sites x 2)."""
        return self.lattice.positions(*self.site_index.T, self.parity)

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
        if self.known_mean is not None:
            return self.known_mean
        weights = self.active / max(self.active.sum(), 1)
        if not isinstance(self.expression, RowMatrix):
            return np.asarray(self.expression.T @ weights, dtype=np.float32)
        mean = np.zeros(self.expression.shape[1])
        for sites, block in self.expression.row_blocks(self.active):
            # The sum so far is added as a row: rounded as if all rows were multiplied at once.
            rows = sparse.vstack([sparse.csr_matrix(mean), block], format="csr")
            mean = rows.T @ np.append(1.0, weights[sites])
        return mean.astype(np.float32)

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
        raster = np.where(allowed, self.raster, -1).astype(np.int32)
        return replace(self, raster=raster, centre=centre, known_mean=None)

    def hide(self, sites: np.ndarray) -> Slide:
        """The same slide with some sites treated as tissue without data.

        Nothing of the hidden sites' expression enters means, variances or a model.

        Parameters
        ----------
        sites
            Boolean mask over the sites.

        Returns
        -------
        Slide
            Shares the expression with this one.
        """
        return replace(self, library_size=np.where(sites, 0, self.library_size), known_mean=None)

    def to_target_sum(self, target_sum: float) -> Slide:
        """The same slide with expression as log1p of counts per another number.

        The smaller the number, the closer to counts themselves and the less a gene's single counts weigh.

        Parameters
        ----------
        target_sum
            Counts that each site adds up to.

        Returns
        -------
        Slide
            A slide with its own expression, or this one when nothing changes. Expression on disk is converted as it is read.

        Raises
        ------
        ValueError
            If the slide is centred on given expression, which belongs to the old scale.
        """
        if target_sum == self.target_sum:
            return self
        if self.centre is not None:
            raise ValueError(f"Slide {self.name!r} has its own `centre`: change `target_sum` before restricting it.")
        ratio = target_sum / self.target_sum
        if isinstance(self.expression, RowMatrix):
            expression = self.expression.rescaled(ratio)
        else:
            old = self.expression
            expression = sparse.csr_matrix((rescaled(old.data, ratio), old.indices, old.indptr), shape=old.shape)
        return replace(self, expression=expression, target_sum=target_sum, known_mean=None)

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
        donor: str = "",
        gene_of_variable: np.ndarray | None = None,
        in_memory: bool = True,
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
        donor
            Who the tissue is from; empty when unknown.
        gene_of_variable
            Vocabulary index of each variable, -1 for none (variables); by default that of the gene of the same name.
        in_memory
            Keep the expression. Otherwise rows of it are computed from the counts of ``adata`` whenever they are needed,
            which suits what goes through a slide a few times.

        Returns
        -------
        Slide
            The slide; counts of observations on one site are added, and so are those of variables that are one gene.

        Raises
        ------
        KeyError
            If there is no grid, or no slide of this name in it.
        ValueError
            If the slide has one observation or no counts, or its observations do not fit the grid.
        """
        grid = _validate.check_grid(adata, grid_key)
        if name not in grid.index:
            raise KeyError(f"Slide {name!r} is not in `adata.uns[{grid_key!r}]`, which knows {list(grid.index)[:5]}.")
        facts = grid.loc[name]
        lattice = lattice_of(str(facts["layout"]))
        if observations is None:
            observations = np.arange(adata.n_obs)
        raster, site_of_observation = slide_raster(adata, observations, name=name, grid_key=grid_key)
        counts = stored_matrix(adata, layer)
        is_counted = counted_genes(adata, counts)
        if gene_of_variable is None:
            import pandas as pd

            gene_of_variable = pd.Index(genes).get_indexer(adata.var_names)
        expression = CountsMatrix(
            counts,
            observations,
            site_of_observation,
            is_counted=is_counted,
            gene_of_variable=gene_of_variable,
            n_genes=len(genes),
        )
        if not expression.library_size.any():
            raise ValueError(
                f"Slide {name!r} of `adata` has no counts, all are zero: remove it, or read the layer that has counts."
            )
        coordinates = slide_coordinates(adata, grid_key)
        sketch = spot_sketch(
            adata.obs_names[observations],
            expression.totals,
            lambda chosen: count_rows(counts, observations[chosen]),
            adata.var_names,
            None if coordinates is None else coordinates[observations],
        )
        return cls(
            name=name,
            expression=expression.in_memory() if in_memory else expression,
            library_size=expression.library_size,
            raster=raster,
            layout=lattice.name,
            parity=int(facts["parity"]),
            measured=np.isin(np.arange(len(genes)), gene_of_variable[is_counted]),
            observation_index=np.asarray(observations),
            site_of_observation=site_of_observation,
            donor=donor,
            spot_sketch=sketch,
        )


def slide_raster(
    adata: AnnData, observations: np.ndarray, *, name: str, grid_key: str
) -> tuple[np.ndarray, np.ndarray]:
    """Raster of the sites of a slide (rows x columns), and the site of each of its observations.

    Raises
    ------
    ValueError
        If there is one observation, or observations do not fit the grid.
    """
    facts = adata.uns[grid_key]["slides"].loc[name]
    if len(observations) < 2:
        raise ValueError(
            f"Slide {name!r} of `adata` has {len(observations)} observations, at least 2 are needed: remove it."
        )
    shape = (int(facts["n_rows"]), int(facts["n_cols"]))
    flat = _flat_sites(adata, observations, shape, name, grid_key)
    sites, site_of_observation = np.unique(flat, return_inverse=True)
    if len(sites) < len(observations) and not lattice_of(str(facts["layout"])).shares_sites:
        raise ValueError(
            f"{len(observations) - len(sites)} observations of slide {name!r} share a site with another in the grid "
            f"`grid_key`={grid_key!r}: run `stimage.pp.compact_grid` again, with `slide_key=` if `adata` holds several "
            "slides."
        )
    raster = np.full(shape, -1, dtype=np.int32)
    raster.flat[sites] = np.arange(len(sites))
    return raster, site_of_observation


def slide_coordinates(adata: AnnData, grid_key: str) -> np.ndarray | None:
    """The coordinates that a grid was built from (observations x 2); ``None`` where there are none, or no numbers."""
    key = str(adata.uns[grid_key].get("params", {}).get("spatial_key", ""))
    if key not in adata.obsm:
        return None
    coordinates = np.asarray(adata.obsm[key])
    return coordinates if np.issubdtype(coordinates.dtype, np.number) else None


def _flat_sites(
    adata: AnnData, observations: np.ndarray, shape: tuple[int, int], name: str, grid_key: str
) -> np.ndarray:
    """Site of some observations as a number in raster order."""
    keys = (_keys.grid_row(grid_key), _keys.grid_col(grid_key))
    index = [adata.obs[key].to_numpy(dtype=np.float64, na_value=np.nan)[observations] for key in keys]
    fits = np.all([(part >= 0) & (part < n) & (part == np.rint(part)) for part, n in zip(index, shape, strict=True)], 0)
    if not fits.all():
        raise ValueError(
            f"adata.obs[{keys[0]!r}] and adata.obs[{keys[1]!r}] of {int((~fits).sum())} observations (e.g. "
            f"{_validate.listing(adata.obs_names[observations[~fits]], 3)}) are not in slide {name!r} of {shape[0]} x "
            f"{shape[1]} sites: run `stimage.pp.compact_grid` again."
        )
    return (index[0] * shape[1] + index[1]).astype(np.int64)


def site_positions(rows: np.ndarray, cols: np.ndarray, *, layout: str, parity: int = 0) -> np.ndarray:
    """Physical positions of raster sites, in units of the distance between neighbours.

    On a hexagonal lattice every second row is shifted by half a site and rows are √3/2 apart; on the others of this package
    rows and columns are one unit apart.

    Parameters
    ----------
    rows, cols
        Raster indices (sites).
    layout
        Layout of the slide: a key of :data:`LATTICES`.
    parity
        Parity of the slide, see :class:`Slide`.

    Returns
    -------
    numpy.ndarray
        x and y of each site (sites x 2), float32.

    Raises
    ------
    ValueError
        If the layout is not known.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.data import site_positions
    >>> site_positions(np.array([0, 1]), np.array([0, 0]), layout="hex").round(2).tolist()
    [[0.0, 0.0], [0.5, 0.8700000047683716]]
    """
    return lattice_of(layout).positions(rows, cols, parity).astype(np.float32)
