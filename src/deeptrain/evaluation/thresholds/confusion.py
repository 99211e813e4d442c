"""Metrics of confusion counts: functions of arrays of true and false positives and negatives, each entry one threshold.

Counts are sums of weights where rows have weights. A ratio of 0 by 0 counts as 0, also the rate of a class that has no row.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from deeptrain.evaluation.metrics.names import ALIASES

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Values = NDArray[np.float64]


class Counts(NamedTuple):
    """Of positive and negative rows, how many are called positive and negative: float64 arrays of one shape."""

    tp: Values
    fp: Values
    tn: Values
    fn: Values


@dataclass(frozen=True)
class CountMetric:
    """A metric of confusion counts.

    Args:
        name: How it is called in messages and in a state.
        function: Of `(tp, fp, tn, fn)`, float64 arrays of one shape, to an array of that shape, entry by entry. What is not finite is
            never the best.
        mode: Whether large ("max") or small ("min") values are good.
        calibrated: The best threshold where scores are calibrated probabilities, if it is known.
        unbound: Where `function` refuses thresholds by giving NaN, as for too low a recall: what scores a threshold that was chosen, on
            other rows too.

    Example:
        >>> float(f_beta(1)(2.0, 1.0, 5.0, 1.0))
        0.6666666666666666
    """

    name: str
    function: Callable[[Values, Values, Values, Values], Any]
    mode: Literal["max", "min"] = "max"
    calibrated: float | None = None
    unbound: Callable[[Values, Values, Values, Values], Any] | None = None

    def __call__(self, tp: Any, fp: Any, tn: Any, fn: Any) -> Values:
        """Give its value for each entry of the counts."""
        arrays = [np.asarray(count, dtype=np.float64) for count in (tp, fp, tn, fn)]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.asarray(self.function(*arrays), dtype=np.float64)

    def of(self, counts: Counts | tuple[float, float, float, float]) -> float:
        """Give what a threshold that was chosen comes to, from its counts."""
        scored = CountMetric(self.name, self.unbound or self.function)
        return float(scored(*(np.atleast_1d(count) for count in counts))[0])


def _ratio(part: Values, whole: Values) -> Values:
    return np.where(whole == 0, 0.0, part / whole)


def _tpr(tp: Values, fp: Values, tn: Values, fn: Values) -> Values:
    del fp, tn
    return _ratio(tp, tp + fn)


def _tnr(tp: Values, fp: Values, tn: Values, fn: Values) -> Values:
    del tp, fn
    return _ratio(tn, tn + fp)


def _precision(tp: Values, fp: Values, tn: Values, fn: Values) -> Values:
    del tn, fn
    return _ratio(tp, tp + fp)


def _accuracy(tp: Values, fp: Values, tn: Values, fn: Values) -> Values:
    return _ratio(tp + tn, tp + tn + fp + fn)


def _balanced_accuracy(tp: Values, fp: Values, tn: Values, fn: Values) -> Values:
    """The mean over those of the two classes that have rows, as scikit-learn has it."""
    classes = np.sign(tp + fn) + np.sign(tn + fp)
    return _ratio(_tpr(tp, fp, tn, fn) + _tnr(tp, fp, tn, fn), classes)


def _informedness(*counts: Values) -> Values:
    return _tpr(*counts) + _tnr(*counts) - 1


def _tpr_tnr(*counts: Values) -> Values:
    return _tpr(*counts) * _tnr(*counts)


def _matthews(tp: Values, fp: Values, tn: Values, fn: Values) -> Values:
    # Two roots, as the product of four large counts could be too large.
    whole = np.sqrt((tp + fp) * (tp + fn)) * np.sqrt((tn + fp) * (tn + fn))
    return _ratio(tp * tn - fp * fn, whole)


def f_beta(beta: float) -> CountMetric:
    """Give the F-beta score: recall counts `beta` times as much as precision.

    Raises:
        ValueError: `beta` is not above 0.
    """
    if not 0 < beta < np.inf:
        raise ValueError(f"f_beta({beta!r}): expected a finite number above 0; 1 gives the F1 score")
    square = float(beta) ** 2

    def f(tp: Values, fp: Values, tn: Values, fn: Values) -> Values:
        del tn
        return _ratio((1 + square) * tp, (1 + square) * tp + square * fn + fp)

    return CountMetric(f"f{beta:g}", f)


def precision_at_recall(recall: float) -> CountMetric:
    """Give the precision, where the recall is at least so high; a threshold with less is never the best.

    Args:
        recall: The least share of the positive rows that are to be found, 0 to 1.

    Raises:
        ValueError: `recall` is outside 0 to 1.
    """
    if not 0 <= recall <= 1:
        raise ValueError(f"precision_at_recall({recall!r}): expected a share of 0 to 1")

    def precision(tp: Values, fp: Values, tn: Values, fn: Values) -> Values:
        # With some room for weights, whose sums are rounded.
        enough = tp >= recall * (tp + fn) * (1 - 1e-12)
        return np.where(enough & (tp + fn > 0), _precision(tp, fp, tn, fn), np.nan)

    return CountMetric(f"precision_at_recall_{recall:g}", precision, unbound=_precision)


def expected_cost(c_fp: float, c_fn: float) -> CountMetric:
    """Give the mean cost of a row, to be as small as possible.

    Args:
        c_fp: What a false positive costs.
        c_fn: What a false negative costs.

    Returns:
        A metric that also knows the best threshold for calibrated probabilities, `c_fp / (c_fp + c_fn)`.

    Raises:
        ValueError: A cost is negative or not finite, or both are 0.
    """
    if not (0 <= c_fp < np.inf and 0 <= c_fn < np.inf and c_fp + c_fn > 0):
        raise ValueError(
            f"expected_cost({c_fp!r}, {c_fn!r}): expected two finite costs of 0 or more, not both 0"
        )

    def cost(tp: Values, fp: Values, tn: Values, fn: Values) -> Values:
        return _ratio(c_fp * fp + c_fn * fn, tp + fp + tn + fn)

    return CountMetric(f"expected_cost_fp_{c_fp:g}_fn_{c_fn:g}", cost, "min", c_fp / (c_fp + c_fn))


COUNT_METRICS = {
    "accuracy": CountMetric("accuracy", _accuracy),
    "balanced_accuracy": CountMetric("balanced_accuracy", _balanced_accuracy),
    "f0.5": f_beta(0.5),
    "f1": f_beta(1),
    "f2": f_beta(2),
    "informedness": CountMetric("informedness", _informedness),
    "matthews": CountMetric("matthews", _matthews),
    "precision": CountMetric("precision", _precision),
    "tnr": CountMetric("tnr", _tnr),
    "tpr": CountMetric("tpr", _tpr),
    "tpr_tnr": CountMetric("tpr_tnr", _tpr_tnr),
}


# What the catalogue of metrics calls otherwise.
_CATALOGUE = {"mcc": "matthews", "tpr*tnr": "tpr_tnr", "recall": "tpr", "specificity": "tnr"}


def count_metric(name: str) -> CountMetric:
    """Find a metric of confusion counts by its name, or by any that `resolve_metric` knows it by.

    Raises:
        ValueError: There is none; the message lists near ones.
    """
    if name not in COUNT_METRICS:
        known = ALIASES.get(name.strip().lower().replace("-", "_").replace(" ", "_"), name)
        name = _CATALOGUE.get(known, known)
    if name not in COUNT_METRICS:
        near = difflib.get_close_matches(name, COUNT_METRICS) or sorted(COUNT_METRICS)
        raise ValueError(
            f"metric={name!r} is none of the metrics of confusion counts: did you mean {' or '.join(map(repr, near))}? There are also "
            "f_beta(...), precision_at_recall(...), expected_cost(...), and functions of (tp, fp, tn, fn)"
        )
    return COUNT_METRICS[name]
