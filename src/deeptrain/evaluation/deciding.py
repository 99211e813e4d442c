"""Decisions of a pass: by a threshold that is given, or by the best one, and then honestly by thresholds that other rows chose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deeptrain.evaluation.arrays import EvaluationError
from deeptrain.evaluation.metrics.decisions import probabilities_of
from deeptrain.evaluation.metrics.reading import array_of
from deeptrain.evaluation.thresholds.threshold import best_threshold

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from deeptrain.data.batch import RowIds
    from deeptrain.evaluation.metrics.reading import Form
    from deeptrain.evaluation.thresholds.chosen import Threshold
    from deeptrain.evaluation.thresholds.confusion import CountMetric

TWO = 2  # columns, or classes


@dataclass(frozen=True, kw_only=True)
class FindThreshold:
    """How a validation finds its threshold, anew in each pass: the settings of `best_threshold`.

    Attributes:
        metric: By what; a name, a `CountMetric`, or a function. See `best_threshold`.
        bounds: The lowest and the highest threshold that is allowed.
        preferred: What it is to be near to, where several are equally good.
        folds: In how many parts rows are dealt for the honest figures.
        grid: At how many cuts an opaque function is tried.

    Example:
        >>> FindThreshold(metric="f1", bounds=(0.05, 0.95)).folds
        5
    """

    metric: str | CountMetric | Callable[..., Any] = "f1"
    bounds: tuple[float, float] | None = None
    preferred: float = 0.5
    folds: int = 5
    grid: int = 100

    def find(self, scores: NDArray[Any], targets: NDArray[Any]) -> Threshold:
        """The best threshold of some rows."""
        return best_threshold(
            scores,
            targets,
            self.metric,
            bounds=self.bounds,
            preferred=self.preferred,
            grid=self.grid,
            bootstrap=0,
            folds=0,
        )


@dataclass(frozen=True)
class Decided:
    """The rows of a pass under the best threshold.

    Attributes:
        scores: The probability (or score) of class 1, `(rows,)`.
        targets: 0 and 1, `(rows,)`.
        best: The best threshold of all rows; what is scored with it on them is optimistic.
        honest: Each row's class, by the threshold that the other folds' rows chose, `(rows,)`; None where some rows left no choice.
    """

    scores: NDArray[Any]
    targets: NDArray[Any]
    best: Threshold
    honest: NDArray[np.int64] | None


def decide(how: FindThreshold, predictions: Any, targets: Any, rows: RowIds, form: Form | None) -> Decided:
    """Find the best threshold, and decide without it.

    Args:
        how: The search.
        predictions: Of two classes: `(rows,)`, `(rows, 1)` or `(rows, 2)`.
        targets: 0 and 1.
        rows: The rows' numbers; predictions of one row are never parted by folds.
        form: What predictions are; logits become probabilities.

    Raises:
        EvaluationError: They are not of two classes, or are not finite.
    """
    scores, wanted = scores_of(predictions, form), array_of(targets).reshape(-1)
    best = how.find(scores, wanted)
    return Decided(scores, wanted, best, _honest(how, scores, wanted, rows))


def scores_of(predictions: Any, form: Form | None) -> NDArray[Any]:
    """The probability of class 1, or its score."""
    array = array_of(predictions)
    if array.ndim > TWO or (array.ndim == TWO and array.shape[1] > TWO):
        raise EvaluationError(
            f"Validation(threshold=...): found predictions of shape {array.shape}, expected those of two classes, (rows,), (rows, 1) or "
            "(rows, 2): a threshold parts two"
        )
    if np.isnan(array).any():
        rows = np.flatnonzero(np.isnan(array).reshape(len(array), -1).any(1))
        raise EvaluationError(
            f"Validation(threshold=...): predictions are NaN in {len(rows)} of {len(array)} rows, the first of them row {rows[0]}"
        )
    array = probabilities_of(array) if form == "logits" else array
    return array[:, 1] if array.ndim == TWO and array.shape[1] == TWO else array.reshape(-1)


def _honest(
    how: FindThreshold, scores: NDArray[Any], targets: NDArray[Any], rows: RowIds
) -> NDArray[np.int64] | None:
    fold = _folds(targets, rows, how.folds)
    called = np.zeros(len(scores), np.int64)
    for number in range(int(fold.max()) + 1):
        out = fold == number
        try:
            cut = how.find(scores[~out], targets[~out]).threshold
        except EvaluationError:
            return None
        called[out] = scores[out] >= cut
    return called


def _folds(targets: NDArray[Any], rows: RowIds, folds: int) -> NDArray[np.int64]:
    """Each row's fold; either class is dealt for itself, and those of one number go together."""
    _, first, which = np.unique(rows, return_index=True, return_inverse=True)
    positive, random = targets[first] > 0, np.random.default_rng(0)
    fold = np.zeros(len(first), np.int64)
    for mine in (positive, ~positive):
        fold[mine] = random.permutation(int(mine.sum())) % folds
    return np.asarray(fold[which])
