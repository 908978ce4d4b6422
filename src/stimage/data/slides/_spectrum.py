from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.linalg import LinearOperator, eigsh

from stimage.data.slides._slide import Slide

MOST_GENES = 5000
"""Genes up to which the gene-by-gene matrix is formed: 200 MB."""
MOST_SITES = 50_000
MOST_VALUES = 30_000_000
"""Non-zero values held in memory, 360 MB, where the gene-by-gene matrix is not formed."""
RUN = 64
"""Adjacent sites taken together, so that a part of a corpus on disk is read in few pieces."""


def principal_genes(
    slides: list[Slide], n_components: int, *, most_variance: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Principal axes of expression, centred per slide, over the active sites of all slides.

    Of more than 50,000 sites (with more than 5,000 genes, of more than 30 million non-zero values too) a part is taken:
    random runs of 64 adjacent sites, the same ones every time, so that memory stays bounded on a corpus of any size.

    Parameters
    ----------
    slides
        Slides of one vocabulary.
    n_components
        Number of axes; fewer are returned when there are not as many genes or sites.
    most_variance
        Genes of a variance above this quantile (of the genes that vary) are scaled down to it, so that a few genes do not lead
        the axes. The factors are part of the axes returned, which take expression as it is. By default no gene is scaled.

    Returns
    -------
    tuple
        Axes (genes x components, largest variance first, signs fixed so that the entry of largest magnitude is positive;
        orthonormal if no gene is scaled) and the standard deviation along each of them (components).

    Raises
    ------
    ValueError
        If ``most_variance`` is not above 0 and at most 1.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])[0]
    >>> axes, deviation = sti.data.principal_genes([slide], 10)
    >>> axes.shape, deviation.shape
    ((100, 10), (10,))
    """
    if not 0 < most_variance <= 1:
        raise ValueError(f"`most_variance` is a quantile above 0 and at most 1, but it is {most_variance}.")
    n_genes = slides[0].expression.shape[1]
    parts = [(slide, sites) for slide, sites in zip(slides, _chosen_sites(slides), strict=True) if len(sites)]
    n_sites = sum(len(sites) for _, sites in parts)

    if n_genes <= MOST_GENES:
        gram = np.zeros((n_genes, n_genes))
        for slide, sites in parts:
            block, mean = slide.expression[sites], slide.gene_mean.astype(np.float64)
            total = np.asarray(block.sum(axis=0), dtype=np.float64).ravel()
            gram += (block.T @ block).toarray()
            # One after the other: each product is as large as the matrix itself.
            gram += np.outer(block.shape[0] * mean, mean)
            gram -= np.outer(total, mean)
            gram -= np.outer(mean, total)
        scale = _scale(np.diag(gram), most_variance)
        gram *= np.outer(scale, scale)
    else:
        means = [slide.gene_mean.astype(np.float64) for slide, _ in parts]
        blocks = [slide.expression[sites].astype(np.float64) for slide, sites in parts]
        scale = _scale(sum(map(_squares, blocks, means)), most_variance)

        def multiply(vector: np.ndarray) -> np.ndarray:
            scaled = scale * vector.ravel()
            product = np.zeros(n_genes)
            for block, mean in zip(blocks, means, strict=True):
                score = block @ scaled - mean @ scaled
                product += block.T @ score - mean * score.sum()
            return scale * product

        gram = LinearOperator((n_genes, n_genes), matvec=multiply, dtype=np.float64)

    n_components = min(n_components, n_genes - 1, n_sites - 1)
    start = np.random.default_rng(0).standard_normal(n_genes)
    values, axes = eigsh(gram, k=n_components, v0=start)
    order = np.argsort(values)[::-1]
    values, axes = values[order], scale[:, None] * axes[:, order]
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(n_components)])
    return (axes * signs).astype(np.float32), np.sqrt(np.maximum(values, 0) / n_sites).astype(np.float32)


def _squares(block: csr_matrix, mean: np.ndarray) -> np.ndarray:
    """Sum of the squared deviations of each gene from ``mean``."""
    total = np.asarray(block.sum(axis=0)).ravel()
    return np.asarray(block.multiply(block).sum(axis=0)).ravel() - 2 * mean * total + block.shape[0] * mean**2


def _scale(squares: np.ndarray, most_variance: float) -> np.ndarray:
    """Factor of each gene that takes its sum of squares down to a quantile of those of the genes that vary."""
    varying = squares[squares > 1e-12 * squares.max(initial=0.0)]
    if most_variance == 1 or not len(varying):
        return np.ones(len(squares))
    most = np.quantile(varying, most_variance)
    return np.sqrt(most / np.maximum(squares, most))


def _chosen_sites(slides: list[Slide]) -> list[np.ndarray]:
    """Active sites of each slide, or a part of them where there are too many."""
    sites = [np.flatnonzero(slide.active) for slide in slides]
    in_memory = slides[0].expression.shape[1] > MOST_GENES
    # Numbers of sites and values of each run, for the runs of all slides.
    starts = [np.arange(0, len(own), RUN) for own in sites]
    n_sites, n_values = [], []
    for slide, own, first in zip(slides, sites, starts, strict=True):
        n_sites.append(np.minimum(len(own) - first, RUN))
        values = np.diff(slide.expression.indptr)[own] if in_memory else np.zeros(len(own), dtype=np.int64)
        n_values.append(np.add.reduceat(values, first) if len(own) else first)
    n_sites, n_values = np.concatenate(n_sites), np.concatenate(n_values)
    if n_sites.sum() <= MOST_SITES and n_values.sum() <= MOST_VALUES:
        return sites
    order = np.random.default_rng(0).permutation(len(n_sites))
    fits = (np.cumsum(n_sites[order]) <= MOST_SITES) & (np.cumsum(n_values[order]) <= MOST_VALUES)
    taken = np.zeros(len(n_sites), dtype=bool)
    taken[order[: max(fits.sum(), 1)]] = True
    parts = np.split(taken, np.cumsum([len(first) for first in starts])[:-1])
    return [own[np.repeat(part, RUN)[: len(own)]] for own, part in zip(sites, parts, strict=True)]
