from __future__ import annotations

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, eigsh

from stimage.data._slide import Slide


def principal_genes(slides: list[Slide], n_components: int) -> tuple[np.ndarray, np.ndarray]:
    """Principal axes of expression, centred per slide, over the active sites of all slides.

    Parameters
    ----------
    slides
        Slides of one vocabulary.
    n_components
        Number of axes; fewer are returned when there are not as many genes or sites.

    Returns
    -------
    tuple
        Axes (genes x components, orthonormal, largest variance first, signs fixed so that the entry of largest
        magnitude is positive) and the standard deviation along each of them (components).

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
    n_genes = slides[0].expression.shape[1]
    active = [slide.expression[slide.active] for slide in slides]
    means = [slide.gene_mean.astype(np.float64) for slide in slides]
    n_sites = sum(block.shape[0] for block in active)

    if n_genes <= 5000:
        gram = np.zeros((n_genes, n_genes))
        for block, mean in zip(active, means, strict=True):
            total = np.asarray(block.sum(axis=0), dtype=np.float64).ravel()
            gram += (block.T @ block).toarray()
            gram += block.shape[0] * np.outer(mean, mean) - np.outer(total, mean) - np.outer(mean, total)
    else:
        stacked = sparse.vstack(active).astype(np.float64)
        sizes = np.array([block.shape[0] for block in active])
        mean_matrix = np.stack(means)
        owner = np.repeat(np.arange(len(slides)), sizes)

        def multiply(vector: np.ndarray) -> np.ndarray:
            score = stacked @ vector - (mean_matrix @ vector)[owner]
            return stacked.T @ score - mean_matrix.T @ np.bincount(owner, weights=score.ravel(), minlength=len(slides))

        gram = LinearOperator((n_genes, n_genes), matvec=multiply, dtype=np.float64)

    n_components = min(n_components, n_genes - 1, n_sites - 1)
    start = np.random.default_rng(0).standard_normal(n_genes)
    values, axes = eigsh(gram, k=n_components, v0=start)
    order = np.argsort(values)[::-1]
    values, axes = values[order], axes[:, order]
    signs = np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(n_components)])
    return (axes * signs).astype(np.float32), np.sqrt(np.maximum(values, 0) / n_sites).astype(np.float32)
