"""Which metrics there are, and what computes those that some arrays allow."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from stimage import _validate
from stimage._labels import text_labels
from stimage.benchmark.metrics._ari import adjusted_rand_index
from stimage.benchmark.metrics._chaos import chaos
from stimage.benchmark.metrics._coherence import spatial_coherence
from stimage.benchmark.metrics._completeness import completeness
from stimage.benchmark.metrics._embedding_silhouette import embedding_silhouette
from stimage.benchmark.metrics._homogeneity import homogeneity
from stimage.benchmark.metrics._marker_geary import marker_geary
from stimage.benchmark.metrics._marker_moran import marker_moran
from stimage.benchmark.metrics._nmi import normalized_mutual_information
from stimage.benchmark.metrics._pas import pas
from stimage.benchmark.metrics._spatial_silhouette import spatial_silhouette

ARRAYS = ("truth", "found", "positions", "embedding", "expression")
"""What a metric may ask for, by the names of its parameters."""

RESERVED = (
    "method", "protocol", "head", "slide", "repeat", "n_train", "n_test", "accuracy", "macro_f1", "n_domains",
)  # fmt: skip
"""Other columns of reports."""


@dataclass(frozen=True)
class Metric:
    """A metric of domains.

    Parameters
    ----------
    name
        Its name in reports.
    function
        Takes arrays, returns a number.
    needs
        Names of the arrays: parameters of the function without a default.
    higher_is_better
        Whether methods are ranked from the highest value down.

    Examples
    --------
    >>> from stimage.benchmark import METRICS
    >>> METRICS["pas"].needs, METRICS["pas"].higher_is_better
    (('found', 'positions'), False)
    """

    name: str
    function: Callable[..., float]
    needs: tuple[str, ...]
    higher_is_better: bool


METRICS: dict[str, Metric] = {}
"""Metrics by name."""


def register_metric(name: str, function: Callable[..., float], *, higher_is_better: bool) -> Metric:
    """Add a metric, to be used by :func:`score_domains`, :func:`evaluate_domains` and :func:`compare` under its name.

    Parameters
    ----------
    name
        Name of the metric, a column of reports.
    function
        Function of arrays that returns a number. The names of its parameters say what it gets: ``truth`` and ``found``
        (labels of the spots), ``positions`` (spots x 2), ``embedding`` (spots x dimensions), ``expression`` (spots x
        genes, log-normalised). With ``truth`` it gets annotated spots only. Other parameters need defaults.
    higher_is_better
        Whether higher values are better.

    Returns
    -------
    Metric
        The metric, also in ``METRICS``.

    Raises
    ------
    ValueError
        If the name is taken, or the function needs something else.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import METRICS, register_metric, score_domains
    >>> def largest_share(found):
    ...     return np.unique(found, return_counts=True)[1].max() / len(found)
    >>> _ = register_metric("largest_share", largest_share, higher_is_better=False)
    >>> score_domains(found=["a", "a", "a", "b"], metrics=["largest_share"])
    {'largest_share': 0.75}
    >>> del METRICS["largest_share"]
    """
    _validate.check_text("name", name)
    if name in (*METRICS, *RESERVED):
        raise ValueError(f"`name`={name!r} is taken: choose another.")
    if not callable(function):
        raise TypeError(f"`function` must be a function of arrays, found {type(function).__name__}.")
    required = tuple(
        key for key, parameter in inspect.signature(function).parameters.items() if parameter.default is parameter.empty
    )
    unknown = [key for key in required if key not in ARRAYS]
    if unknown or not required:
        found = f"needs {_validate.listing(unknown)}" if unknown else "needs no array"
        raise ValueError(f"`function` {found}: its parameters without a default must be some of {', '.join(ARRAYS)}.")
    METRICS[name] = Metric(name, function, required, bool(higher_is_better))
    return METRICS[name]


def score_domains(
    *,
    truth: Sequence[Any] | np.ndarray | None = None,
    found: Sequence[Any] | np.ndarray | None = None,
    positions: np.ndarray | None = None,
    embedding: np.ndarray | None = None,
    expression: np.ndarray | sparse.spmatrix | None = None,
    metrics: Sequence[str] | None = None,
) -> dict[str, float]:
    """Score the domains of one slide with every metric that the arrays allow.

    Parameters
    ----------
    truth
        Annotated domain of each spot; spots without one (None, NaN, empty) are left out of metrics that need it.
    found
        Domain found for each spot.
    positions
        Physical positions (spots x 2).
    embedding
        Vectors (spots x dimensions).
    expression
        Log-normalised expression (spots x genes).
    metrics
        Names in ``METRICS``; by default all whose arrays are given.

    Returns
    -------
    dict
        Value of each metric; NaN where it is not defined, as for a single domain.

    Raises
    ------
    ValueError
        If a metric is unknown or lacks an array, numbers of spots differ, labels found are missing, or vectors are not finite.

    Examples
    --------
    >>> import numpy as np
    >>> from stimage.benchmark import score_domains
    >>> positions = np.stack(np.indices((8, 8)), axis=-1).reshape(-1, 2)
    >>> scores = score_domains(truth=positions[:, 0] >= 4, found=positions[:, 0] >= 4, positions=positions)
    >>> scores["ari"], scores["pas"]
    (1.0, 0.0)
    """
    given = {"truth": truth, "found": found, "positions": positions, "embedding": embedding, "expression": expression}
    arrays = _checked({name: array for name, array in given.items() if array is not None})
    chosen = check_metrics(metrics, arrays)
    annotated = None
    if "truth" in arrays:
        arrays["truth"], known = text_labels(arrays["truth"])
        annotated = np.flatnonzero(known)
    scores = {}
    for metric in chosen:
        values = [arrays[name] for name in metric.needs]
        if "truth" in metric.needs:
            values = [value[annotated] for value in values]
        empty = values[0].shape[0] == 0
        scores[metric.name] = (
            float("nan") if empty else float(metric.function(**dict(zip(metric.needs, values, strict=True))))
        )
    return scores


def check_metrics(names: Sequence[str] | None, available: Sequence[str] | dict[str, Any]) -> list[Metric]:
    """The metrics of these names, or all that the available arrays allow; raises ``ValueError`` where one lacks an array."""
    if names is None:
        return [metric for metric in METRICS.values() if set(metric.needs) <= set(available)]
    if isinstance(names, str):
        raise TypeError(f"`metrics` must be a list of names, found the string {names!r}.")
    for name in names:
        _validate.check_choice("metrics", name, METRICS)
        missing = [array for array in METRICS[name].needs if array not in available]
        if missing:
            raise ValueError(f"`metrics` has {name!r}, which needs {_validate.listing(missing)}: not available here.")
    return [METRICS[name] for name in names]


def _checked(arrays: dict[str, Any]) -> dict[str, Any]:
    import pandas as pd

    if not arrays:
        raise ValueError("No array was given: pass at least `found`.")
    checked = {}
    for name, array in arrays.items():
        if name in ("truth", "found"):
            checked[name] = np.asarray(array, dtype=object) if name == "truth" else np.asarray(array)
        elif sparse.issparse(array):
            checked[name] = sparse.csr_matrix(array)
        else:
            checked[name] = np.asarray(array, dtype=np.float64)
            if checked[name].ndim != 2:
                raise ValueError(f"`{name}` has shape {checked[name].shape}: one row per spot is needed.")
        values = checked[name].data if sparse.issparse(checked[name]) else checked[name]
        if name == "found" and pd.isna(values).any():
            raise ValueError(f"`found` is missing for {int(pd.isna(values).sum())} spots: leave them out everywhere.")
        if name not in ("truth", "found") and not np.isfinite(values).all():
            raise ValueError(f"`{name}` has NaN or infinite values: leave these spots out everywhere.")
    sizes = {name: array.shape[0] for name, array in checked.items()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"Numbers of spots differ: {sizes}.")
    return checked


register_metric("ari", adjusted_rand_index, higher_is_better=True)
register_metric("nmi", normalized_mutual_information, higher_is_better=True)
register_metric("homogeneity", homogeneity, higher_is_better=True)
register_metric("completeness", completeness, higher_is_better=True)
register_metric("pas", pas, higher_is_better=False)
register_metric("chaos", chaos, higher_is_better=False)
register_metric("spatial_silhouette", spatial_silhouette, higher_is_better=True)
register_metric("embedding_silhouette", embedding_silhouette, higher_is_better=True)
register_metric("marker_moran", marker_moran, higher_is_better=True)
register_metric("marker_geary", marker_geary, higher_is_better=False)
register_metric("spatial_coherence", spatial_coherence, higher_is_better=False)
