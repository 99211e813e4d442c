"""How a metric reads what it is given: predictions, targets and weights as checked float64 and int64 arrays.

Nothing is guessed from the values: whether numbers are probabilities, logits or plain scores is said by `form`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from deeptrain.data.errors import joined
from deeptrain.evaluation.arrays import EvaluationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

Form = Literal["probabilities", "logits", "scores"]
FORMS = ("probabilities", "logits", "scores")
TWO = 2  # classes, or axes


class MetricError(EvaluationError):
    """A metric cannot be computed; the message names the metric, what was found, and the rows.

    Args:
        name: The metric's name.
        message: What was found, what was expected, and a remedy.
        rows: The rows that are at fault, where it is some of them.

    Attributes:
        name: The metric's name.
        rows: The rows that are at fault.
    """

    def __init__(self, name: str, message: str, rows: Any = ()) -> None:
        self.name, self.rows = name, [int(row) for row in rows]
        where = f" (row {joined(self.rows)})" if self.rows else ""
        super().__init__(f"the metric {name!r}: {message}{where}")


@dataclass(frozen=True)
class Given:
    """What a metric of this name is called with, and what fractions among the predictions are."""

    name: str
    form: Form
    predictions: Any
    targets: Any
    sample_weight: Any = None
    threshold: float | None = None


@dataclass(frozen=True)
class Classes:
    """Decided classes: of the predictions and of the targets, `(elements,)`, as numbers from 0 on."""

    predicted: Ints
    actual: Ints
    weights: Floats
    classes: int
    each: int  # elements of one row


@dataclass(frozen=True)
class Scores:
    """Scores `(elements,)` of class 1, or `(elements, classes)`, with the true classes."""

    scores: Floats
    actual: Ints
    weights: Floats
    each: int


@dataclass(frozen=True)
class Values:
    """Numbers `(rows, outputs)`, with a weight for each row."""

    predictions: Floats
    targets: Floats
    weights: Floats
    each: int = 1


def array_of(values: Any) -> NDArray[Any]:
    """Give a tensor's, an array's or a list's values as an array, in their own type; bfloat16 as float32."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    return np.asarray(values)


def step_of(values: Any) -> float:
    """The step of the numbers' own type, next to 1; 0 of whole numbers."""
    if isinstance(values, torch.Tensor):
        return torch.finfo(values.dtype).eps if values.is_floating_point() else 0.0
    dtype = np.asarray(values).dtype
    return float(np.finfo(dtype).eps) if dtype.kind == "f" else 0.0


def weights_of(name: str, sample_weight: Any, rows: int, each: int = 1) -> Floats:
    """Give a weight to each of a row's elements.

    Raises:
        MetricError: They are not `(rows,)`, not finite, below 0, or all 0.
    """
    if sample_weight is None:
        return np.ones(rows * each)
    weights = array_of(sample_weight).astype(np.float64)
    if weights.shape not in {(rows,), (rows, 1)}:
        raise MetricError(
            name, f"found sample_weight of shape {weights.shape}, expected ({rows},), one a row"
        )
    weights = weights.reshape(-1)
    wrong = np.flatnonzero(~np.isfinite(weights) | (weights < 0))
    if len(wrong):
        raise MetricError(
            name, f"found the weight {weights[wrong[0]]:g}, expected a finite one of at least 0", wrong
        )
    if not weights.any():
        raise MetricError(name, f"all of the {rows} rows have weight 0: there is nothing to judge")
    return np.repeat(weights, each)


def refuse_nan(name: str, what: str, values: NDArray[Any]) -> None:
    """Refuse what holds NaN, naming the rows.

    Raises:
        MetricError: It does.
    """
    if values.dtype.kind == "f" and np.isnan(values).any():
        rows = np.flatnonzero(np.isnan(values.reshape(len(values), -1)).any(axis=1))
        raise MetricError(name, f"{what} are NaN in {len(rows)} of {len(values)} rows", rows)


def _arrays(given: Given) -> tuple[NDArray[Any], NDArray[Any]]:
    name, found = given.name, {"predictions": array_of(given.predictions), "targets": array_of(given.targets)}
    for what, array in found.items():
        if array.dtype.kind not in "bifu":
            raise MetricError(
                name, f"found {what} of type {array.dtype}, expected one tensor or array of real numbers"
            )
        if array.ndim == 0 or array.size == 0:
            raise MetricError(
                name,
                f"found {what} of shape {array.shape}, expected at least one row: there is nothing to judge",
            )
        refuse_nan(name, what, array)
    return found["predictions"], found["targets"]


def read_values(given: Given) -> Values:
    """Read numbers of equal shape, but for an axis of size 1 (`(n, 1)` against `(n,)`).

    Raises:
        MetricError: Shapes differ, there are no rows, or something is NaN.
    """
    name, (found, wanted) = given.name, _arrays(given)
    if _without_ones(found.shape) != _without_ones(wanted.shape):
        raise MetricError(
            name,
            f"found predictions of shape {found.shape} and targets of shape {wanted.shape}, expected equal ones",
        )
    rows = len(found)
    found, wanted = (one.astype(np.float64).reshape(rows, -1) for one in (found, wanted))
    return Values(found, wanted, weights_of(name, given.sample_weight, rows))


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], *(size for size in shape[1:] if size != 1))


def read_columns(given: Given) -> tuple[NDArray[Any], Ints, int]:
    """Lay predictions out as `(elements,)` or `(elements, classes)`, and true classes as `(elements,)`.

    Args:
        given: Predictions `(n,)` or `(n, 1)`; or `(n, classes, ...)`, with the classes on axis 1. Targets are classes `(n,)`, `(n, 1)`
            or `(n, ...)`; or one-hot, in the predictions' shape.

    Returns:
        Both, and how many elements a row has.

    Raises:
        MetricError: The shapes do not go together, or targets are no classes.
    """
    name, (found, wanted) = given.name, _arrays(given)
    rows = len(found)
    whole = found.dtype.kind in "biu"
    columns = found.shape[1] if found.ndim >= TWO else 1
    same = found.shape == wanted.shape
    if same and columns > 1 and not whole:
        wanted = _from_one_hot(name, wanted)
    if columns > 1 and not (same and whole):
        if (rows, *found.shape[2:]) != wanted.shape and (found.ndim != TWO or wanted.shape != (rows, 1)):
            raise MetricError(
                name,
                f"found predictions of shape {found.shape} and targets of shape {wanted.shape}, expected targets "
                f"{(rows, *found.shape[2:])}, the class of each, for predictions with the classes on axis 1",
            )
        found = np.moveaxis(found, 1, -1).reshape(-1, columns)
    elif _without_ones(found.shape) != _without_ones(wanted.shape):
        raise MetricError(
            name,
            f"found predictions of shape {found.shape} and targets of shape {wanted.shape}, expected equal ones, or "
            "predictions with the classes on axis 1",
        )
    else:
        found = found.reshape(-1)
    each = wanted.size // rows
    return found, _whole_numbers(name, wanted.reshape(-1), each), each


def _from_one_hot(name: str, wanted: NDArray[Any]) -> NDArray[Any]:
    fits = ((wanted == 0) | (wanted == 1)).all(axis=1) & ((wanted == 1).sum(axis=1) == 1)
    if not fits.all():
        rows = np.flatnonzero(~fits.reshape(len(fits), -1).all(axis=1))
        raise MetricError(
            name,
            f"found targets of the predictions' shape {wanted.shape} that are not one-hot along axis 1, expected a single 1 "
            "among zeros. Where several labels may hold at once, or axis 1 is time, judge each alone or flatten both",
            rows,
        )
    classes: NDArray[Any] = wanted.argmax(axis=1)
    return classes


def _whole_numbers(name: str, wanted: NDArray[Any], each: int) -> Ints:
    if wanted.dtype.kind == "f":
        wrong = np.flatnonzero((wanted != np.floor(wanted)) | np.isinf(wanted))
        if len(wrong):
            raise MetricError(
                name,
                f"found the target {wanted[wrong[0]]:g}, expected classes, whole numbers from 0 on",
                wrong // each,
            )
    return wanted.astype(np.int64)


def within(name: str, what: str, labels: Ints, classes: int, each: int) -> None:
    """Refuse labels outside the classes, naming the rows.

    Raises:
        MetricError: There are some.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        found = int(labels[wrong[0]])
        raise MetricError(
            name, f"found {what} {found}, outside the classes 0 to {classes - 1}", np.unique(wrong // each)
        )
