"""`best_threshold`: the threshold that makes the most of some scores, exactly, with what is known of how good it is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from deeptrain.evaluation.arrays import (
    EvaluationError,
    as_array,
    as_classes,
    as_floats,
    binary_inputs,
    refuse_lengths,
    refuse_rows,
)
from deeptrain.evaluation.thresholds.chosen import Interval, Threshold, Thresholds
from deeptrain.evaluation.thresholds.judged import judged
from deeptrain.evaluation.thresholds.search import Search

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from deeptrain.evaluation.thresholds.confusion import CountMetric
    from deeptrain.evaluation.thresholds.judged import Judged
    from deeptrain.evaluation.thresholds.search import Found

    Metric = str | CountMetric | Callable[..., Any]


def best_threshold(
    scores: Any,
    targets: Any,
    metric: Metric = "f1",
    sample_weight: Any = None,
    *,
    bounds: tuple[float, float] | None = None,
    preferred: float = 0.5,
    bootstrap: int = 200,
    folds: int = 5,
    level: float = 0.95,
    mode: Literal["max", "min"] | None = None,
    grid: int = 100,
    seed: int = 0,
) -> Threshold:
    """Find the threshold with the best metric: exactly, over all distinct scores and both ends, in O(n log n).

    The threshold is the middle of its plateau. Of several plateaus the widest is taken, then the one nearest to `preferred`. A plateau that
    reaches to infinity ends at 0 or 1 where all scores lie within them, else at the outermost finite score, or right beyond it where only
    what is beyond is as good. Scores that differ by less than 1e-12 of the largest are equally good. The score was searched for on the same
    rows and is optimistic; `cross_fitted` stands beside it. No random stream is touched.

    Args:
        scores: Probabilities, logits or any other numbers, the larger the more positive; an array or tensor of shape (rows,) or (rows, 1).
            Infinite ones are taken.
        targets: The rows' classes, 0 and 1 (or -1 and 1, or booleans), likewise. All may be of one class.
        metric: The name of a metric of confusion counts ("accuracy", "f1", "f2", "balanced_accuracy", "informedness", "matthews", "tpr_tnr", "precision",
            "tpr", "tnr"); `f_beta(beta)`, `precision_at_recall(recall)`, `expected_cost(c_fp, c_fn)`; one's own function of (tp, fp, tn, fn), float64 arrays
            with an entry for each threshold, entry by entry; or a function of (predictions, targets), both 0 or 1 in the rows' order, which is
            tried at `grid` thresholds. With weights it is given `sample_weight` too.
        sample_weight: What each row counts, 0 or more, shape (rows,).
        bounds: The lowest and the highest threshold that is allowed, both included.
        preferred: See above.
        bootstrap: How often rows are drawn again for `interval`; 0 for none.
        folds: In how many parts the rows are dealt for `cross_fitted`; 0 for none.
        level: The share of the bootstrap that `interval` holds.
        mode: Of one's own function, whether its "max" (so by default) or its "min" is the best.
        grid: For a function of predictions: at how many cuts it is tried, at equal shares of the distinct scores; all, where there are no more.
            Bootstrap and cross-fitting try each of them again.
        seed: For bootstrap and folds.

    Returns:
        The threshold, with what is known of it.

    Raises:
        EvaluationError: There are no rows, their numbers differ, a score is NaN, there are other classes, a weight is negative, the metric raised
            or is nowhere finite (as where no recall is high enough), or no threshold is within the bounds.
        TypeError, ValueError: A setting is none that can be taken.

    Example:
        >>> found = best_threshold([0.1, 0.4, 0.6, 0.9], [0, 0, 1, 1], bootstrap=0)
        >>> found.threshold, found.score, found.plateau
        (0.5, 1.0, (0.4000000000000001, 0.6))
    """
    _check_settings(bounds, preferred, bootstrap, folds, level)
    inputs = binary_inputs(scores, targets, sample_weight)
    search = Search(bounds or (-math.inf, math.inf), preferred)
    rows = judged(inputs, (scores, targets), metric, mode, search=search, grid=grid)
    found = rows.find()
    if found is None:
        raise EvaluationError(_nothing(rows, bounds))
    return _told(
        rows,
        found,
        inputs.scores,
        bootstrap=bootstrap,
        folds=min(folds, len(inputs.scores)),
        level=level,
        seed=seed,
    )


def _check_settings(bounds: Any, preferred: float, bootstrap: int, folds: int, level: float) -> None:
    if bounds is not None and not (len(bounds) == 2 and bounds[0] <= bounds[1]):  # noqa: PLR2004 - two bounds
        raise ValueError(f"bounds={bounds!r}: expected (lowest, highest)")
    if not math.isfinite(preferred):
        raise ValueError(f"preferred={preferred!r}: expected a finite number")
    if bootstrap < 0 or folds < 0 or folds == 1:
        raise ValueError(
            f"bootstrap={bootstrap!r}, folds={folds!r}: expected 0 or more, and not one fold alone"
        )
    if not 0 < level < 1:
        raise ValueError(f"level={level!r}: expected a share between 0 and 1, as 0.95")


def _nothing(rows: Judged, bounds: Any) -> str:
    within = "" if bounds is None else f" within the bounds {tuple(bounds)}"
    return (
        f"the metric {rows.name} has no finite value at any threshold{within}: look whether there are positive rows, whether what it demands "
        "can be had, and whether the bounds leave a threshold"
    )


def _told(
    rows: Judged, found: Found, scores: NDArray[Any], *, bootstrap: int, folds: int, level: float, seed: int
) -> Threshold:
    """Put together what is known of the threshold that was found."""
    drawn, dealt = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    is_probability = rows.calibrated is not None and scores.min() >= 0 and scores.max() <= 1
    calibrated = rows.calibrated if is_probability else None
    counts = rows.counts(found.threshold)
    return Threshold(
        threshold=found.threshold,
        score=found.score if rows.mode == "max" else 0.0 - found.score,
        plateau=found.plateau,
        metric=rows.name,
        mode=rows.mode,
        rows=len(scores),
        cross_fitted=rows.cross_fitted(found.threshold, folds, dealt) if folds > 1 else None,
        folds=folds if folds > 1 else 0,
        interval=_interval(rows, found.threshold, bootstrap, level, drawn) if bootstrap else None,
        counts=None
        if counts is None
        else (float(counts.tp), float(counts.fp), float(counts.tn), float(counts.fn)),
        calibrated=calibrated,
        calibrated_score=None if calibrated is None else rows.at(calibrated),
    )


def _interval(
    rows: Judged, threshold: float, number: int, level: float, random: np.random.Generator
) -> Interval | None:
    """The middle share of the bootstrap; None where no rows drawn again had a best threshold."""
    drawn = np.array(list(rows.replicates(threshold, number, random)))
    ends = []
    for column in drawn.T:
        known = column[~np.isnan(column)]
        if not len(known):
            return None
        low = np.quantile(known, (1 - level) / 2, method="lower")
        ends.append((float(low), float(np.quantile(known, (1 + level) / 2, method="higher"))))
    return Interval(ends[0], ends[1], level)


def best_thresholds(
    scores: Any, targets: Any, metric: Metric = "f1", sample_weight: Any = None, **settings: Any
) -> Thresholds:
    """Find the best threshold of each label, or of each class against all others.

    As each column has its own, the mean of the columns' metrics is the best that any thresholds give.

    Args:
        scores: Of shape (rows, columns).
        targets: For labels, 0 and 1 of shape (rows, columns); for classes, the number of each row's class, shape (rows,).
        metric: See `best_threshold`.
        sample_weight: What each row counts, shape (rows,).
        settings: The other arguments of `best_threshold`, the same for each column.

    Raises:
        EvaluationError: As `best_threshold`, with the column; or a class has no column.

    Example:
        >>> found = best_thresholds([[0.2, 0.8], [0.6, 0.3], [0.7, 0.9]], [[0, 1], [1, 0], [1, 1]], bootstrap=0)
        >>> found.score
        1.0
    """
    array, _ = as_floats(scores, "scores")
    if array.ndim != 2:  # noqa: PLR2004 - rows and columns
        raise EvaluationError(
            f"scores: found shape {array.shape}, expected (rows, columns): for one column there is best_threshold(...)"
        )
    columns = _columns(as_array(targets), array.shape)
    found = []
    for number, positive in enumerate(columns):
        try:
            found.append(
                best_threshold(
                    scores[:, number] if hasattr(scores, "shape") else array[:, number],
                    positive,
                    metric,
                    sample_weight,
                    **settings,
                )
            )
        except EvaluationError as error:
            raise EvaluationError(f"column {number}: {error}") from error
    return Thresholds(tuple(found))


def _columns(targets: NDArray[Any], shape: tuple[int, ...]) -> Sequence[NDArray[np.bool_]]:
    """Whether each row is positive, for each column of the scores."""
    refuse_lengths(len(targets) if targets.ndim else 1, shape[0], "targets")
    if targets.shape == shape:
        return list(as_classes(targets).T)
    if targets.ndim != 1:
        raise EvaluationError(
            f"targets: found shape {targets.shape}, expected {shape} for labels, or ({shape[0]},) for the numbers of classes"
        )
    known = np.isin(targets, np.arange(shape[1]))
    refuse_rows(~known, "targets", "a class without a column", f"whole numbers of 0 to {shape[1] - 1}")
    return [targets == number for number in range(shape[1])]
