"""Calibration: scores made into probabilities that mean what they say. How far off they are is measured in `reliability`.

Each calibration is fitted on held-out rows, and has a state that is kept with the model.
"""

from __future__ import annotations

import abc
import math
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from deeptrain.evaluation.arrays import (
    EvaluationError,
    as_array,
    as_column,
    as_floats,
    as_given,
    as_weights,
    binary_inputs,
    refuse_lengths,
    refuse_rows,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_VERSION = 1
_STEPS = 200


class Calibration(abc.ABC):
    """What the calibrations have in common: they are fitted once, and have a state of plain values and arrays."""

    def fit(self, scores: Any, targets: Any, sample_weight: Any = None) -> Self:
        """Fit it on rows that the model was not trained on.

        Args:
            scores: See the class.
            targets: The rows' classes: 0 and 1, shape (rows,).
            sample_weight: What each row counts, shape (rows,).

        Raises:
            EvaluationError: There are no rows, their numbers differ, a score is not finite, or there are other classes.
        """
        column, positive, weights, _ = binary_inputs(scores, targets, sample_weight)
        refuse_rows(~np.isfinite(column), "scores", "an infinite score", "finite ones")
        self._fit(column.astype(np.float64), positive, np.ones(len(column)) if weights is None else weights)
        return self

    def __call__(self, scores: Any) -> Any:
        """Give probabilities, float64 in the scores' shape, as a tensor where a tensor was given.

        Raises:
            EvaluationError: A score is NaN.
            RuntimeError: It was not fitted.
        """
        array, _ = as_floats(scores, "scores")
        return as_given(self._probabilities(array.astype(np.float64)), scores)

    def state_dict(self) -> dict[str, Any]:
        """Its kind and what was fitted."""
        return {"version": _VERSION, "kind": type(self).__name__} | self._fitted()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what another of its kind was fitted to.

        Raises:
            ValueError: The state is another kind's, or of an unknown version.
        """
        found, expected = (state.get("kind"), state.get("version")), (type(self).__name__, _VERSION)
        if found != expected:
            raise ValueError(
                f"a calibration's state of kind {found[0]!r} and version {found[1]!r}, expected {expected[0]!r} and {expected[1]}: load it "
                "into the kind that it was saved from"
            )
        self._take({key: value for key, value in state.items() if key not in {"kind", "version"}})

    @abc.abstractmethod
    def _fit(self, scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> None: ...

    @abc.abstractmethod
    def _probabilities(self, scores: Floats) -> Floats: ...

    @abc.abstractmethod
    def _fitted(self) -> dict[str, Any]: ...

    @abc.abstractmethod
    def _take(self, fitted: dict[str, Any]) -> None: ...


class TemperatureCalibration(Calibration):
    """Logits divided by one number, the temperature: no ranking and no predicted class changes.

    Scores are logits, of shape (rows,) for two classes or (rows, classes). The temperature is the one with the smallest log loss, of
    0.001 to 1000.

    Attributes:
        temperature: Above 1 where the model is too sure of itself. None before it is fitted.

    Example:
        >>> sure = TemperatureCalibration().fit([4.0, 4.0, 4.0, -4.0, -4.0, -4.0], [1, 1, 0, 0, 0, 1])
        >>> round(float(sure([4.0])[0]), 4)
        0.6667
    """

    _LIMITS = 1e-3, 1e3

    def __init__(self) -> None:
        self.temperature: float | None = None

    def fit(self, scores: Any, targets: Any, sample_weight: Any = None) -> Self:
        """Fit it on rows that the model was not trained on.

        Args:
            scores: Logits, shape (rows,) or (rows, classes).
            targets: The rows' classes, whole numbers of shape (rows,).
            sample_weight: What each row counts, shape (rows,).

        Raises:
            EvaluationError: There are no rows, their numbers differ, a logit is not finite, or a class has no column.
        """
        array, _ = as_floats(scores, "scores")
        if array.ndim == 1 or array.shape[1:] == (1,):
            return super().fit(scores, targets, sample_weight)
        labels, weights = _labelled(array, targets, sample_weight)
        refuse_rows(~np.isfinite(array), "scores", "an infinite score", "finite ones")
        logits = array.astype(np.float64)
        self._search(logits, logits[np.arange(len(labels)), labels], weights)
        return self

    def _fit(self, scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> None:
        self._search(np.stack([np.zeros(len(scores)), scores], 1), np.where(positive, scores, 0.0), weights)

    def _search(self, logits: Floats, own: Floats, weights: Floats) -> None:
        """Halve the range of log temperatures: the loss is convex in the inverse temperature, so that its slope has one zero."""
        low, high = (math.log(limit) for limit in self._LIMITS)
        for _ in range(_STEPS):
            middle = (low + high) / 2
            if not low < middle < high:
                break
            # The slope by the inverse temperature: below 0 where a larger inverse, a lower temperature, is better.
            expected = (_softmax(logits * math.exp(-middle)) * logits).sum(1)
            if float(weights @ (expected - own)) < 0:
                high = middle
            else:
                low = middle
        self.temperature = math.exp(low)

    def logits(self, scores: Any) -> Any:
        """Give the logits divided by the temperature, float64, as a tensor where a tensor was given.

        Raises:
            EvaluationError: A logit is NaN.
            RuntimeError: It was not fitted.
        """
        array, _ = as_floats(scores, "scores")
        return as_given(array.astype(np.float64) / _known(self.temperature, self), scores)

    def _probabilities(self, scores: Floats) -> Floats:
        cooled = scores / _known(self.temperature, self)
        return _sigmoid(cooled) if scores.ndim < 2 or scores.shape[-1] == 1 else _softmax(cooled)  # noqa: PLR2004 - rows, classes

    def _fitted(self) -> dict[str, Any]:
        return {"temperature": self.temperature}

    def _take(self, fitted: dict[str, Any]) -> None:
        self.temperature = fitted["temperature"]


class SigmoidCalibration(Calibration):
    """Platt's: the probability is the sigmoid of slope * score + offset. Scores are of any range, larger for the positive class.

    The targets are drawn in by the numbers of rows of both classes, as Platt (1999) does, so that separable rows have a fit too.

    Attributes:
        slope, offset: What was fitted; None before.

    Example:
        >>> fitted = SigmoidCalibration().fit([0.0, 1.0, 2.0, 3.0], [0, 1, 0, 1])
        >>> fitted.slope > 0
        True
    """

    def __init__(self) -> None:
        self.slope: float | None = None
        self.offset: float | None = None

    def _fit(self, scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> None:
        ones, zeros = float(weights[positive].sum()), float(weights[~positive].sum())
        aims = np.where(positive, (ones + 1) / (ones + 2), 1 / (zeros + 2))
        # Scores of one scale and around 0, so that Newton's steps are good ones whatever they were.
        centre = float(np.average(scores, weights=weights))
        spread = float(np.sqrt(np.average((scores - centre) ** 2, weights=weights))) or 1.0
        design = np.stack([(scores - centre) / spread, np.ones(len(scores))], 1)
        slope, offset = _logistic(design, aims, weights)
        self.slope, self.offset = slope / spread, offset - slope * centre / spread

    def _probabilities(self, scores: Floats) -> Floats:
        return _sigmoid(_known(self.slope, self) * scores + _known(self.offset, self))

    def _fitted(self) -> dict[str, Any]:
        return {"slope": self.slope, "offset": self.offset}

    def _take(self, fitted: dict[str, Any]) -> None:
        self.slope, self.offset = fitted["slope"], fitted["offset"]


class IsotonicCalibration(Calibration):
    """The rising step function with the smallest squared error, scikit-learn's; between its points on straight lines.

    It takes many rows (about a thousand), and makes ties. scikit-learn is needed to fit it, and not to load or use it.

    Attributes:
        scores, probabilities: The points of the function, both rising; None before it is fitted.

    Raises:
        ImportError: In `fit`, scikit-learn is not installed.
    """

    def __init__(self) -> None:
        self.scores: Floats | None = None
        self.probabilities: Floats | None = None

    def _fit(self, scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> None:
        try:
            from sklearn.isotonic import IsotonicRegression  # noqa: PLC0415 - who does not fit it needs no scikit-learn
        except ImportError as error:
            raise ImportError(
                "IsotonicCalibration.fit needs scikit-learn: pip install scikit-learn"
            ) from error
        counted = weights > 0
        model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
        model.fit(scores[counted], positive[counted].astype(np.float64), weights[counted])
        self.scores, self.probabilities = model.X_thresholds_, model.y_thresholds_

    def _probabilities(self, scores: Floats) -> Floats:
        if self.scores is None or self.probabilities is None:
            return scores * _known(None, self)
        return np.asarray(np.interp(scores, self.scores, self.probabilities))

    def _fitted(self) -> dict[str, Any]:
        return {"scores": self.scores, "probabilities": self.probabilities}

    def _take(self, fitted: dict[str, Any]) -> None:
        taken = (
            None if fitted[name] is None else as_array(fitted[name]) for name in ("scores", "probabilities")
        )
        self.scores, self.probabilities = taken


def _labelled(scores: NDArray[Any], targets: Any, sample_weight: Any) -> tuple[NDArray[np.int64], Floats]:
    """The class and the weight of each row, for scores of shape (rows, classes)."""
    if scores.ndim != 2:  # noqa: PLR2004 - rows and classes
        raise EvaluationError(f"scores: found shape {scores.shape}, expected (rows,) or (rows, classes)")
    labels = as_column(as_array(targets), "targets")
    refuse_lengths(len(labels), len(scores), "targets")
    classes = scores.shape[1]
    wrong = ~np.isin(labels, np.arange(classes))
    refuse_rows(wrong, "targets", "a class without a column", f"whole numbers of 0 to {classes - 1}")
    weights = as_weights(sample_weight, len(scores))
    return labels.astype(np.int64), np.ones(len(scores)) if weights is None else weights


def _known(value: float | None, owner: Calibration) -> float:
    if value is None:
        raise RuntimeError(
            f"{type(owner).__name__} was not fitted: call fit(scores, targets), or load a state"
        )
    return value


def _sigmoid(logits: Floats) -> Floats:
    small = np.exp(-np.abs(logits))  # never overflows
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small))


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def _log_loss(logits: Floats, aims: Floats, weights: Floats) -> float:
    return float(weights @ (np.logaddexp(0, logits) - aims * logits))


def _logistic(design: Floats, aims: Floats, weights: Floats) -> tuple[float, float]:
    """Fit probabilities to aims within (0, 1) by Newton's steps, each halved until it makes the loss smaller."""
    found = np.zeros(2)
    loss = _log_loss(design @ found, aims, weights)
    for _ in range(_STEPS):
        probabilities = _sigmoid(design @ found)
        gradient = design.T @ (weights * (probabilities - aims))
        curvature = (design * (weights * probabilities * (1 - probabilities))[:, None]).T @ design
        step = np.linalg.solve(curvature + 1e-12 * np.trace(curvature) * np.eye(2), gradient)
        size = 1.0
        while (lower := _log_loss(design @ (found - size * step), aims, weights)) >= loss:
            size /= 2
            if size < 1e-10:  # noqa: PLR2004 - no step makes it smaller: it is as small as it gets
                return float(found[0]), float(found[1])
        found, loss = found - size * step, lower
    return float(found[0]), float(found[1])
