from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.spatial import cKDTree

from stimage import _validate
from stimage.benchmark._scores import reconstruction_scores
from stimage.benchmark.regions._noise_floor import counting_noise_floor
from stimage.benchmark.regions._registry import REGION_BASELINES, Predictor
from stimage.data import site_positions
from stimage.data.slides._slide import COUNTS_PER_SPOT

if TYPE_CHECKING:
    from stimage.data import Slide
    from stimage.models import STImage

REGION_SIZES = (4, 8, 10, 14, 16, 18)
_LEAST_TISSUE = 0.9  # share of the region's sites that must hold tissue


def evaluate_regions(
    expression: np.ndarray | sparse.spmatrix,
    positions: np.ndarray,
    sites: np.ndarray,
    *,
    library_size: np.ndarray,
    predictors: Mapping[str, Predictor] | None = None,
    region_sizes: Sequence[int] = REGION_SIZES,
    window_sizes: Sequence[int] = (30,),
    n_repeats: int = 20,
    seed: int = 0,
) -> pd.DataFrame:
    """Hide regions of a slide, predict them from the rest of a window, and score the predictions beside the noise floor.

    A region of r x r sites lies in a window of w x w sites, as central as the raster allows. A predictor gets the spots
    of the window only, the expression of the hidden ones replaced by NaN. The baselines are always scored too.

    Parameters
    ----------
    expression
        log1p of counts per 10,000 (spots x genes) of one slide, over the genes to predict.
    positions
        Physical positions (spots x 2).
    sites
        Row and column of each spot on the raster (spots x 2), whole numbers.
    library_size
        Counts of each spot over all genes that were measured (spots). Spots without counts are left out.
    predictors
        Functions of expression, positions and hidden (mask) of the spots of a window that return the expression of the
        hidden ones (hidden x genes).
    region_sizes
        Values of r.
    window_sizes
        Values of w. Pairs with w <= r are skipped.
    n_repeats
        Regions drawn for each pair; the same for all methods.
    seed
        Seed of the places.

    Returns
    -------
    pandas.DataFrame
        One row for each method, pair and repetition: ``method``, ``region_size``, ``window_size``, ``repeat``, ``n_hidden``,
        ``n_visible``, ``mse``, ``mae``, ``pearson``, ``floor`` (:func:`counting_noise_floor` of the hidden spots) and
        ``excess``: mean squared error above it.

    Raises
    ------
    ValueError
        If sizes of arrays differ, no region with tissue fits, or a predictor's answer has another shape or is not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import evaluate_regions
    >>> rows, cols = (index.ravel() for index in np.indices((12, 12)))
    >>> sites = np.column_stack([rows, cols])
    >>> counts = np.random.default_rng(0).poisson(1 + cols[:, None] + np.zeros(30))
    >>> library_size = counts.sum(axis=1)
    >>> expression = np.log1p(1e4 * counts / library_size[:, None])
    >>> options = {"library_size": library_size, "region_sizes": [4], "window_sizes": [10], "n_repeats": 2}
    >>> records = evaluate_regions(expression, sites[:, ::-1].astype(float), sites, **options)
    >>> sorted(records["method"].unique())
    ['closed-form fill', 'inverse distance', 'kriging', 'mean of 16 nearest spots', 'mean of the window']

    References
    ----------
    Spatial Transcriptomics as Images for Large-Scale Pretraining, section 4 (masked region reconstruction).
    """
    positions, sites = np.asarray(positions, dtype=np.float64), np.asarray(sites)
    library_size = np.asarray(library_size, dtype=np.float64)
    for parameter, array in {"positions": positions, "sites": sites, "library_size": library_size}.items():
        if len(array) != expression.shape[0]:
            raise ValueError(f"`{parameter}` has {len(array)} rows, `expression` {expression.shape[0]}.")
    if sites.ndim != 2 or sites.shape[1] != 2 or sites.dtype.kind not in "iu":
        raise ValueError(f"`sites` must be whole numbers (spots x 2), found shape {sites.shape} of {sites.dtype}.")
    for parameter, sizes in {"region_sizes": region_sizes, "window_sizes": window_sizes}.items():
        for size in sizes:
            _validate.check_positive(parameter, size)
    pairs = [(int(r), int(w)) for r in region_sizes for w in window_sizes if w > r]
    if not pairs:
        raise ValueError("No value of `window_sizes` is larger than one of `region_sizes`: nothing would be visible.")
    _validate.check_positive("n_repeats", n_repeats)
    _validate.check_seed(seed)
    predictors = {**REGION_BASELINES, **(predictors or {})}

    kept = np.flatnonzero(library_size > 0)
    positions, sites, library_size = positions[kept], sites[kept] - sites[kept].min(axis=0), library_size[kept]
    dense = expression[kept].toarray() if sparse.issparse(expression) else np.asarray(expression)[kept]
    records = []
    for region_size, window_size in pairs:
        for repeat, (window, hidden) in enumerate(_regions(sites, region_size, window_size, n_repeats, seed)):
            truth = dense[window[hidden]].astype(np.float64)
            shown = dense[window].astype(np.float64)
            shown[hidden] = np.nan
            totals = library_size[window[hidden]]
            floor = counting_noise_floor(np.rint(np.expm1(truth) * totals[:, None] / COUNTS_PER_SPOT), totals)
            facts = {
                "region_size": region_size,
                "window_size": window_size,
                "repeat": repeat,
                "n_hidden": int(hidden.sum()),
                "n_visible": int((~hidden).sum()),
            }
            for method, predictor in predictors.items():
                prediction = np.asarray(predictor(shown.copy(), positions[window], hidden.copy()))
                _check_prediction(prediction, truth, method)
                scores = reconstruction_scores(prediction, truth)
                records.append({"method": method, **facts, **scores, "floor": floor, "excess": scores["mse"] - floor})
    return pd.DataFrame(records)


def _regions(
    sites: np.ndarray, region_size: int, window_size: int, n_repeats: int, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Spots of a window, and which of them are hidden."""
    shape = sites.max(axis=0) + 1
    r = region_size
    if (shape < r).any():
        raise ValueError(f"`region_sizes` has {r}, the slide is {shape[0]} x {shape[1]} sites: pass less.")
    places = full_corners(sites, r)
    if not len(places):
        raise ValueError(f"`region_sizes` has {r}, but no region of {r} x {r} sites is full of tissue: pass less.")
    rng = np.random.default_rng(seed)
    for corner in places[rng.integers(len(places), size=n_repeats)]:
        start = np.clip(corner - (window_size - r) // 2, 0, np.maximum(shape - window_size, 0))
        window = np.flatnonzero(((sites >= start) & (sites < start + window_size)).all(axis=1))
        inside = sites[window]
        hidden = ((inside >= corner) & (inside < corner + r)).all(axis=1)
        if hidden.all():
            raise ValueError(f"`window_sizes`={window_size} leaves no spot visible around {r} x {r} sites: pass more.")
        yield window, hidden


def full_corners(sites: np.ndarray, size: int) -> np.ndarray:
    """First row and column of every square of sites of which nine in ten hold tissue (squares x 2)."""
    shape = sites.max(axis=0) + 1
    if (shape < size).any():
        return np.empty((0, 2), dtype=np.int64)
    tissue = np.zeros(shape, dtype=np.int64)
    tissue[tuple(sites.T)] = 1
    # Occupied sites of every square at once, from sums over rectangles that start at the corner.
    total = np.pad(tissue, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    filled = total[size:, size:] - total[:-size, size:] - total[size:, :-size] + total[:-size, :-size]
    return np.argwhere(filled >= _LEAST_TISSUE * size**2)


def _check_prediction(prediction: np.ndarray, truth: np.ndarray, method: str) -> None:
    if prediction.shape != truth.shape:
        raise ValueError(
            f"`predictors[{method!r}]` returned shape {prediction.shape}, {truth.shape} (hidden x genes) is needed."
        )
    if not np.isfinite(prediction).all():
        raise ValueError(
            f"`predictors[{method!r}]` returned values that are not finite: it may have looked at hidden spots, whose "
            "expression is NaN."
        )


def model_predictor(
    model: STImage,
    slide: Slide,
    genes: np.ndarray,
    *,
    calibrated: bool = True,
    accelerator: str = "auto",
    device: int | str = "auto",
) -> Predictor:
    """A trained model as a predictor of :func:`evaluate_regions`.

    Parameters
    ----------
    model
        The model.
    slide
        The slide over the model's genes whose :func:`stimage.data.site_positions` are evaluated.
    genes
        Positions in the model's vocabulary of the genes to predict.
    calibrated, accelerator, device
        As in :meth:`stimage.models.STImage.reconstruct`.

    Returns
    -------
    callable
        Function of expression, positions and hidden spots of a window. The model sees that window of ``slide`` only,
        without its hidden spots.

    Examples
    --------
    >>> import numpy as np
    >>> import stimage as sti
    >>> adata = sti.datasets.simulate_tissue(n_rows=20, n_cols=20)
    >>> sti.pp.compact_grid(adata)
    >>> model = sti.models.STImage(adata, window=8, n_pool_genes=100, n_genes=64)
    >>> slide = model.corpus[0]
    >>> predict = sti.benchmark.model_predictor(model, slide, np.arange(100))
    >>> positions = sti.data.site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity)
    >>> predict(slide.expression.toarray(), positions, np.arange(slide.n_sites) < 5).shape
    (5, 100)
    """
    options = {"calibrated": calibrated, "accelerator": accelerator, "device": device}
    tree = cKDTree(site_positions(*slide.site_index.T, layout=slide.layout, parity=slide.parity))

    def predict(expression: np.ndarray, positions: np.ndarray, hidden: np.ndarray) -> np.ndarray:
        _, site = tree.query(positions)
        mask = np.zeros(slide.n_sites, dtype=bool)
        mask[site[hidden]] = True
        predicted = model.reconstruct(slide.restrict(np.isin(slide.raster, site)), mask, **options)
        return predicted[np.searchsorted(np.flatnonzero(mask), site[hidden])][:, genes]

    return predict
