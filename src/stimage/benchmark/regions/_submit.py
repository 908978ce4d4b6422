from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from stimage import _validate
from stimage._settings import progress
from stimage.benchmark._scores import reconstruction_scores
from stimage.benchmark.regions._noise_floor import counting_noise_floor
from stimage.benchmark.regions._task import HiddenRegion, RegionTask, check_slide, hidden_spots, on_grid, region_task
from stimage.data.slides._expression import COUNTS_PER_SPOT

if TYPE_CHECKING:
    from anndata import AnnData

    from stimage.benchmark.regions._registry import Predictor

Answer = np.ndarray | Sequence[np.ndarray]
"""Predicted expression of hidden spots, or it with its lower and upper bounds."""


def submit(
    method: Callable[[AnnData, np.ndarray], Answer],
    slides: Mapping[str, AnnData],
    *,
    name: str,
    task: RegionTask | None = None,
) -> pd.DataFrame:
    """Score a method on the public task of hidden regions.

    Each region of :func:`region_task` is cut out of its slide, and the method is asked for what was there. It gets the spots
    that are left and the places of those that are missing, and no counts of these.

    Parameters
    ----------
    method
        Function of two arguments. The first is an AnnData of the visible spots: raw counts in ``X``, log1p of counts per
        10,000 in ``layers["log"]``, ``obsm["spatial"]`` in units of the distance between neighbours, and
        ``var["predicted"]``, which genes are asked for: the 512 with the largest variance in ``layers["log"]``. The second
        are the positions of the hidden spots (spots x 2), in the same units. It returns their expression (spots x genes
        asked for), log1p of counts per 10,000, or a tuple of it and of the bounds between which 90 % of the values should be.
    slides
        Slides of the task by their names, as they were published, with raw counts in ``X``. A part of the slides is enough.
    name
        Name of the method.
    task
        Another task than the one that comes with the package.

    Returns
    -------
    pandas.DataFrame
        A row for each region: ``method``, ``slide``, ``size``, ``row``, ``col``, ``n_hidden``, ``mse``, ``mae``, ``pearson``
        (mean over genes of the correlation over hidden spots), ``floor`` (:func:`counting_noise_floor`), ``excess`` (``mse``
        above it), ``coverage`` (share of values within the bounds) and ``width`` (mean distance of the bounds; both NaN
        without bounds), ``seconds``.

    Raises
    ------
    ValueError
        If a slide is not one of the task or was changed, or an answer has another shape or is not finite.

    Examples
    --------
    >>> from anndata import read_h5ad
    >>> from stimage.benchmark import REGION_BASELINES, region_method, submit
    >>> method = region_method(REGION_BASELINES["inverse distance"])
    >>> slide = read_h5ad("HCC1_visium_liver.h5ad")  # doctest: +SKIP
    >>> submit(method, {"HCC1_visium_liver": slide}, name="inverse distance")  # doctest: +SKIP
    """
    task = region_task() if task is None else task
    _validate.check_text("name", name)
    if not callable(method):
        raise TypeError(f"`method` must be a function of visible spots and positions, found {type(method).__name__}.")
    if not isinstance(slides, Mapping) or not slides:
        raise TypeError("`slides` must be a dict of at least one slide of the task, by its name.")
    unknown = [key for key in slides if key not in task.by_name]
    if unknown:
        raise ValueError(
            f"`slides` has {_validate.listing(unknown)}, the task {_validate.listing(list(task.by_name), 20)}."
        )
    for key, adata in slides.items():
        check_slide(adata, task.by_name[key])
    asked = []
    for key, adata in slides.items():
        grid = on_grid(adata)
        for region in task.by_name[key].regions:
            n_hidden = int(hidden_spots(grid[0], region).sum())
            if n_hidden != region.n_hidden:
                raise ValueError(
                    f"`slides[{key!r}]` has {n_hidden} observations in {region}: its grid is another than the task's."
                )
            asked.append((key, grid, region))
    records = []
    for key, grid, region in progress(asked, f"Hidden regions, {name}"):
        scores = _score(method, name, slides[key], grid, region, task)
        records.append(
            {"method": name, "slide": key, "size": region.size, "row": region.row, "col": region.col, **scores}
        )
    return pd.DataFrame(records)


def region_method(predictor: Predictor, **options: Any) -> Callable[[AnnData, np.ndarray], Answer]:
    """A predictor of :func:`evaluate_regions`, such as a baseline, as a method of :func:`submit`.

    Parameters
    ----------
    predictor
        Function of expression (spots x genes, NaN where hidden), positions and hidden (mask).
    options
        Further arguments of it.

    Returns
    -------
    callable
        The method.

    Examples
    --------
    >>> from stimage.benchmark import kriging, region_method
    >>> method = region_method(kriging, interval=0.9)
    """

    def method(visible: AnnData, positions: np.ndarray) -> Answer:
        shown = visible.layers["log"][:, visible.var["predicted"].to_numpy()].toarray()
        expression = np.vstack([shown, np.full((len(positions), shown.shape[1]), np.nan)])
        places = np.vstack([visible.obsm["spatial"], positions])
        return predictor(expression, places, np.arange(len(places)) >= len(shown), **options)

    return method


def _score(
    method: Callable[[AnnData, np.ndarray], Answer],
    name: str,
    adata: AnnData,
    grid: tuple[np.ndarray, np.ndarray],
    region: HiddenRegion,
    task: RegionTask,
) -> dict[str, float]:
    from anndata import AnnData

    counts = sparse.csr_matrix(adata.X, dtype=np.float64)
    totals = np.asarray(counts.sum(axis=1)).ravel()
    counted = totals > 0  # an empty spot has no expression
    hidden = hidden_spots(grid[0], region)
    shown, asked = np.flatnonzero(~hidden & counted), np.flatnonzero(hidden & counted)
    visible = AnnData(counts[shown].astype(np.float32))
    visible.obs_names, visible.var_names = adata.obs_names[shown], adata.var_names
    visible.layers["log"] = _log(counts[shown], totals[shown]).astype(np.float32)
    visible.obsm["spatial"] = grid[1][shown].copy()
    genes = _most_variable(visible.layers["log"], task.n_genes)
    visible.var["predicted"] = np.isin(np.arange(adata.n_vars), genes)
    start = time.perf_counter()
    answer = method(visible, grid[1][asked].copy())
    seconds = time.perf_counter() - start
    truth = _log(counts[asked], totals[asked])[:, genes].toarray()
    prediction, lower, upper = _checked(answer, truth.shape, name)
    floor = counting_noise_floor(counts[asked][:, genes], totals[asked])
    scores = reconstruction_scores(prediction, truth)
    inside = [np.nan, np.nan]
    if lower is not None:
        slack = 1e-6  # of rounding: many values are exactly zero
        inside = [np.mean((truth >= lower - slack) & (truth <= upper + slack)), np.mean(upper - lower)]
    return {
        "n_hidden": len(asked),
        **scores,
        "floor": floor,
        "excess": scores["mse"] - floor,
        "coverage": float(inside[0]),
        "width": float(inside[1]),
        "seconds": seconds,
    }


def _log(counts: sparse.csr_matrix, totals: np.ndarray) -> sparse.csr_matrix:
    """log1p of counts per 10,000."""
    scaled = sparse.csr_matrix(sparse.diags(COUNTS_PER_SPOT / totals) @ counts)
    scaled.data = np.log1p(scaled.data)
    return scaled


def _most_variable(log: sparse.csr_matrix, n_genes: int) -> np.ndarray:
    """Positions, ascending, of the genes with the largest variance; of equal ones the first."""
    log = log.astype(np.float64)
    mean = np.asarray(log.mean(axis=0)).ravel()
    variance = np.asarray(log.multiply(log).mean(axis=0)).ravel() - mean**2
    return np.sort(np.argsort(-variance.round(12), kind="stable")[:n_genes])


def _checked(
    answer: Answer, shape: tuple[int, int], name: str
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    parts = list(answer) if isinstance(answer, tuple | list) else [answer, None, None]
    if len(parts) != 3:
        raise ValueError(
            f"{name!r} returned {len(parts)} arrays: return the prediction, or it with lower and upper bounds."
        )
    checked: list[np.ndarray | None] = []
    for what, part in zip(("prediction", "lower bounds", "upper bounds"), parts, strict=True):
        if part is None and what != "prediction":
            checked.append(None)
            continue
        values = np.asarray(part.toarray() if sparse.issparse(part) else part, dtype=np.float64)
        if values.shape != shape:
            raise ValueError(
                f"{name!r} returned {what} of shape {values.shape}, {shape} (hidden spots x genes) is needed."
            )
        if not np.isfinite(values).all():
            raise ValueError(f"{name!r} returned {what} that are not finite: predict every gene that is asked for.")
        checked.append(values)
    prediction, lower, upper = checked
    if (lower is None) != (upper is None):
        raise ValueError(f"{name!r} returned one bound only: return both or none.")
    if lower is not None and (lower > upper).any():
        raise ValueError(f"{name!r} returned lower bounds above the upper ones.")
    return prediction, lower, upper
