"""`Cuts`: every way in which a threshold can part scored rows in two, with what each gets right and wrong.

Rows with one score stay together, so that m distinct scores have m + 1 cuts. Cut k calls the k lowest distinct scores negative: it is
made by every threshold above `edges[k - 1]` and up to `edges[k]`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deeptrain.evaluation.thresholds.confusion import Counts
from deeptrain.evaluation.thresholds.sorting import ascending, sorted_with_order

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deeptrain.evaluation.arrays import Inputs, Precision


class Rows(NamedTuple):
    """Rows in ascending order of their scores; see `Inputs`."""

    scores: NDArray[Any]
    positive: NDArray[np.bool_]
    weights: NDArray[np.float64] | None


def sort_rows(inputs: Inputs) -> Rows:
    """Sort rows by their scores.

    Rows without weights are told apart by nothing but their class. So the classes are sorted each for itself, without the
    permutation, and merged: in half of the time of an argsort.
    """
    scores, positive, weights, _ = inputs
    if weights is not None:
        found, order = sorted_with_order(scores)
        return Rows(found, positive[order], weights[order])
    negatives = ascending(scores[~positive])
    both = np.concatenate([negatives, ascending(scores[positive])])
    order = np.argsort(both, kind="stable")  # of two sorted runs, which it merges
    return Rows(both[order], order >= len(negatives), None)


class Cuts:
    """All cuts of some rows.

    Args:
        edges: The distinct scores in ascending order, shape (m,).
        fn: The weight of the positive rows below each cut, float64, shape (m + 1,), from 0 up.
        tn: That of the negative rows.
        precision: The type of the scores.
    """

    def __init__(
        self, edges: NDArray[Any], fn: NDArray[np.float64], tn: NDArray[np.float64], precision: Precision
    ) -> None:
        self.edges, self.fn, self.tn, self.precision = edges, fn, tn, precision

    def counts(self, cuts: slice | NDArray[np.int64] | int) -> Counts:
        """The confusion counts of some of the cuts."""
        fn, tn = self.fn[cuts], self.tn[cuts]
        return Counts(self.fn[-1] - fn, self.tn[-1] - tn, tn, fn)

    def index(self, threshold: float) -> int:
        """The cut that a threshold makes."""
        return int(np.searchsorted(self.edges, np.asarray(threshold, dtype=self.edges.dtype)))

    def finite_range(self) -> tuple[float, float]:
        """The lowest and the highest score that is finite; 0 and 1 where there is none."""
        # The edges are sorted and distinct, so that only the first and the last can be infinite.
        first, last = np.isfinite(self.edges[0]), np.isfinite(self.edges[-1])
        finite = self.edges[int(not first) : len(self.edges) - int(not last)]
        return (float(finite[0]), float(finite[-1])) if len(finite) else (0.0, 1.0)


def cuts_of(rows: Rows, precision: Precision) -> Cuts:
    """Give all cuts of sorted rows."""
    changes = rows.scores[1:] != rows.scores[:-1]
    fn, tn = _sums_below(rows)
    if changes.all():
        return Cuts(rows.scores, fn, tn, precision)
    starts = np.concatenate([[0], np.nonzero(changes)[0] + 1])
    at = np.append(starts, len(rows.scores))
    return Cuts(rows.scores[starts], fn[at], tn[at], precision)


def _sums_below(rows: Rows) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The weight of the positive and of the negative rows before each row, and of all rows."""
    fn, tn = np.zeros(len(rows.scores) + 1), np.zeros(len(rows.scores) + 1)
    if rows.weights is None:
        np.cumsum(rows.positive, out=fn[1:], dtype=np.float64)
        np.subtract(np.arange(len(fn), dtype=np.float64), fn, out=tn)
    else:
        np.cumsum(np.where(rows.positive, rows.weights, 0), out=fn[1:])
        np.cumsum(np.where(rows.positive, 0, rows.weights), out=tn[1:])
    return fn, tn
