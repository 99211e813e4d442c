"""The formulas of the named metrics, in NumPy. A rate over no rows is 0, as scikit-learn has it.

Those of confusion counts take them along the last axis, so that many are computed at once: `(..., 4)` as true negatives,
false positives, false negatives, true positives; or `(..., 3, classes)` as hits, predicted and actual rows of each class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from deeptrain.evaluation.metrics.reading import Classes, Floats, Scores, Values

SMALLEST = float(np.finfo(np.float64).eps)  # of a target, in a relative error


def over(part: Floats, whole: Floats) -> Floats:
    """A rate; 0 where it is over nothing."""
    result: Floats = np.divide(part, whole, out=np.zeros(np.broadcast(part, whole).shape), where=whole != 0)
    return result


def precision(counts: Floats) -> Floats:
    """Of what was taken for positive, the share that is."""
    return over(counts[..., 3], counts[..., 3] + counts[..., 1])


def tpr(counts: Floats) -> Floats:
    """Of the positive rows, the share that was found."""
    return over(counts[..., 3], counts[..., 3] + counts[..., 2])


def tnr(counts: Floats) -> Floats:
    """Of the negative rows, the share that was left."""
    return over(counts[..., 0], counts[..., 0] + counts[..., 1])


def f_beta(beta: float) -> Callable[[Floats], Floats]:
    """The weighted harmonic mean of precision and recall, where recall counts `beta` times as much."""

    def formula(counts: Floats) -> Floats:
        hits = (1 + beta**2) * counts[..., 3]
        return over(hits, hits + beta**2 * counts[..., 2] + counts[..., 1])

    return formula


def informedness(counts: Floats) -> Floats:
    """TPR + TNR - 1."""
    return tpr(counts) + tnr(counts) - 1


def product(counts: Floats) -> Floats:
    """TPR * TNR."""
    return tpr(counts) * tnr(counts)


def balanced_accuracy(table: Floats) -> Floats:
    """The mean of the recalls of those classes that occur among the targets."""
    hits, _, actual = _rows_of(table)
    return over(over(hits, actual).sum(axis=-1), (actual > 0).sum(axis=-1).astype(float))


def matthews(table: Floats) -> Floats:
    """Matthews' correlation, of any number of classes."""
    hits, predicted, actual = _rows_of(table)
    total = actual.sum(axis=-1)
    together = hits.sum(axis=-1) * total - (predicted * actual).sum(axis=-1)
    apart = (total**2 - (predicted**2).sum(axis=-1)) * (total**2 - (actual**2).sum(axis=-1))
    # What weights leave of a difference that should be 0 must not be divided by.
    none = apart <= (16 * SMALLEST * total**2) ** 2
    return over(np.where(none, 0.0, together), np.sqrt(np.where(none, 0.0, apart)))


def f1_macro(table: Floats) -> Floats:
    """The mean F1 of the classes that occur among the targets or the predictions."""
    _, predicted, actual = _rows_of(table)
    return over(_f1_each(table).sum(axis=-1), (predicted + actual > 0).sum(axis=-1).astype(float))


def f1_weighted(table: Floats) -> Floats:
    """The mean F1 of the classes, each as often as it occurs among the targets."""
    actual = table[..., 2, :]
    each: Floats = _f1_each(table) * actual
    return over(each.sum(axis=-1), actual.sum(axis=-1))


def _f1_each(table: Floats) -> Floats:
    hits, predicted, actual = _rows_of(table)
    return over(hits * 2, predicted + actual)


def _rows_of(table: Floats) -> tuple[Floats, Floats, Floats]:
    return table[..., 0, :], table[..., 1, :], table[..., 2, :]


def right(read: Classes) -> Floats:
    """1 for each element that was decided rightly."""
    same: Floats = np.asarray(read.predicted == read.actual, dtype=np.float64)
    return same


def absolute(read: Values) -> Floats:
    """Each row's mean absolute error."""
    result: Floats = np.abs(read.predictions - read.targets).mean(axis=1)
    return result


def squared(read: Values) -> Floats:
    """Each row's mean squared error."""
    result: Floats = np.square(read.predictions - read.targets).mean(axis=1)
    return result


def relative(read: Values) -> Floats:
    """Each row's mean error relative to the targets, a share of 1."""
    each = np.abs(read.predictions - read.targets) / np.maximum(np.abs(read.targets), SMALLEST)
    result: Floats = each.mean(axis=1)
    return result


def log_loss(read: Scores) -> Floats:
    """Each element's negative logarithm of the true class's probability, from logarithms."""
    result: Floats = -np.take_along_axis(read.scores, read.actual[:, None], axis=1)[:, 0]
    return result


def brier(read: Scores) -> Floats:
    """Each element's squared distance from its class's corner; of two classes half of it, (p - y)^2."""
    truth = np.zeros_like(read.scores)
    np.put_along_axis(truth, read.actual[:, None], 1.0, axis=1)
    each: Floats = np.square(read.scores - truth).sum(axis=1)
    return each / 2 if read.scores.shape[1] == 2 else each  # noqa: PLR2004


def rmse(read: Values) -> float:
    """The root of the mean squared error of each output, and the mean of these."""
    errors = np.square(read.predictions - read.targets)
    return float(np.sqrt(np.average(errors, axis=0, weights=read.weights)).mean())


def r2(read: Values) -> float:
    """One minus the errors' share of each output's variance, and the mean of these; NaN of less than two rows.

    An output that does not vary has 1 where it is met exactly, and 0 otherwise.
    """
    if len(read.targets) < 2:  # noqa: PLR2004
        return float("nan")
    weights = read.weights[:, None]
    middle = np.average(read.targets, axis=0, weights=read.weights)
    errors = (weights * np.square(read.predictions - read.targets)).sum(axis=0)
    spread = (weights * np.square(read.targets - middle)).sum(axis=0)
    each = np.where(spread != 0, 1 - over(errors, spread), np.where(errors == 0, 1.0, 0.0))
    return float(each.mean())


def auroc(read: Scores) -> float:
    """The area under the ROC curve; of more classes the mean of each against the rest, over those that can be judged."""
    return _of_each(read, _auroc)


def average_precision(read: Scores) -> float:
    """The mean of the precisions where recall grows; of more classes the mean of those that occur."""
    return _of_each(read, _average_precision)


def _of_each(read: Scores, of: Callable[[Floats, Floats, Floats], float]) -> float:
    if read.scores.ndim == 1:
        return of(read.scores, (read.actual == 1).astype(np.float64), read.weights)
    occurring = np.unique(read.actual[read.weights > 0])
    found = [
        of(read.scores[:, each], (read.actual == each).astype(np.float64), read.weights) for each in occurring
    ]
    return float(np.mean(found))


def _running(scores: Floats, truth: Floats, weights: Floats) -> tuple[Floats, Floats]:
    """True and false positives where the cut lies below each distinct score, from the highest down."""
    order = np.argsort(-scores, kind="stable")
    scores, truth, weights = scores[order], truth[order], weights[order]
    last = np.append(scores[1:] != scores[:-1], True)
    return np.cumsum(truth * weights)[last], np.cumsum((1 - truth) * weights)[last]


def _auroc(scores: Floats, truth: Floats, weights: Floats) -> float:
    hits, alarms = _running(scores, truth, weights)
    if hits[-1] == 0 or alarms[-1] == 0:
        return float("nan")  # one class has no rows: there is no order to judge
    hits, alarms = np.insert(hits, 0, 0.0), np.insert(alarms, 0, 0.0)
    area = np.sum(np.diff(alarms) * (hits[1:] + hits[:-1])) / 2
    return float(area / (hits[-1] * alarms[-1]))


def _average_precision(scores: Floats, truth: Floats, weights: Floats) -> float:
    hits, alarms = _running(scores, truth, weights)
    if hits[-1] == 0:
        return 0.0
    return float(np.sum(np.diff(hits, prepend=0.0) * over(hits, hits + alarms)) / hits[-1])
