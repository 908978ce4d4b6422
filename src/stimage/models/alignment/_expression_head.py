from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Parts = list[tuple[np.ndarray, np.ndarray]]
PENALTIES = np.logspace(-3, 3, 13)
"""Penalties that are tried, in mean variances of an input."""


@dataclass(frozen=True)
class ExpressionHead:
    """Ridge regression from image vectors of spots to their expression, in closed form.

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
    """

    mean: np.ndarray
    weights: np.ndarray
    intercept: np.ndarray
    penalty: float

    @classmethod
    def fit(
        cls,
        inputs: list[np.ndarray],
        expression: list[np.ndarray],
        *,
        donors: list[str] | None = None,
        penalty: float | None = None,
    ) -> ExpressionHead:
        """Fit on training slides; the penalty is the one that predicts each donor's slides best from the others.

        With a single donor each of its slides is left out, with a single slide its quarters in the order of the spots.
        Memory does not grow with the number of slides: only sums of products are kept.

        Parameters
        ----------
        inputs
            Image vectors of the spots of each slide (spots x inputs).
        expression
            Their expression (spots x genes).
        donors
            Who each slide is from; by default each is from somebody else.
        penalty
            A penalty that was chosen elsewhere, one of :data:`PENALTIES`.

        Returns
        -------
        ExpressionHead
            The fitted head.
        """
        donors = [str(number) for number in range(len(inputs))] if donors is None else donors
        parts = [part for part in zip(inputs, expression, donors, strict=True) if len(part[0])]
        if len(parts) == 1:
            x, y, _ = parts[0]
            quarters = zip(*(np.array_split(part, min(4, len(part))) for part in (x, y)), strict=True)
            parts = [(*quarter, str(number)) for number, quarter in enumerate(quarters)]
        elif len({donor for _, _, donor in parts}) == 1:
            parts = [(x, y, str(number)) for number, (x, y, _) in enumerate(parts)]
        moments: dict[str, _Moments] = {}
        for x, y, donor in parts:
            found = _Moments.of(x, y)
            moments[donor] = moments[donor] + found if donor in moments else found
        first, *others = moments.values()
        total = sum(others, start=first)
        if penalty is None:
            errors = np.zeros(len(PENALTIES))
            for held_out in moments.values() if others else []:
                errors += _errors(total - held_out, held_out)
            penalty = float(PENALTIES[int(np.argmin(errors))])
        # As it will be read from a file, so that a loaded model predicts the same to the last digit.
        return cls.from_tensors(total.solve(penalty).tensors())

    @property
    def shape(self) -> tuple[int, int]:
        """Number of inputs and of genes; (0, 0) if the parts do not fit together."""
        fits = self.weights.shape == (*self.mean.shape, *self.intercept.shape) and self.weights.ndim == 2
        return self.weights.shape if fits else (0, 0)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        """Expression (spots x genes) from inputs (spots x inputs), float32."""
        return ((inputs - self.mean) @ self.weights + self.intercept).astype(np.float32)

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
        parts["penalty"] = np.array([self.penalty])
        return {name: np.asarray(values, dtype=np.float32) for name, values in parts.items()}

    @classmethod
    def from_tensors(cls, tensors: dict[str, np.ndarray]) -> ExpressionHead:
        """The head that :meth:`tensors` came from."""
        return cls(tensors["mean"], tensors["weights"], tensors["intercept"], float(tensors["penalty"][0]))


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


def penalty_errors(train: Parts, test: Parts) -> np.ndarray:
    """Squared error of each of :data:`PENALTIES` on slides that neither the head nor what its inputs come from has seen.

    Parameters
    ----------
    train, test
        Inputs (spots x inputs) and expression (spots x genes) of slides.

    Returns
    -------
    numpy.ndarray
        Sum over spots and genes (penalties).
    """
    seen, unseen = ([_Moments.of(x, y) for x, y in part if len(x)] for part in (train, test))
    if not seen or not unseen:
        return np.zeros(len(PENALTIES))
    return _errors(sum(seen[1:], start=seen[0]), sum(unseen[1:], start=unseen[0]))


def _errors(train: _Moments, test: _Moments) -> np.ndarray:
    return np.array([train.solve(penalty).squared_error(test) for penalty in PENALTIES])
