"""`Scoring`: a metric with its direction and, where wanted, a threshold that is found anew each time it scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deeptrain.evaluation.metrics.decisions import probabilities_of
from deeptrain.evaluation.metrics.named import Metric, resolve_metric
from deeptrain.evaluation.metrics.reading import TWO, array_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from deeptrain.evaluation.metrics.named import Mode
    from deeptrain.evaluation.metrics.own_metric import OwnMetric
    from deeptrain.evaluation.metrics.reading import Floats, Form

    Threshold = float | Callable[..., Any] | None


@dataclass(frozen=True)
class Scoring:
    """How candidates are compared.

    Attributes:
        metric: The metric; its mode is known.
        threshold: One for all, None for the metric's own, or a function that finds one: `(scores, targets)`, or with weights
            `(scores, targets, sample_weight=...)`, to `(threshold, score)` or to an object with a `threshold`.
    """

    metric: Metric | OwnMetric
    threshold: Threshold = None

    @classmethod
    def of(cls, who: str, metric: Any, mode: Mode | None, form: Form | None, threshold: Threshold) -> Scoring:
        """Resolve the metric.

        Args:
            who: The function that asks, for messages.
            metric: A name, a metric or a function.
            mode: Its direction, where it is not known.
            form: What fractions are, for a name.
            threshold: See above.

        Raises:
            ValueError: The direction is not known, or a threshold goes with a metric that has none.
        """
        resolved = resolve_metric(metric, mode=mode, form=form)
        if resolved.mode is None:
            raise ValueError(
                f"{who}: of the function {resolved.name!r} it is not known what is best: give mode='max' or mode='min'"
            )
        if threshold is not None and resolved.needs != "threshold":
            raise ValueError(
                f"{who}: found a threshold, but the metric {resolved.name!r} has none: leave it out, or take one of decisions"
            )
        return cls(resolved, threshold)

    @property
    def searches(self) -> bool:
        """Whether a threshold is found anew for each candidate."""
        return callable(self.threshold)

    def read(self, predictions: Any) -> tuple[NDArray[Any], Scoring]:
        """Predictions as an array, and how to score them then.

        Where a threshold is searched, logits become probabilities, and two columns that of class 1.
        """
        array = array_of(predictions)
        if not self.searches or not isinstance(self.metric, Metric):
            return array, self
        scoring = self
        if self.metric.form == "logits":
            array, scoring = probabilities_of(array), self.on_probabilities()
        if array.ndim == TWO and array.shape[1] == TWO and self.metric.form != "scores":
            array = array[:, 1]
        return array.reshape(-1) if array.size == len(array) else array, scoring

    def on_probabilities(self) -> Scoring:
        """The same for predictions that were logits and are probabilities now."""
        if not isinstance(self.metric, Metric):
            return self
        return Scoring(resolve_metric(self.metric, form="probabilities"), self.threshold)

    def score(self, predictions: Any, targets: Any, weights: Any) -> tuple[float, float | None]:
        """The figure over these rows, and the threshold that it has it at."""
        threshold = self.find(predictions, targets, weights)
        return self.metric(predictions, targets, weights, threshold), threshold

    def find(self, predictions: Any, targets: Any, weights: Any) -> float | None:
        """The threshold for these rows."""
        if not callable(self.threshold):
            return self.threshold
        more = {} if weights is None else {"sample_weight": weights}
        found = self.threshold(predictions, targets, **more)
        return float(found.threshold if hasattr(found, "threshold") else found[0])

    def oriented(self, figures: Any) -> Floats:
        """Figures so that more is better; NaN, which never wins, as less than any."""
        values = np.asarray(figures, dtype=np.float64)
        values = values if self.metric.mode == "max" else -values
        return np.where(np.isnan(values), -np.inf, values)


def rows_of(who: str, what: str, values: Any, rows: int) -> NDArray[Any]:
    """Take one value a row.

    Raises:
        ValueError: There are more, or fewer.
    """
    array = array_of(values)
    if array.shape[:1] != (rows,):
        raise ValueError(
            f"{who}: found {what} of shape {array.shape}, expected {rows} rows, as of the targets"
        )
    return array
