"""Simulated tissue: counts, coordinates and domains whose truth is known."""

from typing import TYPE_CHECKING, get_args

import numpy as np
import pandas as pd

from stimage._keys import ARRAY_COL, ARRAY_ROW, SPATIAL

from ._genes import N_PROGRAMMES, Genes
from ._stain import Stain
from ._tissue import (
    IRREGULAR,
    DomainMap,
    LayeredField,
    Pattern,
    SmoothField,
    layouts,
    places,
    tissue_mask,
    to_unit_square,
)

if TYPE_CHECKING:
    from anndata import AnnData

# Chosen so that simulated slides look like labelled real ones by the statistics of benchmarks/simulated_tissue.py.
# Length scales are parts of the longer side of the section.

_N_SHARED_TYPES = 4  # cell types that belong to no domain: vessels, glia, immune cells
_WITHIN_COMPARTMENT = 0.4  # how far types of one compartment lie apart, of the distance between the compartments

# Log-odds of cell types
_DOMAIN_TYPE = 1.8  # by which a domain prefers its own type
_SHARED_WITH_NEXT = (
    0.6  # how strongly, in proportion, it prefers that of the next domain: layers resemble their neighbours
)
_SHARED_TYPE = 0.8  # of the shared types, everywhere
_AVOIDS = 0.9  # by which a domain avoids types of the other compartment
_TYPE_FIELDS = {0.25: 0.6, 0.06: 0.3}  # length scale and standard deviation of what varies within domains
_CONCENTRATION = 20.0  # of the Dirichlet a spot's few cells are drawn from

# Gene programmes
_PROGRAMME_SCALES = (0.03, 0.25)  # from two spots to a quarter of the section
_PROGRAMME_SPOT = 0.5  # standard deviation from spot to spot, where that over the section is 1

# Log depth, standard deviations: together .55, with neighbours that correlate by .65, as on cortex (Maynard et al. 2021)
_DEPTH_DOMAIN = 0.28
_DEPTH_FIELDS = {0.25: 0.32, 0.05: 0.22}
_DEPTH_SPOT = 0.28


def simulate_tissue(
    *,
    n_rows: int = 60,
    n_cols: int = 40,
    layout: str = "hex",
    n_domains: int = 6,
    n_genes: int = 1500,
    pattern: Pattern = "layers",
    n_slides: int = 1,
    library_size: float = 3000.0,
    pitch: float = 137.0,
    image: bool = False,
    seed: int = 0,
) -> "AnnData":
    r"""Simulate sections of one tissue with known spatial domains.

    Each domain prefers a cell type of its own and, less, those of the next domains, but every observation is a mixture
    of a few cells and all domains hold all types. Types belong to one of two compartments, which differ in nearly all genes.
    Within domains and across their borders, the composition and gene programmes vary smoothly at several length scales,
    so that leading principal axes hold structure that is not the domains, as on real slides; depth varies likewise.
    The user guide has the maths and compares the result with real slides.

    Counts are negative binomial, drawn as a gamma-Poisson mixture:
    :math:`x_{ig} \sim \mathrm{Poisson}(\ell_i \rho_{ig} \gamma_{ig})` with
    :math:`\gamma_{ig} \sim \mathrm{Gamma}(\theta_g, 1 / \theta_g)`, so that the variance is
    :math:`\mu + \mu^2 / \theta_g`.

    Parameters
    ----------
    n_rows
        Rows of sites on the capture area.
    n_cols
        Sites in each row.
    layout
        ``"hex"`` is a Visium lattice (a row holds every other array column), ``"square"`` a square lattice,
        ``"irregular"`` single cells, without array coordinates. Other regular layouts of :data:`stimage.data.LATTICES`
        can be simulated as well.
    n_domains
        Number of spatial domains.
    n_genes
        Number of genes. A tenth are housekeeping genes, which no domain changes.
    pattern
        ``"layers"`` gives curved bands as in cortex, ``"patches"`` compact areas as in a tumour.
    n_slides
        Number of sections. They share anatomy, genes and cell types and differ in outline, in a small
        deformation and in a batch effect on genes and depth.
    library_size
        Median counts per observation.
    pitch
        Distance between neighbouring sites in pixels, the unit of ``obsm["spatial"]``.
    image
        Add a stained image of each section. Number, size and darkness of nuclei and the colour and texture between them
        follow the cell types; sections are stained a little more or less. Not for ``layout="irregular"``.
    seed
        Seed of the random numbers.

    Returns
    -------
    AnnData
        Counts in ``X`` (CSR, float32), and:

    ``obs["domain"]``
        Categorical, ``"domain_1"`` and so on; layers are in anatomical order.
    ``obs["slide"]``
        Categorical, ``"slide_1"`` and so on.
    ``obs["array_row"]``, ``obs["array_col"]``
        Integer array coordinates (not for ``layout="irregular"``).
    ``obsm["spatial"]``
        (n_obs, 2) float64, x and y in pixels.
    ``obsm["cell_types"]``
        (n_obs, n_domains + 4) float32, the proportions each observation was drawn from.
    ``uns["spatial"]``
        With ``image=True``, for each slide an image and its scale factors as squidpy keeps them.
    ``var["role"]``
        Categorical: ``"housekeeping"`` (the same in all types), ``"marker"`` (raised in some types), ``"programme"`` or
        ``"background"``; all but the first also differ between the compartments.
    ``var["inverse_dispersion"]``
        :math:`\theta_g`.

    Raises
    ------
    ValueError
        If a number is out of range, `layout` or `pattern` is unknown, the section is too small to hold every domain, or an
        image of single cells is requested.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=16, n_genes=100, n_domains=3)
    >>> adata.obs["domain"].nunique()
    3
    """
    _check(n_rows, n_cols, layout, n_domains, n_genes, pattern, n_slides, library_size, pitch)
    if image and layout == IRREGULAR:
        raise ValueError("`image`=True is not available for `layout`='irregular': choose 'hex' or 'square'.")
    import anndata as ad

    rng = np.random.default_rng(seed)
    domain_map = DomainMap(pattern, n_domains, to_unit_square(places(layout, n_rows, n_cols, rng)[0]), rng)
    compartment = _compartments(n_domains, rng)
    n_types = len(compartment)
    genes = Genes(n_genes, compartment, rng)
    composition = rng.normal(0, 0.3, (n_domains, n_types))
    apart = np.abs(np.subtract.outer(np.arange(n_domains), np.arange(n_domains)))
    composition[:, :n_domains] += _DOMAIN_TYPE * _SHARED_WITH_NEXT**apart
    composition[:, n_domains:] += _SHARED_TYPE
    composition -= _AVOIDS * np.abs(compartment[:n_domains, None] - compartment)
    type_fields = LayeredField(_TYPE_FIELDS, rng, n_types)
    programme_fields = SmoothField(np.exp(rng.uniform(*np.log(_PROGRAMME_SCALES), N_PROGRAMMES)), rng, N_PROGRAMMES)
    depth_of_domain = rng.normal(0, _DEPTH_DOMAIN, n_domains)
    # Drawn apart, so that counts are the same with and without an image.
    rng_of_image = np.random.default_rng([seed, 1])
    stain = Stain(n_types, rng_of_image) if image else None

    slides, libraries = [], {}
    for name in (f"slide_{index + 1}" for index in range(n_slides)):
        positions, array = places(layout, n_rows, n_cols, rng)
        points = to_unit_square(positions)
        inside = tissue_mask(points, 3, rng)
        points = points[inside]
        domain = domain_map(points, rng)
        if len(np.unique(domain)) < n_domains:
            raise ValueError(
                f"n_domains={n_domains} domains do not fit on {len(points)} observations "
                f"({len(np.unique(domain))} found a place); enlarge n_rows and n_cols or ask for fewer domains."
            )
        batch = rng.normal(0, 0.25, n_genes) if n_slides > 1 else np.zeros(n_genes)
        proportions = _cell_types(composition[domain] + type_fields(points), rng)
        depth = library_size * _depth(points, depth_of_domain[domain], n_slides, rng)
        programmes = programme_fields(points) + rng.normal(0, _PROGRAMME_SPOT, (len(points), N_PROGRAMMES))
        counts = genes.counts(proportions, programmes, depth, batch, rng)

        obs = pd.DataFrame(index=[f"{name}_{index}" for index in range(len(points))])
        obs["domain"] = pd.Categorical.from_codes(domain, [f"domain_{index + 1}" for index in range(n_domains)])
        obs["slide"] = pd.Categorical([name] * len(points), [f"slide_{index + 1}" for index in range(n_slides)])
        if array is not None:
            obs[ARRAY_ROW], obs[ARRAY_COL] = array[inside].T
        obsm = {SPATIAL: (positions[inside] + 1) * pitch, "cell_types": proportions.astype(np.float32)}
        slides.append(ad.AnnData(counts, obs=obs, var=genes.var, obsm=obsm))
        if stain is not None:
            libraries[name] = stain.library(obsm[SPATIAL], proportions, pitch, rng_of_image)
    adata = slides[0] if n_slides == 1 else ad.concat(slides, merge="same")
    if libraries:
        adata.uns[SPATIAL] = libraries
    return adata


def _cell_types(log_odds: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Dirichlet proportions (n_obs, n_types) around the softmax of `log_odds`."""
    mean = np.exp(log_odds)
    mean /= mean.sum(axis=1, keepdims=True)
    # Few cells per observation: small shape parameters, kept off zero so that no row vanishes.
    cells = rng.gamma(_CONCENTRATION * mean) + 1e-6
    return cells / cells.sum(axis=1, keepdims=True)


def _compartments(n_domains: int, rng: np.random.Generator) -> np.ndarray:
    """Where each cell type (n_types,) lies between two compartments: the last domains, half at most, are in the second."""
    n_second = rng.integers(1, max(n_domains // 2, 1) + 1)
    place = _WITHIN_COMPARTMENT * rng.random(n_domains)
    place[n_domains - n_second :] = 1 - place[n_domains - n_second :]
    return np.append(place, rng.random(_N_SHARED_TYPES))


def _depth(points: np.ndarray, of_domain: np.ndarray, n_slides: int, rng: np.random.Generator) -> np.ndarray:
    """Log-normal depth (n_obs,) with a median of one, partly of the domain, partly smooth over the section."""
    log_depth = of_domain + LayeredField(_DEPTH_FIELDS, rng)(points)[:, 0] + rng.normal(0, _DEPTH_SPOT, len(points))
    log_depth -= np.median(log_depth)
    return np.exp(log_depth + (rng.normal(0, 0.3) if n_slides > 1 else 0.0))


def _check(
    n_rows: int,
    n_cols: int,
    layout: str,
    n_domains: int,
    n_genes: int,
    pattern: str,
    n_slides: int,
    library_size: float,
    pitch: float,
) -> None:
    at_least = {"n_rows": (n_rows, 4), "n_cols": (n_cols, 4), "n_domains": (n_domains, 1), "n_genes": (n_genes, 2)}
    for name, (value, low) in {**at_least, "n_slides": (n_slides, 1)}.items():
        if value < low:
            raise ValueError(f"{name}={value} is too small; give at least {low}.")
    for name, value in {"library_size": library_size, "pitch": pitch}.items():
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value} must be a positive, finite number.")
    for name, value, choices in (("layout", layout, layouts()), ("pattern", pattern, get_args(Pattern))):
        if value not in choices:
            raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(map(repr, choices))}.")
