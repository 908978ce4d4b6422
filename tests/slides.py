"""Small slides made from arrays, and AnnData on a Visium lattice."""

from __future__ import annotations

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from stimage.data import Slide, site_positions


def random_slide(
    n_rows: int = 9,
    n_cols: int = 8,
    *,
    n_genes: int = 6,
    layout: str = "hex",
    parity: int = 0,
    holes: float = 0.2,
    empty: float = 0.1,
    unmeasured: int = 0,
    name: str = "slide",
    seed: int = 0,
) -> Slide:
    """A slide with random expression, holes in the tissue and sites without counts."""
    rng = np.random.default_rng(seed)
    tissue = rng.random((n_rows, n_cols)) >= holes
    tissue.flat[rng.integers(tissue.size)] = True
    n_sites = int(tissue.sum())
    raster = np.full(tissue.shape, -1, dtype=np.int32)
    raster[tissue] = np.arange(n_sites)
    library_size = np.where(rng.random(n_sites) < empty, 0, rng.integers(50, 500, n_sites)).astype(np.float32)
    measured = np.arange(n_genes) < n_genes - unmeasured
    expression = rng.gamma(1.0, 1.0, (n_sites, n_genes)) * (rng.random((n_sites, n_genes)) < 0.6)
    expression *= (library_size > 0)[:, None] * measured
    return Slide(
        name=name,
        expression=sparse.csr_matrix(expression.astype(np.float32)),
        library_size=library_size,
        raster=raster,
        layout=layout,
        parity=parity,
        measured=measured,
        observation_index=np.arange(n_sites),
        site_of_observation=np.arange(n_sites),
    )


def visium(n_rows: int = 7, n_cols: int = 6, *, odd: bool = False, n_genes: int = 12, seed: int = 0) -> AnnData:
    """Poisson counts on a full Visium lattice whose first row is shifted right (``odd``) or not, in random order."""
    rng = np.random.default_rng(seed)
    row, col = np.divmod(rng.permutation(n_rows * n_cols), n_cols)
    obs = pd.DataFrame({"array_row": row, "array_col": 2 * col + (row + odd) % 2})
    obs.index = [f"spot{i}" for i in range(len(obs))]
    counts = rng.poisson(rng.gamma(1.0, 2.0, n_genes), (len(obs), n_genes)).astype(np.float32)
    counts[:, 0] += 1
    adata = AnnData(sparse.csr_matrix(counts), obs=obs)
    adata.var_names = [f"gene{i}" for i in range(n_genes)]
    adata.obsm["spatial"] = np.column_stack([obs["array_col"] * 50.0, obs["array_row"] * 50.0 * np.sqrt(3)])
    return adata


def pairs_mean(slide: Slide, values: np.ndarray, width: float) -> np.ndarray:
    """Gaussian means from all pairs of sites."""
    positions = site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity).astype(np.float64)
    squares = np.square(positions[:, None] - positions[None]).sum(axis=-1)
    weights = np.exp(-squares / (2 * width**2)) * slide.active
    return weights @ values / weights.sum(axis=1, keepdims=True)


def within_binomial_bound(count: np.ndarray, n_draws: int, probability: np.ndarray, n_deviations: float = 5.0) -> bool:
    """Whether counts of outcomes agree with their probabilities."""
    expected = n_draws * np.asarray(probability)
    deviation = np.sqrt(np.maximum(expected * (1 - np.asarray(probability)), 1e-9))
    return bool((np.abs(np.asarray(count) - expected) <= n_deviations * deviation + 1e-9).all())
