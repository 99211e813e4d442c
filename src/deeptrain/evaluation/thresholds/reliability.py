"""How far probabilities are from what they say: the Brier score, the expected calibration error, and the data of a reliability diagram."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from deeptrain.evaluation.arrays import (
    as_array,
    as_column,
    as_floats,
    as_weights,
    binary_inputs,
    refuse_lengths,
    refuse_rows,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_ROOM = 1e-6  # by which probabilities of float32 may be beyond 0 and 1
_SUM_ROOM = 1e-2  # by which those of bfloat16 may sum to something else than 1


class Reliability(NamedTuple):
    """The data of a reliability diagram, over the bins that have rows.

    Attributes:
        low, high: Where each bin begins and ends, shape (bins,).
        confidence: The mean probability in it.
        frequency: The share of its rows that are positive (or whose most probable class is the right one).
        weight: How many rows it has, by their weights.
    """

    low: Floats
    high: Floats
    confidence: Floats
    frequency: Floats
    weight: Floats

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of confidence and frequency, by the bins' weights."""
        return float(np.average(np.abs(self.confidence - self.frequency), weights=self.weight))


def reliability(
    probabilities: Any,
    targets: Any,
    sample_weight: Any = None,
    *,
    bins: int = 15,
    by: Literal["width", "rows"] = "width",
) -> Reliability:
    """Hold probabilities against what came true.

    Args:
        probabilities: Of the positive class, shape (rows,); or of each class, shape (rows, classes): then the highest of each row.
        targets: The rows' classes, shape (rows,).
        sample_weight: What each row counts, shape (rows,).
        bins: How many there are at most.
        by: Whether bins are equally wide, or have equally many rows.

    Raises:
        EvaluationError: There are no rows, their numbers differ, there are other classes, or a probability is NaN or outside 0 to 1.
        ValueError: `bins` or `by` is none that can be taken.

    Example:
        >>> found = reliability([0.2, 0.2, 0.8, 0.8], [0, 1, 1, 1], bins=2)
        >>> found.frequency.tolist(), round(found.error, 6)
        ([0.5, 1.0], 0.25)
    """
    if bins < 1 or by not in {"width", "rows"}:
        raise ValueError(f'bins={bins!r}, by={by!r}: expected 1 or more bins, by "width" or by "rows"')
    confidence, came_true, weights = _events(probabilities, targets, sample_weight)
    shares = np.linspace(0, 1, bins + 1)
    edges = shares if by == "width" else np.unique(np.quantile(confidence, shares))
    within = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, max(len(edges) - 2, 0))
    weight, trust, true = (
        np.asarray(np.bincount(within, weights=weights * each, minlength=max(len(edges) - 1, 1)), np.float64)
        for each in (1.0, confidence, came_true)
    )
    kept = np.nonzero(weight)[0]
    high = edges[np.minimum(kept + 1, len(edges) - 1)]
    return Reliability(edges[kept], high, trust[kept] / weight[kept], true[kept] / weight[kept], weight[kept])


def calibration_error(
    probabilities: Any,
    targets: Any,
    sample_weight: Any = None,
    *,
    bins: int = 15,
    by: Literal["width", "rows"] = "width",
) -> float:
    """Give the expected calibration error, 0 to 1; see `reliability` for arguments and errors.

    It depends on the bins, and is above 0 for few rows even where probabilities are right.

    Example:
        >>> calibration_error([0.75, 0.75, 0.75, 0.75], [1, 1, 1, 0])
        0.0
    """
    return reliability(probabilities, targets, sample_weight, bins=bins, by=by).error


def brier_score(probabilities: Any, targets: Any, sample_weight: Any = None) -> float:
    """Give the mean squared distance of probabilities and what came true: 0 is the best.

    Args:
        probabilities: Of the positive class, shape (rows,): the score is within 0 to 1. Or of each class, shape (rows, classes): squares are
            summed over the classes, and the score is within 0 to 2.
        targets: The rows' classes, shape (rows,).
        sample_weight: What each row counts, shape (rows,).

    Raises:
        EvaluationError: See `reliability`.

    Example:
        >>> brier_score([0.5, 1.0], [1, 1])
        0.125
    """
    array = _probabilities(probabilities)
    if array.ndim == 1:
        _, positive, weights, _ = binary_inputs(array, targets, sample_weight)
        return float(np.average((array - positive) ** 2, weights=weights))
    labels, weights = _classes(array, targets), as_weights(sample_weight, len(array))
    wanted = labels[:, None] == np.arange(array.shape[1])
    return float(np.average(((array - wanted) ** 2).sum(1), weights=weights))


def _events(probabilities: Any, targets: Any, sample_weight: Any) -> tuple[Floats, Floats, Floats]:
    """Of each row a probability, whether what it is of came true, and the row's weight."""
    array = _probabilities(probabilities)
    if array.ndim == 1:
        confidence, came_true, weights, _ = binary_inputs(array, targets, sample_weight)
    else:
        labels, weights = _classes(array, targets), as_weights(sample_weight, len(array))
        confidence, came_true = array.max(1), array.argmax(1) == labels
    return confidence, came_true.astype(np.float64), np.ones(len(array)) if weights is None else weights


def _probabilities(probabilities: Any) -> Floats:
    """Probabilities as float64, shape (rows,) or (rows, classes)."""
    array = as_floats(probabilities, "probabilities")[0].astype(np.float64)
    array = array if array.ndim == 2 and array.shape[1] > 1 else as_column(array, "probabilities")  # noqa: PLR2004 - rows, classes
    outside = (array < -_ROOM) | (array > 1 + _ROOM)
    refuse_rows(
        outside,
        "probabilities",
        "a value outside 0 to 1",
        "probabilities: take the sigmoid or softmax of logits",
    )
    if array.ndim > 1:
        refuse_rows(
            np.abs(array.sum(1) - 1) > _SUM_ROOM,
            "probabilities",
            "classes that do not sum to 1",
            "the softmax of logits",
        )
    return np.clip(array, 0, 1)


def _classes(array: Floats, targets: Any) -> NDArray[np.int64]:
    labels = as_column(as_array(targets), "targets")
    refuse_lengths(len(labels), len(array), "targets")
    unknown = ~np.isin(labels, np.arange(array.shape[1]))
    refuse_rows(unknown, "targets", "a class without a column", f"whole numbers of 0 to {array.shape[1] - 1}")
    return labels.astype(np.int64)
