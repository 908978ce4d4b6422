"""Ridge regression from what the image says of spots to their expression, in closed form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

PENALTIES = np.logspace(-3, 3, 13)
"""Penalties that are tried, in mean variances of an input for all training spots together."""
MOST_FOLDS = 10


@dataclass(frozen=True)
class ExpressionHead:
    """Ridge regression from what the image says of spots to their expression, in closed form.

    Parameters
    ----------
    mean
        Mean of the inputs (inputs).
    weights
        Coefficients (inputs x genes).
    intercept
        Mean expression of the training spots (genes).
    penalty
        The penalty that was chosen, in mean variances of an input.
    slope
        How far predictions are taken to differ from the mean of a gene: 1 as the regression says, 0 not at all.
    """

    mean: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    penalty: float
    slope: float = 1.0

    @classmethod
    def fit(
        cls, inputs: list[np.ndarray], expression: list[np.ndarray], *, donors: list[str] | None = None
    ) -> ExpressionHead:
        """Fit on training slides.

        The penalty is the one that predicts each slide best from the others: it decides what the regression looks at. How far
        that holds in people who were not seen is another question: each donor's slides are predicted from the other donors,
        and predictions are shrunk to the gene means by the slope of measured on predicted values within slides, its mean over
        donors less its standard error.

        With a single donor its slides count as donors, with a single slide its quarters in the order of the spots. Many slides
        or donors are left out in ten groups. Only sums of products of a group are kept.

        Parameters
        ----------
        inputs
            What the image says of the spots of each slide (spots x inputs).
        expression
            Their expression (spots x genes).
        donors
            Who each slide is from; ``None`` leaves predictions as they are.

        Returns
        -------
        ExpressionHead
            The fitted head.
        """
        return cls.fit_slides(zip(inputs, expression, strict=True), [len(part) for part in inputs], donors=donors)

    @classmethod
    def fit_slides(
        cls,
        slides: Iterable[tuple[np.ndarray, np.ndarray]],
        sizes: Sequence[int],
        *,
        donors: list[str] | None = None,
    ) -> ExpressionHead:
        """The same on slides that are read one after the other, once each.

        Parameters
        ----------
        slides
            Inputs and expression of the spots of each slide.
        sizes
            Number of spots of each slide.
        donors
            Who each slide is from.

        Returns
        -------
        ExpressionHead
            The fitted head.
        """
        names = [""] * len(sizes) if donors is None else donors
        names = [name for name, size in zip(names, sizes, strict=True) if size]
        sizes = [size for size in sizes if size]
        parts = ((x, y) for x, y in slides if len(x))
        if len(sizes) == 1:
            n_parts = min(4, sizes[0])
            sizes = [len(part) for part in np.array_split(np.arange(sizes[0]), n_parts)]
            names, parts = list(map(str, range(n_parts))), _divided(parts, n_parts)
        elif len(set(names)) == 1:
            names = list(map(str, range(len(names))))
        shrinks = donors is not None and len(sizes) > 1
        groups, folds = groups_of(range(len(sizes)), sizes), groups_of(names, sizes)
        by_group: dict[int, _Moments] = {}
        by_fold: dict[int, _Moments] = {}
        within: dict[int, _Moments] = {}
        for (x, y), group, fold in zip(parts, groups, folds, strict=True):
            moments = _Moments.of(x, y)
            _add(by_group, group, moments)
            if shrinks:
                _add(by_fold, fold, moments)
                _add(within, fold, _Moments.of(x - x.mean(axis=0), y - y.mean(axis=0)))
        left_out = list(by_group.values())
        total = sum(left_out[1:], start=left_out[0])
        penalty = _best_penalty(left_out, total)
        slope = _slope(list(by_fold.values()), list(within.values()), total, penalty) if shrinks else 1.0
        head = total.solve(penalty)
        head = cls(head.mean, head.weights, head.intercept, penalty, slope)
        # As it will be read from a file, so that a loaded model predicts the same to the last digit.
        return cls.from_tensors(head.tensors())

    @property
    def shape(self) -> tuple[int, int]:
        """Number of inputs and of genes; (0, 0) if the parts do not fit together."""
        fits = self.weights.shape == (*self.mean.shape, *self.intercept.shape) and self.weights.ndim == 2
        return self.weights.shape if fits else (0, 0)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Expression (spots x genes) from inputs (spots x inputs), float32."""
        return (self.slope * ((inputs - self.mean) @ self.weights) + self.intercept).astype(np.float32)

    def squared_error(self, moments: _Moments) -> float:
        """Sum of squared errors over spots of which only the moments are known."""
        n, shift = moments.n, self.intercept - self.mean @ self.weights
        cross = moments.xy - np.outer(moments.x, shift)
        return float(
            moments.yy
            - 2 * (moments.y @ shift)
            + n * (shift @ shift)
            - 2 * np.sum(self.weights * cross)
            + np.sum(self.weights * (moments.xx @ self.weights))
        )

    def tensors(self) -> dict[str, np.ndarray]:
        """What was fitted, by name, float32."""
        parts = {"mean": self.mean, "weights": self.weights, "intercept": self.intercept}
        parts |= {"penalty": np.array([self.penalty]), "slope": np.array([self.slope])}
        return {name: np.asarray(values, dtype=np.float32) for name, values in parts.items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray]) -> ExpressionHead:
        """The head that :meth:`tensors` came from."""
        penalty, slope = (float(tensors[name][0]) for name in ("penalty", "slope"))
        return cls(tensors["mean"], tensors["weights"], tensors["intercept"], penalty, slope)


@dataclass(frozen=True)
class _Moments:
    """Sums over spots of inputs x, expression y and their products."""

    n: int
    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray
    yy: float

    @classmethod
    def of(cls, x: np.ndarray, y: np.ndarray) -> _Moments:
        x, y = x.astype(np.float64), y.astype(np.float64)
        return cls(len(x), x.sum(0), y.sum(0), x.T @ x, x.T @ y, float((y**2).sum()))

    def __add__(self, other: _Moments) -> _Moments:
        return _Moments(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def __sub__(self, other: _Moments) -> _Moments:
        return _Moments(*(getattr(self, name) - getattr(other, name) for name in self.__dataclass_fields__))

    def solve(self, penalty: float) -> ExpressionHead:
        mean, intercept = self.x / self.n, self.y / self.n
        covariance = self.xx / self.n - np.outer(mean, mean)
        cross = self.xy / self.n - np.outer(mean, intercept)
        ridge = penalty * max(np.trace(covariance) / len(mean), 1e-12)
        weights = np.linalg.solve(covariance + ridge * np.eye(len(mean)), cross)
        return ExpressionHead(mean, weights, intercept, penalty)


def groups_of(names: Sequence[str | int], sizes: Sequence[int]) -> list[int]:
    """A number for each slide, below :data:`MOST_FOLDS`: slides of a name have the same, and groups about as many spots."""
    total: dict[str | int, int] = {}
    for name, size in zip(names, sizes, strict=True):
        total[name] = total.get(name, 0) + size
    filled = [0] * min(MOST_FOLDS, len(total))
    group: dict[str | int, int] = {}
    for name in sorted(total, key=lambda name: -total[name]):
        group[name] = int(np.argmin(filled))
        filled[group[name]] += total[name]
    return [group[name] for name in names]


def _divided(slides: Iterable[tuple[np.ndarray, np.ndarray]], n_parts: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Parts of slides, in the order of their spots."""
    for x, y in slides:
        yield from zip(np.array_split(x, n_parts), np.array_split(y, n_parts), strict=True)


def _add(sums: dict[int, _Moments], group: int, moments: _Moments) -> None:
    """Add a slide to the sums of its group."""
    sums[group] = sums[group] + moments if group in sums else moments


def _best_penalty(moments: list[_Moments], total: _Moments) -> float:
    errors = np.zeros(len(PENALTIES))
    for left_out in moments if len(moments) > 1 else []:
        rest = total - left_out
        # The penalty is one of sums over spots: fewer spots are not less certain of each one.
        errors += [rest.solve(penalty * total.n / rest.n).squared_error(left_out) for penalty in PENALTIES]
    return float(PENALTIES[int(np.argmin(errors))])


def _slope(moments: list[_Moments], within: list[_Moments], total: _Moments, penalty: float) -> float:
    """Slope of measured on predicted values within slides of donors left out: mean less standard error, between 0 and 1."""
    slopes = []
    for left_out, centred in zip(moments, within, strict=True):
        rest = total - left_out
        weights = rest.solve(penalty * total.n / rest.n).weights
        predicted = float(np.sum(weights * (centred.xx @ weights)))
        slopes.append(float(np.sum(weights * centred.xy)) / predicted if predicted > 0 else 0.0)
    lowest = np.mean(slopes) - np.std(slopes, ddof=1) / np.sqrt(len(slopes)) if len(slopes) > 1 else slopes[0]
    return float(np.clip(lowest, 0, 1))
