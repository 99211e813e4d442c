"""What a search for thresholds gives: `Threshold`, and `Thresholds` of several labels or classes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from deeptrain.evaluation.arrays import EvaluationError, as_floats, as_given

if TYPE_CHECKING:
    from numpy.typing import NDArray

_VERSION = 1


@dataclass(frozen=True)
class Interval:
    """Where threshold and metric lie for rows that are drawn again from the rows.

    Attributes:
        threshold: Of the best thresholds of the redrawn rows.
        score: Of the metric of the redrawn rows at the one threshold that was chosen.
        level: The share of the redrawn that lies within.
    """

    threshold: tuple[float, float]
    score: tuple[float, float]
    level: float


@dataclass(frozen=True)
class Threshold:
    """The best threshold of some rows: a row is positive where its score is not below it.

    Attributes:
        threshold: The middle of the plateau. It is a number of the scores' type, so that it cuts the same rows in that type and in
            float64. Infinite only where nothing finite is as good: every row counts as positive and some score is -inf.
        score: The metric at it, on the rows that it was chosen by: optimistic.
        plateau: The lowest and the highest threshold that give this score, the threshold between them.
        metric: The metric's name.
        mode: Whether "max" or "min" of it is the best.
        rows: How many rows it was chosen by.
        cross_fitted: The metric where each row is called by a threshold that only other rows chose; None where that was not asked for or
            some rows left no choice.
        folds: In how many parts the rows were dealt for that; 0 for none.
        interval: Of threshold and metric, by the bootstrap; None where that was not asked for.
        counts: True positives, false positives, true negatives, false negatives at the threshold, as sums of weights; None for a metric
            of predictions.
        calibrated: Where the metric knows it (`expected_cost`) and all scores are within 0 to 1: the threshold that would be the best if
            the scores were calibrated probabilities.
        calibrated_score: The metric at that one.
    """

    threshold: float
    score: float
    plateau: tuple[float, float]
    metric: str
    mode: Literal["max", "min"]
    rows: int
    cross_fitted: float | None = None
    folds: int = 0
    interval: Interval | None = None
    counts: tuple[float, float, float, float] | None = None
    calibrated: float | None = None
    calibrated_score: float | None = None

    def __str__(self) -> str:
        told = f"{self.metric} {self.score:.4g} on the {self.rows} rows that it was chosen by (optimistic)"
        if self.cross_fitted is not None:
            told += f", {self.cross_fitted:.4g} cross-fitted"
        return f"threshold {self.threshold:.6g}: {told}"

    def predict(self, scores: Any) -> Any:
        """Call rows positive or not.

        Args:
            scores: An array or tensor of any shape.

        Returns:
            Booleans of the same shape, as a tensor where a tensor was given.

        Raises:
            EvaluationError: A score is NaN.
        """
        array, _ = as_floats(scores, "scores")
        return as_given(np.asarray(array >= np.float64(self.threshold)), scores)

    def state_dict(self) -> dict[str, Any]:
        """Plain values that `from_state_dict` makes it of again."""
        state = asdict(self)
        return {"version": _VERSION} | {key: _plain(value) for key, value in state.items()}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Threshold:
        """Make it of what `state_dict` gave.

        Raises:
            ValueError: The state is of an unknown version.
        """
        if state.get("version") != _VERSION:
            raise ValueError(
                f"a threshold's state of version {state.get('version')!r}: expected {_VERSION}: use the version that wrote it"
            )
        made = {key: value for key, value in state.items() if key != "version"}
        made["plateau"] = tuple(made["plateau"])
        made["counts"] = made["counts"] and tuple(made["counts"])
        if found := made["interval"]:
            made["interval"] = Interval(tuple(found["threshold"]), tuple(found["score"]), found["level"])
        return cls(**made)


def _plain(value: Any) -> Any:
    """Tuples as lists, which come back as they are from any format."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Thresholds:
    """The best threshold of each label or class.

    Attributes:
        each: In the columns' order.
    """

    each: tuple[Threshold, ...]

    @property
    def threshold(self) -> NDArray[np.float64]:
        """Each column's threshold, shape (columns,)."""
        return np.array([one.threshold for one in self.each])

    @property
    def score(self) -> float:
        """The mean of the columns' metrics, on the rows that the thresholds were chosen by: optimistic."""
        return float(np.mean([one.score for one in self.each]))

    @property
    def cross_fitted(self) -> float | None:
        """The mean of the columns' cross-fitted metrics; None where one has none."""
        scores = [one.cross_fitted for one in self.each]
        return None if None in scores else float(np.mean([score for score in scores if score is not None]))

    def predict(self, scores: Any) -> Any:
        """Call each label or class of each row, by its own threshold.

        Args:
            scores: An array or tensor of shape (..., columns).

        Returns:
            Booleans of that shape, as a tensor where a tensor was given. Of classes, several or none may be called in a row.

        Raises:
            EvaluationError: A score is NaN, or there is another number of columns.
        """
        array, _ = as_floats(scores, "scores")
        if array.shape[-1] != len(self.each):
            raise EvaluationError(
                f"scores: found shape {array.shape}, expected (..., {len(self.each)}), a column for each threshold"
            )
        return as_given(np.asarray(array >= self.threshold), scores)

    def state_dict(self) -> dict[str, Any]:
        """Plain values that `from_state_dict` makes it of again."""
        return {"version": _VERSION, "each": [one.state_dict() for one in self.each]}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> Thresholds:
        """Make it of what `state_dict` gave.

        Raises:
            ValueError: The state is of an unknown version.
        """
        return cls(tuple(Threshold.from_state_dict(one) for one in state["each"]))
