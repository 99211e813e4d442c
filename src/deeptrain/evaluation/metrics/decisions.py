"""From predictions to probabilities, scores and decided classes, by what `form` says that they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from deeptrain.evaluation.metrics.reading import (
    TWO,
    Classes,
    MetricError,
    Scores,
    array_of,
    read_columns,
    step_of,
    weights_of,
    within,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deeptrain.evaluation.metrics.reading import Floats, Given, Ints

DEFAULT = 0.5
AS_LOGITS = "if they are logits, say so: form='logits' (--form logits of a command); or form='scores' for any other numbers"


def log_sigmoid(logits: Floats) -> Floats:
    """The logarithm of the sigmoid, exact for large logits too."""
    result: Floats = -np.logaddexp(0.0, -logits)
    return result


def log_softmax(logits: Floats) -> Floats:
    """The logarithm of the softmax over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def refuse_improbable(given: Given, found: Floats, each: int) -> None:
    """Refuse what cannot be probabilities: outside [0, 1], or rows that do not sum to 1.

    Args:
        given: What they come from; their sums may be off by the root of its type's step.
        found: `(elements,)`, or `(elements, classes)`.
        each: Elements of one row.

    Raises:
        MetricError: They are none.
    """
    inside = (found >= 0) & (found <= 1)
    if not inside.all():
        wrong = np.flatnonzero(~inside.reshape(len(found), -1).all(axis=1))
        value = found[~inside].flat[0]
        raise MetricError(
            given.name,
            f"found {value:g} among probabilities, outside [0, 1]; {AS_LOGITS}",
            np.unique(wrong // each),
        )
    if found.ndim == TWO:
        sums = found.sum(axis=1)
        wrong = np.flatnonzero(np.abs(sums - 1) > max(step_of(given.predictions) ** 0.5, 1e-6))
        if len(wrong):
            raise MetricError(
                given.name,
                f"found probabilities of the classes that sum to {sums[wrong[0]]:g}, expected 1; {AS_LOGITS}",
                np.unique(wrong // each),
            )


def read_classes(given: Given, *, binary: bool = False) -> Classes:
    """Decide each element's class.

    Whole numbers are classes. `(n, classes)` decide for the largest (the first of several); two columns with a threshold for
    class 1 where its probability reaches it. `(n,)` with fractions decide for class 1 where they are at least the threshold.

    Raises:
        MetricError: Something cannot be read as that.
    """
    found, actual, each = read_columns(given)
    if found.ndim == 1 and found.dtype.kind in "biu":
        if binary:
            within(given.name, "the prediction", found.astype(np.int64), 2, each)
        predicted, actual, classes = _numbered(
            given.name, found.astype(np.int64), actual, each, binary=binary
        )
    else:
        classes = found.shape[1] if found.ndim == TWO else 2
        predicted = _decided(given, found, each)
    if binary and classes > TWO:
        raise MetricError(
            given.name,
            f"found {classes} classes, expected 2; for more there are 'accuracy', 'balanced_accuracy', 'mcc', 'f1_macro' and 'f1_weighted'",
        )
    within(given.name, "the target", actual, classes, each)
    rows = len(actual) // each
    return Classes(predicted, actual, weights_of(given.name, given.sample_weight, rows, each), classes, each)


def _numbered(name: str, predicted: Ints, actual: Ints, each: int, *, binary: bool) -> tuple[Ints, Ints, int]:
    """Number the labels that occur without gaps, so that no table is as long as the largest label."""
    if binary:
        return predicted, actual, 2
    for what, labels in (("the prediction", predicted), ("the target", actual)):
        wrong = np.flatnonzero(labels < 0)
        if len(wrong):
            found = int(labels[wrong[0]])
            raise MetricError(
                name, f"found {what} {found}, expected classes from 0 on", np.unique(wrong // each)
            )
    labels, numbers = np.unique(np.concatenate([predicted, actual]), return_inverse=True)
    numbers = numbers.reshape(-1)
    return numbers[: len(predicted)], numbers[len(predicted) :], len(labels)


def _decided(given: Given, found: NDArray[Any], each: int) -> Ints:
    if found.ndim == TWO and given.threshold is None:
        return np.asarray(found.argmax(axis=1), dtype=np.int64)
    if found.ndim == TWO and found.shape[1] != TWO:
        raise MetricError(
            given.name,
            f"found threshold={given.threshold:g} for {found.shape[1]} classes; a threshold goes with two",
        )
    threshold = DEFAULT if given.threshold is None else given.threshold
    decided = of_class_1(given, found.astype(np.float64), each) >= threshold
    return decided.astype(np.int64)


def of_class_1(given: Given, found: Floats, each: int = 1) -> Floats:
    """What a threshold is held against: the probability of class 1, or for `form="scores"` its score."""
    if given.form == "logits":
        logits = found if found.ndim == 1 else found[:, 1] - found[:, 0]
        result: Floats = np.exp(log_sigmoid(logits))
        return result
    if given.form == "probabilities":
        refuse_improbable(given, found, each)
        return found if found.ndim == 1 else found[:, 1]
    return found if found.ndim == 1 else found[:, 1] - found[:, 0]


def read_ranks(given: Given) -> Scores:
    """Read scores of which only the order counts; those of one axis are taken as they are, whatever their range.

    Raises:
        MetricError: Columns are no probabilities where they should be, or there are labels outside the classes.
    """
    found, actual, each = read_columns(given)
    found = found.astype(np.float64)
    if found.ndim == TWO and given.form == "probabilities":
        refuse_improbable(given, found, each)
    if found.ndim == TWO and found.shape[1] == TWO:
        # The difference of logits has no ties where the probabilities round to 1.
        found = found[:, 1] if given.form == "probabilities" else found[:, 1] - found[:, 0]
    elif found.ndim == TWO and given.form == "logits":
        found = log_softmax(found)
    return _scores(given, found, actual, each)


def read_log_probabilities(given: Given) -> Scores:
    """Read probabilities as their logarithms `(elements, classes)`; those of 0 as of the smallest step from 1.

    Raises:
        MetricError: They are none, or there are labels outside the classes.
    """
    found, actual, each = read_columns(given)
    found = found.astype(np.float64)
    if given.form == "scores":
        raise MetricError(given.name, "found form='scores', expected probabilities or logits")
    if given.form == "logits" and found.ndim == 1:
        found = np.stack([log_sigmoid(-found), log_sigmoid(found)], axis=1)
    elif given.form == "logits":
        found = log_softmax(found)
    else:
        refuse_improbable(given, found, each)
        found = np.stack([1 - found, found], axis=1) if found.ndim == 1 else found
        step = np.finfo(np.float64).eps
        found = np.log(np.clip(found, step, 1 - step))
    return _scores(given, found, actual, each)


def read_probabilities(given: Given) -> Scores:
    """Read probabilities `(elements, classes)`.

    Raises:
        MetricError: They are none, or there are labels outside the classes.
    """
    if given.form == "logits":
        read = read_log_probabilities(given)
        return Scores(np.exp(read.scores), read.actual, read.weights, read.each)
    if given.form == "scores":
        raise MetricError(given.name, "found form='scores', expected probabilities or logits")
    found, actual, each = read_columns(given)
    found = found.astype(np.float64)
    refuse_improbable(given, found, each)
    found = np.stack([1 - found, found], axis=1) if found.ndim == 1 else found
    return _scores(given, found, actual, each)


def _scores(given: Given, found: Floats, actual: Ints, each: int) -> Scores:
    within(given.name, "the target", actual, found.shape[1] if found.ndim == TWO else 2, each)
    rows = len(actual) // each
    return Scores(found, actual, weights_of(given.name, given.sample_weight, rows, each), each)


def probabilities_of(predictions: Any) -> Floats:
    """Logits `(n,)`, `(n, 1)` or `(n, classes, ...)` as probabilities, in their shape."""
    logits = array_of(predictions).astype(np.float64)
    if logits.ndim == 1 or logits.shape[1] == 1:
        result: Floats = np.exp(log_sigmoid(logits))
        return result
    return np.moveaxis(np.exp(log_softmax(np.moveaxis(logits, 1, -1))), -1, 1)
