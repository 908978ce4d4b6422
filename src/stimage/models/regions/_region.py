from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from stimage import _validate
from stimage._counts import stored_matrix
from stimage._features import counted_genes, keep_genes
from stimage.data import Slide, Vocabulary, window_origins
from stimage.data.slides._expression import COUNTS_PER_SPOT
from stimage.models._setup import corpus_of, setup_of

if TYPE_CHECKING:
    from anndata import AnnData


Fill = Callable[[Slide, np.ndarray], np.ndarray]
"""Predicts hidden sites of a slide: expression, with an interval followed by bounds (1 or 3 x hidden sites x genes)."""


def observations_in_region(adata: AnnData, region: str | Sequence[str] | np.ndarray | pd.Series) -> np.ndarray:
    """Boolean mask over the observations from a mask, observation names or a key of a boolean column of ``obs``.

    Raises
    ------
    KeyError
        If the key or some of the names do not exist.
    ValueError
        If the mask has another length or nothing or everything is in the region.
    """
    if isinstance(region, str):
        values = _validate.check_obs_key(adata, region, "region")
        if not pd.api.types.is_bool_dtype(values) or values.isna().any():
            raise ValueError(
                f"adata.obs[{region!r}] (`region`) must be boolean, found dtype {values.dtype}: make it a column of True "
                "(hide) and False."
            )
        mask = values.to_numpy(dtype=bool)
    else:
        if not isinstance(region, Sequence | np.ndarray | pd.Index | pd.Series):
            raise TypeError(
                "`region` must be a boolean mask, observation names or a key of adata.obs, found "
                f"{type(region).__name__}."
            )
        if isinstance(region, pd.Series) and sorted(region.index.astype(str)) == sorted(adata.obs_names):
            region = region.set_axis(region.index.astype(str)).reindex(adata.obs_names)
        values = np.asarray(region)
        if values.dtype == bool:
            if values.shape != (adata.n_obs,):
                raise ValueError(
                    f"`region` has shape {values.shape}; a mask needs one value per observation: {adata.n_obs}."
                )
            mask = values
        elif values.dtype.kind in "iufc" and values.size:
            raise TypeError(
                f"`region` holds numbers (dtype {values.dtype}): pass a boolean mask, observation names or a key of "
                "adata.obs."
            )
        else:
            unknown = pd.Index(values.astype(str)).difference(adata.obs_names)
            if len(unknown):
                raise KeyError(
                    f"`region` names {len(unknown)} observations that adata does not have: "
                    f"{_validate.listing(unknown, 3)}; its names are like {_validate.listing(adata.obs_names[:3])}."
                )
            mask = adata.obs_names.isin(values.astype(str))
    if not mask.any() or mask.all():
        raise ValueError(
            f"`region` has {int(mask.sum())} of {adata.n_obs} observations: some must be hidden, some visible."
        )
    return mask


def random_block(slides: list[Slide], size: int, seed: int) -> np.ndarray:
    """Positions in the AnnData of the observations in a random block of ``size`` x ``size`` sites, full of tissue.

    Raises
    ------
    ValueError
        If no slide is larger than the block.
    """
    rng = np.random.default_rng(seed)
    larger = [slide for slide in slides if max(slide.shape) > size]
    if not larger:
        shapes = _validate.listing([" x ".join(map(str, slide.shape)) for slide in slides], 3)
        raise ValueError(f"`size`={size} leaves no site visible on any slide (sites: {shapes}): pass a smaller size.")
    n_sites = np.array([slide.n_sites for slide in larger])
    slide = larger[rng.choice(len(larger), p=n_sites / n_sites.sum())]
    origins = window_origins(slide, size, min_occupancy=0.9)
    if not len(origins):  # blocks with a single site
        origins = slide.site_index[slide.active]
    top, left = np.maximum(origins[rng.integers(len(origins))], 0)
    sites = slide.raster[top : top + size, left : left + size]
    return slide.observation_index[np.isin(slide.site_of_observation, sites[sites >= 0])]


def region_errors(
    prediction: np.ndarray,
    truth: np.ndarray,
    genes: np.ndarray,
    bounds: tuple[np.ndarray, np.ndarray] | None = None,
) -> pd.DataFrame:
    """Error of each gene over the hidden sites.

    Parameters
    ----------
    prediction, truth
        log1p of counts per 10,000 (hidden sites x genes).
    genes
        Names of the genes.
    bounds
        Lower and upper bounds, like ``prediction``.

    Returns
    -------
    pandas.DataFrame
        Indexed by gene: ``mse``, ``mae`` and ``pearson``; the latter is NaN for a gene that is constant in either,
        everything is NaN without hidden sites. With bounds also ``coverage``, the share of values within them.
    """
    index = pd.Index(genes.astype(str), dtype=object)
    if not len(truth):
        columns = ["mse", "mae", "pearson"] + ([] if bounds is None else ["coverage"])
        return pd.DataFrame(np.nan, index=index, columns=columns)
    inside = {} if bounds is None else {"coverage": _coverage(truth, *bounds)}
    # Double precision, so that a constant gene has no variance from rounding.
    prediction, truth = np.asarray(prediction, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    difference = prediction - truth
    centred = [values - values.mean(axis=0) for values in (prediction, truth)]
    norms = [np.sqrt((values**2).sum(axis=0)) for values in centred]
    scale = norms[0] * norms[1]
    scale[np.minimum(*norms) < 1e-6] = np.nan
    return pd.DataFrame(
        {
            "mse": (difference**2).mean(axis=0),
            "mae": np.abs(difference).mean(axis=0),
            "pearson": (centred[0] * centred[1]).sum(axis=0) / scale,
            **inside,
        },
        index=index,
    )


def _coverage(truth: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Share of values within bounds (genes); NaN without bounds."""
    covered = ((truth >= lower) & (truth <= upper)).mean(axis=0)
    return np.where(np.isnan(lower).any(axis=0), np.nan, covered)


def completed_expression(
    counts: np.ndarray | sparse.spmatrix, hidden: np.ndarray, prediction: np.ndarray, columns: np.ndarray
) -> sparse.csr_matrix:
    """log1p of counts per 10,000, measured where observations are visible and predicted where they are hidden.

    Parameters
    ----------
    counts
        Raw counts (observations x genes).
    hidden
        Hidden observations (observations).
    prediction
        Prediction for them (hidden observations x predicted genes).
    columns
        Column of each predicted gene (predicted genes).

    Returns
    -------
    scipy.sparse.csr_matrix
        Float32. Rows of hidden observations store every gene, NaN where nothing was predicted.
    """
    counts = sparse.csr_matrix(counts, dtype=np.float32)
    library_size = np.asarray(counts.sum(axis=1)).ravel()
    scale = np.divide(COUNTS_PER_SPOT, library_size, out=np.zeros_like(library_size), where=library_size > 0)
    visible = sparse.csr_matrix(sparse.diags(np.where(hidden, 0, scale)) @ counts, dtype=np.float32)
    visible.eliminate_zeros()
    visible.data = np.log1p(visible.data)
    n_genes, n_hidden = counts.shape[1], int(hidden.sum())
    filled = np.full((n_hidden, n_genes), np.nan, dtype=np.float32)
    filled[:, columns] = prediction
    dense_rows = sparse.csr_matrix(
        (filled.ravel(), np.tile(np.arange(n_genes), n_hidden), np.arange(n_hidden + 1) * n_genes),
        shape=(n_hidden, n_genes),
    )
    stacked = sparse.vstack([visible[~hidden], dense_rows], format="csr")
    order = np.argsort(np.concatenate([np.flatnonzero(~hidden), np.flatnonzero(hidden)]))
    return stacked[order]


@dataclass(frozen=True)
class RegionResult:
    """A reconstructed region of an AnnData.

    Parameters
    ----------
    masked
        Hidden observations (observations).
    expression
        log1p of counts per 10,000, predicted where hidden (observations x genes of the AnnData).
    errors
        Errors of each gene over the hidden sites, see :func:`region_errors`.
    params
        What was asked for.
    lower, upper
        Bounds of the prediction where hidden, measured elsewhere (observations x genes of the AnnData each); ``None`` when
        none were asked for.

    Examples
    --------
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> model = sti.models.STImage(adata, window=8, n_pool_genes=200, n_genes=64)
    >>> result = model.reconstruct_region(adata, size=4)
    >>> result.expression.shape == adata.shape
    True
    """

    masked: np.ndarray
    expression: sparse.csr_matrix
    errors: pd.DataFrame
    params: dict[str, Any]
    lower: sparse.csr_matrix | None = None
    upper: sparse.csr_matrix | None = None


def reconstruct_region(
    adata: AnnData,
    vocabulary: Vocabulary,
    fill: Fill,
    *,
    region: str | Sequence[str] | np.ndarray | pd.Series | None,
    size: int | None,
    context: int,
    interval: float | None,
    seed: int,
) -> RegionResult:
    """Hide a region of an AnnData, named or random, and fill it in; see :func:`stimage.tl.reconstruct_region`.

    Parameters
    ----------
    adata
        The slides.
    vocabulary
        Genes of the model.
    fill
        The model: predicts hidden sites of a slide.
    region, size, context, interval, seed
        As in :func:`stimage.tl.reconstruct_region`; the latter three are noted, ``fill`` knows them.

    Returns
    -------
    RegionResult
        What was hidden, the prediction and its errors.
    """
    if (region is None) == (size is None):
        raise ValueError("Pass either `region` or `size`: what to hide, or how large a random block.")
    if region is not None:
        masked = observations_in_region(adata, region).copy()
    else:
        _validate.check_positive("size", size)
    slides = corpus_of(adata, vocabulary).slides
    if region is None:
        masked = np.zeros(adata.n_obs, dtype=bool)
        masked[random_block(slides, size, seed)] = True
    # Of variables that are one gene, the first gets the prediction.
    columns = vocabulary.match(adata).first_variable
    shared = columns >= 0
    # Expression, and with intervals its bounds: of hidden observations, and of the sites that errors are taken over.
    observations, prediction, predicted, measured = [], [], [], []
    for slide in slides:
        hidden = np.zeros(slide.n_sites, dtype=bool)
        hidden[slide.site_of_observation[masked[slide.observation_index]]] = True
        if not hidden.any():
            continue
        if not slide.active[~hidden].any():
            raise ValueError(
                f"`{'size' if region is None else 'region'}` hides every site with counts of slide {slide.name!r}: some "
                "must stay visible, pass less."
            )
        filled = fill(slide, hidden)[:, :, shared]
        # A site in which only some observations were named is hidden as a whole.
        inside = hidden[slide.site_of_observation]
        masked[slide.observation_index] = inside
        observations.append(slide.observation_index[inside])
        place = np.cumsum(hidden) - 1  # of a hidden site among those of the slide
        prediction.append(filled[:, place[slide.site_of_observation[inside]]])
        predicted.append(filled[:, slide.active[hidden]])
        measured.append(slide.expression[np.flatnonzero(hidden & slide.active)].toarray()[:, shared])
    layer = setup_of(adata)["layer"]
    counts = stored_matrix(adata, layer)
    counts = keep_genes(counts, counted_genes(adata, counts))
    order = np.argsort(np.concatenate(observations))
    layers = [
        completed_expression(counts, masked, part[order], columns[shared])
        for part in np.concatenate(prediction, axis=1)
    ]
    predicted = np.concatenate(predicted, axis=1)
    return RegionResult(
        masked,
        layers[0],
        errors=region_errors(
            predicted[0],
            np.concatenate(measured),
            adata.var_names[columns[shared]].to_numpy(),
            None if interval is None else (predicted[1], predicted[2]),
        ),
        params={"size": size or 0, "context": context, "interval": interval or 0.0, "seed": seed, "layer": layer or ""},
        lower=None if interval is None else layers[1],
        upper=None if interval is None else layers[2],
    )
