"""Scores, targets and weights as checked NumPy arrays, whatever they came as; and the numbers that a score's type has."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_EXACT = 2**53  # up to here float64 holds every whole number
_NAMED = 5  # rows or labels named in a message


class EvaluationError(ValueError):
    """What was given to be evaluated cannot be: the message says what, what was found, what was expected, and what to do.

    Attributes:
        rows: The rows that are at fault, where it is some of them.
    """

    rows: Sequence[int] = ()


class Inputs(NamedTuple):
    """Rows to be judged.

    Attributes:
        scores: Floats, shape (rows,).
        positive: Whether each row belongs to the positive class, bool, shape (rows,).
        weights: float64 of shape (rows,), or None where all rows weigh the same.
        precision: The type that the scores had.
    """

    scores: NDArray[Any]
    positive: NDArray[np.bool_]
    weights: NDArray[np.float64] | None
    precision: Precision


class Precision:
    """The numbers that a floating type holds, so that a threshold cuts the same rows in this type and in float64.

    Args:
        dtype: A floating torch type.

    Example:
        >>> Precision(torch.float32).nearest(0.1)
        0.10000000149011612
    """

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def nearest(self, value: float) -> float:
        """The type's number that is nearest."""
        return float(torch.tensor(value, dtype=torch.float64).to(self.dtype).item())

    def after(self, value: float) -> float:
        """The smallest number above one of the type's own."""
        here = torch.tensor(value, dtype=torch.float64).to(self.dtype)
        return float(torch.nextafter(here, torch.tensor(math.inf, dtype=self.dtype)).item())

    def at_least(self, value: float) -> float:
        """The smallest of the type's numbers that is not below."""
        near = self.nearest(value)
        return near if near >= value else self.after(near)

    def at_most(self, value: float) -> float:
        """The largest of the type's numbers that is not above."""
        return -self.at_least(-value)


def as_array(values: Any) -> NDArray[Any]:
    """A NumPy array of what was given; a tensor comes off its device, without its gradient."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return values.float().numpy() if values.dtype is torch.bfloat16 else values.numpy()  # type: ignore[no-any-return]
    return np.asarray(values)


def as_given(array: NDArray[Any], given: Any) -> Any:
    """An array as a tensor where the values that it was made of were one."""
    return torch.from_numpy(array).to(given.device) if isinstance(given, torch.Tensor) else array


def as_floats(values: Any, name: str) -> tuple[NDArray[Any], Precision]:
    """Scores as floats, of any shape, and the type that they had; whole numbers become float64.

    Raises:
        EvaluationError: They are not real numbers, one is NaN, or there are none.
    """
    array = as_array(values)
    if array.size == 0:
        raise EvaluationError(
            f"{name}: found none (shape {array.shape}), expected at least one row: is the pass empty?"
        )
    if array.dtype.kind in "iub":
        if (
            array.dtype.itemsize == np.dtype(np.int64).itemsize
            and np.abs(array.astype(np.float64)).max() > _EXACT
        ):
            raise EvaluationError(f"{name}: whole numbers beyond 2**53 have no exact float64: give floats")
        array = array.astype(np.float64)
    if array.dtype.kind != "f" or array.dtype.itemsize > np.dtype(np.float64).itemsize:
        raise EvaluationError(
            f"{name}: found values of type {array.dtype}, expected real numbers of up to 64 bits"
        )
    if math.isnan(array.min()):  # the minimum of anything with NaN in it is NaN, and costs no array
        refuse_rows(
            np.isnan(array),
            name,
            "NaN",
            "a number in every row: look for where the model's output stops being finite",
        )
    given = values.dtype if isinstance(values, torch.Tensor) and values.is_floating_point() else None
    return array, Precision(given or torch.from_numpy(np.empty(0, array.dtype)).dtype)


def refuse_rows(wrong: NDArray[np.bool_], name: str, found: str, expected: str) -> None:
    """Raise an `EvaluationError` that names the first rows that are wrong, if any is."""
    rows = np.unique(np.nonzero(wrong)[0])
    if len(rows):
        more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
        error = EvaluationError(
            f"{name}: found {found} in row {', '.join(map(str, rows[:_NAMED]))}{more}, expected {expected}"
        )
        error.rows = rows.tolist()
        raise error


def as_column(array: NDArray[Any], name: str) -> NDArray[Any]:
    """One value for each row, shape (rows,); a trailing axis of one is taken off.

    Raises:
        EvaluationError: There are several.
    """
    if array.ndim > 1 and array.shape[1:] == (1,) * (array.ndim - 1):
        array = array.reshape(-1)
    if array.ndim != 1:
        raise EvaluationError(
            f"{name}: found shape {array.shape}, expected (rows,): for a column for each label or class there is best_thresholds(...)"
        )
    return array


def as_classes(targets: Any, name: str = "targets") -> NDArray[np.bool_]:
    """Whether each row is of the positive class: of labels 0 and 1, -1 and 1, or False and True.

    Raises:
        EvaluationError: There are other labels.
    """
    array = as_array(targets)
    if array.dtype == np.bool_:
        return array
    if array.dtype.kind not in "iuf":
        raise EvaluationError(
            f"{name}: found labels of type {array.dtype}, expected 0 and 1: give `targets == the_positive_class`"
        )
    positive, zero = array == 1, array == 0
    if not (positive | zero).all() and not (positive | (array == -1)).all():
        labels = np.unique(array)
        listed = ", ".join(f"{label:g}" for label in labels[:_NAMED]) + (
            ", ..." if len(labels) > _NAMED else ""
        )
        raise EvaluationError(
            f"{name}: found the labels {listed}, expected two classes, 0 and 1 (or -1 and 1): give `targets == the_positive_class`, "
            "or a column of scores for each class to best_thresholds(...)"
        )
    return np.asarray(positive)


def as_weights(sample_weight: Any, rows: int) -> NDArray[np.float64] | None:
    """A weight for each row as float64; None stays None.

    Raises:
        EvaluationError: Their number is not that of the rows, one is negative or not finite, or all are 0.
    """
    if sample_weight is None:
        return None
    weights = as_column(as_array(sample_weight), "sample_weight").astype(np.float64)
    refuse_lengths(len(weights), rows, "sample_weight")
    refuse_rows(
        ~(np.isfinite(weights) & (weights >= 0)),
        "sample_weight",
        "a negative or infinite weight or NaN",
        "0 or more",
    )
    if not weights.any():
        raise EvaluationError(
            "sample_weight: found 0 for every row, expected one above 0 at least: leave out no row, or not all"
        )
    return weights


def refuse_lengths(found: int, rows: int, name: str) -> None:
    """Raise an `EvaluationError` where something has not as many rows as there are scores."""
    if found != rows:
        raise EvaluationError(
            f"{name}: found {found} rows, expected {rows}, as many as there are scores: give one for each row"
        )


def binary_inputs(scores: Any, targets: Any, sample_weight: Any = None) -> Inputs:
    """Check what is to be judged. See `best_threshold` for what is taken.

    Raises:
        EvaluationError: Something is not as it should be.
    """
    array, precision = as_floats(scores, "scores")
    column = as_column(array, "scores")
    positive = as_column(as_classes(targets), "targets")
    refuse_lengths(len(positive), len(column), "targets")
    return Inputs(column, positive, as_weights(sample_weight, len(column)), precision)
