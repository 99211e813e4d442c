"""Decisions of a pass: by the best threshold, and honestly by thresholds that other rows chose; or by one for each label or class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from deeptrain.evaluation.arrays import EvaluationError, refuse_rows
from deeptrain.evaluation.measures import needs_threshold
from deeptrain.evaluation.metrics.decisions import log_sigmoid, probabilities_of
from deeptrain.evaluation.metrics.named import Metric
from deeptrain.evaluation.metrics.reading import array_of
from deeptrain.evaluation.thresholds.chosen import Thresholds
from deeptrain.evaluation.thresholds.threshold import best_threshold

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from deeptrain.data.batch import RowIds
    from deeptrain.evaluation.measures import Resolved
    from deeptrain.evaluation.metrics.reading import Form
    from deeptrain.evaluation.thresholds.chosen import Threshold
    from deeptrain.evaluation.thresholds.confusion import CountMetric

TWO = 2  # columns, or classes


@dataclass(frozen=True, kw_only=True)
class FindThreshold:
    """How a validation finds its threshold, anew in each pass: the settings of `best_threshold`.

    Attributes:
        metric: By what; a name, a `CountMetric`, or a function. See `best_threshold`.
        each: Of more than two classes, each "label" (several may hold at once) or each "class" against all others has a threshold of
            its own, `threshold.0`, `threshold.1` and so on. Metrics of decisions between two classes are then computed of each column alone, and
            the figure is their mean; those which judge decisions between more classes too, as accuracy, go by the largest column as ever.
        in_subsets: Whether each subset of batches that `Validation(subset=...)` tries has the best threshold of its own; otherwise the pass's
            one holds for all of them.
        bounds: The lowest and the highest threshold that is allowed.
        preferred: What it is to be near to, where several are equally good.
        folds: In how many parts rows are dealt for the honest figures.
        grid: At how many cuts an opaque function is tried.

    Raises:
        ValueError: `each` is neither, or goes with `in_subsets`.

    Example:
        >>> FindThreshold(metric="f1", bounds=(0.05, 0.95)).folds
        5
    """

    metric: str | CountMetric | Callable[..., Any] = "f1"
    each: Literal["label", "class"] | None = None
    in_subsets: bool = False
    bounds: tuple[float, float] | None = None
    preferred: float = 0.5
    folds: int = 5
    grid: int = 100

    def __post_init__(self) -> None:
        if self.each not in {None, "label", "class"}:
            raise ValueError(f'FindThreshold(each={self.each!r}): expected "label", "class" or None')
        if self.each is not None and self.in_subsets:
            raise ValueError(
                "FindThreshold(in_subsets=True): a subset is chosen by a threshold between two classes, found "
                f"each={self.each!r}: leave one out"
            )

    def decides_for(self, metric: Resolved) -> bool:
        """Whether a metric goes by decisions that are made with what is found."""
        many = self.each == "class" and isinstance(metric, Metric) and metric.of_many
        return needs_threshold(metric) and not many

    def find(self, scores: NDArray[Any], targets: NDArray[Any], sample_weight: Any = None) -> Threshold:
        """The best threshold of some rows."""
        return best_threshold(
            scores,
            targets,
            self.metric,
            sample_weight,
            bounds=self.bounds,
            preferred=self.preferred,
            grid=self.grid,
            bootstrap=0,
            folds=0,
        )


@dataclass(frozen=True)
class Column:
    """The rows of a pass under the best threshold between two classes.

    Attributes:
        scores: The probability (or score) of the positive one, `(rows,)`.
        targets: 0 and 1, `(rows,)`.
        best: The best threshold of all rows; what is scored with it on them is optimistic.
        honest: Each row's class, by the threshold that the other folds' rows chose, `(rows,)`; None where some rows left no choice.
    """

    scores: NDArray[Any]
    targets: NDArray[Any]
    best: Threshold
    honest: NDArray[np.int64] | None


@dataclass(frozen=True)
class Decided:
    """The rows of a pass under their best thresholds.

    Attributes:
        columns: One between two classes; or one for each label or class.
        each: Whether it is the latter.
    """

    columns: tuple[Column, ...]
    each: bool

    def figures(self) -> dict[str, float]:
        """The thresholds by the figures' names."""
        if not self.each:
            return {"threshold": self.columns[0].best.threshold}
        return {f"threshold.{at}": column.best.threshold for at, column in enumerate(self.columns)}

    def state_dict(self) -> dict[str, Any]:
        """What `Threshold.from_state_dict` makes a threshold of; or `Thresholds.from_state_dict` all of them."""
        if not self.each:
            return self.columns[0].best.state_dict()
        return Thresholds(tuple(column.best for column in self.columns)).state_dict()


def decide(how: FindThreshold, predictions: Any, targets: Any, rows: RowIds, form: Form | None) -> Decided:
    """Find the best threshold, and decide without it.

    Args:
        how: The search.
        predictions: Of two classes: `(rows,)`, `(rows, 1)` or `(rows, 2)`; of each label or class `(rows, columns)`.
        targets: 0 and 1; of labels `(rows, columns)`; of classes their numbers, or one-hot.
        rows: The rows' numbers; predictions of one row are never parted by folds.
        form: What predictions are; logits become probabilities.

    Raises:
        EvaluationError: They are not of that shape, or are not finite.
    """
    if how.each is None:
        return Decided(
            (_column(how, scores_of(predictions, form), array_of(targets).reshape(-1), rows),), each=False
        )
    scores = _scores_of_each(predictions, form, how.each)
    wanted = _targets_of_each(array_of(targets), scores.shape, how.each)
    found = []
    for at in range(scores.shape[1]):
        try:
            found.append(_column(how, scores[:, at], wanted[:, at], rows))
        except EvaluationError as error:
            error.add_note(f"of the {how.each} {at}")
            raise
    return Decided(tuple(found), each=True)


def _column(how: FindThreshold, scores: NDArray[Any], targets: NDArray[Any], rows: RowIds) -> Column:
    return Column(scores, targets, how.find(scores, targets), _honest(how, scores, targets, rows))


def scores_of(predictions: Any, form: Form | None) -> NDArray[Any]:
    """The probability of class 1, or its score."""
    array = array_of(predictions)
    if array.ndim > TWO or (array.ndim == TWO and array.shape[1] > TWO):
        raise EvaluationError(
            f"Validation(threshold=...): found predictions of shape {array.shape}, expected those of two classes, (rows,), (rows, 1) or "
            '(rows, 2): a threshold parts two. For one of each label or class: threshold=FindThreshold(each="label") or each="class"'
        )
    _refuse_nan(array)
    array = probabilities_of(array) if form == "logits" else array
    return array[:, 1] if array.ndim == TWO and array.shape[1] == TWO else array.reshape(-1)


def _scores_of_each(predictions: Any, form: Form | None, each: Literal["label", "class"]) -> NDArray[Any]:
    """The probability of each label by itself, or of each class among all; or their scores."""
    array = array_of(predictions)
    if array.ndim != TWO or array.shape[1] < TWO:
        raise EvaluationError(
            f"FindThreshold(each={each!r}): found predictions of shape {array.shape}, expected (rows, columns), a column for each {each}"
        )
    _refuse_nan(array)
    if form != "logits":
        return array
    return probabilities_of(array) if each == "class" else np.exp(log_sigmoid(array.astype(np.float64)))


def _targets_of_each(
    targets: NDArray[Any], shape: tuple[int, ...], each: Literal["label", "class"]
) -> NDArray[Any]:
    """Whether each column holds, `(rows, columns)`."""
    if targets.shape == shape:
        return targets
    if each == "label" or targets.size != shape[0]:
        raise EvaluationError(
            f"FindThreshold(each={each!r}): found targets of shape {targets.shape}, expected {shape}"
            + (f" or the classes' numbers, ({shape[0]},)" if each == "class" else ", 0 and 1 for each label")
        )
    numbers = targets.reshape(-1)
    refuse_rows(
        ~np.isin(numbers, np.arange(shape[1])),
        "targets",
        "a class without a column",
        f"whole numbers of 0 to {shape[1] - 1}",
    )
    return np.asarray(numbers[:, None] == np.arange(shape[1]))


def _refuse_nan(array: NDArray[Any]) -> None:
    refuse_rows(
        np.isnan(array.reshape(len(array), -1)).any(1),
        "Validation(threshold=...): predictions",
        "NaN",
        "numbers",
    )


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
