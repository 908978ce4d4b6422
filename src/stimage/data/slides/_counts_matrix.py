from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from stimage._count_rows import by_rows, count_rows, rows_at_a_time
from stimage.data.slides._expression import log_expression, rescaled
from stimage.data.slides._row_matrix import RowMatrix


class CountsMatrix(RowMatrix):
    """Log expression of sites that is computed from counts as rows are read, so that no copy of the counts is kept.

    The counts are those of an AnnData, in memory or in the file of a backed one. They are read once when the matrix is made,
    for what is known of all genes.

    Parameters
    ----------
    counts
        Raw counts (any observations x variables).
    observations
        Rows of the observations of the slide.
    site_of_observation
        Site of each of them.
    is_counted
        Which variables make the library size (variables).
    gene_of_variable
        Column of each variable, -1 for none (variables); variables of one column are added.
    n_genes
        Number of columns.

    Attributes
    ----------
    library_size
        Counts of each site, over the variables that are counted.
    totals
        Counts of each observation, over all variables.
    """

    def __init__(
        self,
        counts: Any,
        observations: np.ndarray,
        site_of_observation: np.ndarray,
        *,
        is_counted: np.ndarray,
        gene_of_variable: np.ndarray,
        n_genes: int,
    ) -> None:
        self._counts = by_rows(counts)
        by_site = np.argsort(site_of_observation, kind="stable")
        self._rows = np.asarray(observations)[by_site]
        n_sites = int(site_of_observation.max()) + 1
        self._starts = np.searchsorted(site_of_observation[by_site], np.arange(n_sites + 1))
        variables = np.flatnonzero((gene_of_variable >= 0) & is_counted)
        ones = np.ones(len(variables), dtype=np.float32)
        self._place = sparse.csr_matrix(
            (ones, (variables, gene_of_variable[variables])), shape=(counts.shape[1], n_genes)
        )
        self.library_size = np.zeros(n_sites, dtype=np.float32)
        self.totals = np.empty(len(by_site), dtype=np.float32)
        super().__init__((n_sites, n_genes), np.zeros(n_sites + 1, dtype=np.int64))
        counted = is_counted.astype(np.float32)
        lengths = np.empty(n_sites, dtype=np.int64)
        for sites in self._site_blocks(np.arange(n_sites)):
            rows, block = self._counts_of(sites)
            self.totals[by_site[rows]] = block @ np.ones(block.shape[1], dtype=np.float32)
            own = self._added(sites, block)
            self.library_size[sites] = own @ counted
            lengths[sites] = np.diff((own @ self._place).indptr)
        np.cumsum(lengths, out=self.indptr[1:])

    def _read(self, rows: np.ndarray) -> sparse.csr_matrix:
        blocks = []
        for sites in self._site_blocks(rows):
            own = self._added(sites, self._counts_of(sites)[1])
            blocks.append(log_expression(own @ self._place, self.library_size[sites]))
            if self.ratio != 1.0:
                blocks[-1].data = rescaled(blocks[-1].data, self.ratio)
        if not blocks:
            return sparse.csr_matrix((0, self.shape[1]), dtype=self.dtype)
        return blocks[0] if len(blocks) == 1 else sparse.vstack(blocks, format="csr")

    def _site_blocks(self, sites: np.ndarray) -> list[np.ndarray]:
        """Sites in parts of so many observations that their counts of all variables fit into a block."""
        n_observations = np.cumsum(self._starts[sites + 1] - self._starts[sites])
        part = (n_observations - 1) // rows_at_a_time(self._counts)
        return np.split(sites, np.flatnonzero(np.diff(part)) + 1) if len(sites) else []

    def _counts_of(self, sites: np.ndarray) -> tuple[np.ndarray, sparse.csr_matrix]:
        """Places of the observations of sites in the order of sites, and their counts."""
        first, n_observations = self._starts[sites], self._starts[sites + 1] - self._starts[sites]
        skipped = np.repeat(first - np.cumsum(n_observations) + n_observations, n_observations)
        rows = skipped + np.arange(len(skipped))
        return rows, count_rows(self._counts, self._rows[rows]).astype(np.float32, copy=False)

    def _added(self, sites: np.ndarray, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        """Counts of sites: those of their observations, added."""
        if counts.shape[0] == len(sites):
            return counts
        n_observations = self._starts[sites + 1] - self._starts[sites]
        ends = np.concatenate([[0], np.cumsum(n_observations)])
        ones = np.ones(counts.shape[0], dtype=np.float32)
        return sparse.csr_matrix((ones, np.arange(counts.shape[0]), ends)) @ counts
