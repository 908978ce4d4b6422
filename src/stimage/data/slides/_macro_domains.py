from __future__ import annotations

import warnings

import numpy as np
from scipy.cluster.vq import kmeans2

from stimage.data.slides._slide import Slide
from stimage.data.slides._spectrum import principal_genes

POSITION_WEIGHT = 0.2
N_COMPONENTS = 20


def macro_domains(slide: Slide, n_domains: int, *, seed: int = 0) -> np.ndarray:
    """Divide a slide into macro-domains of alike position and expression.

    k-means on position and principal components of expression side by side, each of unit total variance, with weights
    .2 and .8 (after SToFM, which clusters the same features with Leiden).

    Parameters
    ----------
    slide
        The slide.
    n_domains
        Number of macro-domains; fewer are found where there are fewer sites, or fewer that differ.
    seed
        Seed of the start of k-means.

    Returns
    -------
    numpy.ndarray
        Macro-domain of each site (sites), -1 for sites without data.

    Examples
    --------
    >>> import numpy as np
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> slide = sti.data.Corpus.from_anndata(adata, genes=adata.var_names[:100])[0]
    >>> np.unique(sti.data.macro_domains(slide, 4)).tolist()
    [0, 1, 2, 3]

    References
    ----------
    Spatial Transcriptomics as Images for Large-Scale Pretraining, Eq. 4.
    """
    sites = np.flatnonzero(slide.active)
    domains = np.full(slide.n_sites, -1, dtype=np.int64)
    if min(n_domains, len(sites)) < 2:
        domains[sites] = 0
        return domains
    axes, _ = principal_genes([slide], N_COMPONENTS)
    # The product of a slide on disk is taken block by block.
    components = (slide.expression @ axes)[sites] - slide.gene_mean @ axes
    blocks = [
        POSITION_WEIGHT * _unit_variance(slide.positions[sites]),
        (1 - POSITION_WEIGHT) * _unit_variance(components),
    ]
    with warnings.catch_warnings():
        # Spots may be alike: a macro-domain that ends up empty is left out.
        warnings.filterwarnings("ignore", message=".*clusters is empty.*")
        _, labels = kmeans2(np.hstack(blocks), min(n_domains, len(sites)), iter=50, minit="++", seed=seed)
    domains[sites] = np.unique(labels, return_inverse=True)[1]
    return domains


def _unit_variance(block: np.ndarray) -> np.ndarray:
    centred = block - block.mean(axis=0)
    return centred / max(np.sqrt((centred**2).sum(axis=1).mean()), 1e-12)
