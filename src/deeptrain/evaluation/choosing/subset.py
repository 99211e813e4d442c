"""`best_subset`: the validation batches on which a model does best, and how it does on the rest.

Exact where the metric is a mean, or where there are few subsets; else by greedy growth and exchanges.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from deeptrain.data.checks import at_least, known
from deeptrain.evaluation.choosing.candidates import ByRows, ByTallies, Candidates, Means
from deeptrain.evaluation.choosing.scoring import Scoring, rows_of
from deeptrain.evaluation.metrics.reading import MetricError, array_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from deeptrain.evaluation.choosing.scoring import Threshold
    from deeptrain.evaluation.metrics.named import Metric, Mode
    from deeptrain.evaluation.metrics.own_metric import OwnMetric
    from deeptrain.evaluation.metrics.reading import Form

WHO = "best_subset"
FEW = 1000  # subsets that are all tried: every one of up to 12 batches
EQUAL = 1e-12  # differences below this share are rounding


@dataclass(frozen=True)
class Subset:
    """What `best_subset` found.

    Attributes:
        batches: The names of the chosen batches, in order.
        score: The metric over them. Optimistic: they were chosen for it.
        rest: The metric over the other batches, at the same threshold; None where there are none.
        whole: The metric over all batches; where a threshold is searched, at the best one for all.
        threshold: The threshold that was found on the chosen batches; the given one, or None.
        metric: The metric's name.
        method: "exact" (no subset of this size does better), "every subset" (all were tried, likewise), or "greedy".
    """

    batches: tuple[Any, ...]
    score: float
    rest: float | None
    whole: float
    threshold: float | None
    metric: str
    method: Literal["exact", "every subset", "greedy"]

    def __str__(self) -> str:
        rest = "" if self.rest is None else f", {self.rest:.6g} on the rest"
        at = "" if self.threshold is None else f" at threshold {self.threshold:.6g}"
        return (
            f"{self.metric} {self.score:.6g} (optimistic: chosen on the same rows){at}{rest}, {self.whole:.6g} on all; "
            f"batches {', '.join(map(str, self.batches))} ({self.method})"
        )


def best_subset(
    scores: Any,
    targets: Any,
    batches: Any,
    metric: str | Metric | OwnMetric | Callable[..., Any],
    size: int,
    *,
    mode: Mode | None = None,
    form: Form | None = None,
    sample_weight: Any = None,
    threshold: Threshold = None,
    mean: Literal["rows", "batches"] | None = None,
    rounds: int = 10,
) -> Subset:
    """Find the `size` batches over which a metric is best.

    A mean over rows, as accuracy and the losses are, is maximised exactly, also where batches differ in size; so is a mean over
    batches (`mean="batches"`). For other metrics every subset is tried where there are at most 1000 of them, as there are of up
    to 12 batches; else batches are added one by one, each the best next, and then exchanged while that improves. This is never
    worse than adding alone.

    Args:
        scores: The predictions, `(n, ...)`, as the metric takes them.
        targets: The targets, `(n, ...)`.
        batches: The batch that each row is of, `(n,)`: numbers, or names.
        metric: A name, or a function of `(predictions, targets[, sample_weight, threshold])`.
        size: How many batches to choose.
        mode: Whether "max" or "min" is the best; for functions.
        form: What fractions are: "probabilities", "logits" or "scores"; for names.
        sample_weight: A weight for each row, `(n,)`.
        threshold: A threshold for all; or a function that finds the best one for each subset that is tried, `(scores, targets)` to
            `(threshold, score)`, with `sample_weight=` where there are weights. Logits are given to it as probabilities.
        mean: What the metric is to be a mean of: "batches" (of each batch's own figure) or "rows", for functions that are such a
            mean. By default "rows" for those named metrics that are, and otherwise none.
        rounds: How often, at most, all chosen batches are tried for an exchange.

    Returns:
        The batches' names, the score over them, which is optimistic, and that over the rest, which is not.

    Raises:
        ValueError: There are fewer batches than `size`, rows do not match, a batch has no row that counts, or `mean` goes with a
            threshold that is searched.
        MetricError: The metric is NaN for every subset that was tried, or cannot be computed.

    Example:
        >>> found = best_subset([0.9, 0.2, 0.4, 0.8], [1, 1, 1, 1], ["a", "a", "b", "c"], "accuracy", size=2)
        >>> found.batches, found.score, found.rest
        (('a', 'c'), 0.6666666666666666, 0.0)
    """
    scoring = Scoring.of(WHO, metric, mode, form, threshold)
    if mean is not None and known("mean", mean, ["rows", "batches"]) and scoring.searches:
        raise ValueError(
            f"{WHO}: mean={mean!r} with a threshold that is searched over several batches: leave one out"
        )
    names, groups, rows, scoring = _read(scoring, scores, targets, batches, sample_weight)
    if at_least(1, f"{WHO}: size", size) > len(names):
        raise ValueError(f"{WHO}: found size={size}, expected at most {len(names)}, the number of batches")
    candidates = _candidates(scoring, groups, rows, mean)
    chosen, method = _search(candidates, size, at_least(0, f"{WHO}: rounds", rounds))
    return _told(scoring.metric.name, candidates, names, chosen, method)


Rows = tuple["NDArray[Any]", "NDArray[Any]", "NDArray[Any] | None"]


def _read(
    scoring: Scoring, scores: Any, targets: Any, batches: Any, sample_weight: Any
) -> tuple[NDArray[Any], list[NDArray[np.int64]], Rows, Scoring]:
    """Check what is given, and find the rows of each batch."""
    wanted = array_of(targets)
    found, scoring = scoring.read(rows_of(WHO, "scores", scores, len(wanted)))
    weights = None if sample_weight is None else rows_of(WHO, "sample_weight", sample_weight, len(wanted))
    of_rows = rows_of(WHO, "batches", batches, len(wanted)).reshape(-1)
    if len(of_rows) != len(wanted) or not len(wanted):
        raise ValueError(
            f"{WHO}: found {len(of_rows)} names of batches for {len(wanted)} rows, expected one a row"
        )
    names, numbers = np.unique(of_rows, return_inverse=True)
    order = np.argsort(numbers, kind="stable")
    groups = np.split(order, np.cumsum(np.bincount(numbers))[:-1])
    if weights is not None:
        empty = [names[i] for i, rows in enumerate(groups) if not weights[rows].any()]
        if empty:
            raise ValueError(f"{WHO}: all rows of the batch {empty[0]} have weight 0: leave it out")
    return names, groups, (found, wanted, weights), scoring


def _candidates(
    scoring: Scoring, groups: list[NDArray[np.int64]], rows: Rows, mean: Literal["rows", "batches"] | None
) -> Candidates:
    by_rows = ByRows(scoring, groups, *rows)
    if mean is not None:
        return Means.of(by_rows, by_batches=mean == "batches")
    if not scoring.metric.adds_up or scoring.searches:
        return by_rows
    by_tallies = ByTallies.of(by_rows)
    return (
        Means(scoring, by_tallies.tallies[:, 0], by_tallies.tallies[:, 1])
        if scoring.metric.mean
        else by_tallies
    )


def _search(
    candidates: Candidates, size: int, rounds: int
) -> tuple[list[int], Literal["exact", "every subset", "greedy"]]:
    if isinstance(candidates, Means):
        return best_of_means(candidates, size), "exact"
    if comb(candidates.count, size) <= FEW:
        return _of_all(candidates, size), "every subset"
    return exchanged(candidates, grown(candidates, size), rounds), "greedy"


def best_of_means(means: Means, size: int) -> list[int]:
    """The batches with the largest quotient of sums, exactly.

    A subset's quotient exceeds q just where its sum of (part - q * weight) is above 0, and that sum is largest for the `size`
    largest terms; so q is raised to the quotient of these until they stay the same (Dinkelbach's method).
    """
    parts, weights = means.oriented_parts(), means.weights
    if np.isposinf(parts).any() or np.isfinite(parts).sum() < size:
        return sorted(np.argsort(-parts, kind="stable")[:size].tolist())  # there is nothing to weigh up
    usable = np.flatnonzero(np.isfinite(parts))
    parts, weights = parts[usable], weights[usable]
    best, quotient = np.arange(size), -np.inf
    at = parts.sum() / weights.sum()
    while True:
        chosen = np.argsort(-(parts - at * weights), kind="stable")[:size]
        at = parts[chosen].sum() / weights[chosen].sum()
        if not at > quotient:
            return sorted(usable[best].tolist())
        best, quotient = chosen, at


def _of_all(candidates: Candidates, size: int) -> list[int]:
    """The best of all subsets; of equal ones the first."""
    best, most = list(range(size)), -np.inf
    for start in combinations(range(candidates.count), size - 1):
        more = np.arange(start[-1] + 1 if start else 0, candidates.count)
        if len(more):
            found = candidates.extended(list(start), more)
            if _better(found.max(), most):
                best, most = [*start, int(more[found.argmax()])], found.max()
    return best


def grown(candidates: Candidates, size: int) -> list[int]:
    """Plain greedy growth: each batch the best next; of equal ones the first."""
    chosen: list[int] = []
    while len(chosen) < size:
        more = _others(candidates, chosen)
        chosen.append(int(more[candidates.extended(chosen, more).argmax()]))
    return chosen


def exchanged(candidates: Candidates, chosen: list[int], rounds: int) -> list[int]:
    """Exchange each chosen batch for the best other one while that improves, for so many rounds."""
    chosen = sorted(chosen)
    if len(chosen) == candidates.count:
        return chosen
    most = candidates.extended(chosen[:-1], np.array(chosen[-1:]))[0]
    for _ in range(rounds):
        before = most
        for out in list(chosen):
            kept = [each for each in chosen if each != out]
            more = _others(candidates, chosen)
            found = candidates.extended(kept, more)
            if _better(found.max(), most):
                chosen, most = sorted([*kept, int(more[found.argmax()])]), found.max()
        if most == before:
            break
    return chosen


def _better(found: float, most: float) -> bool:
    if not np.isfinite(most):
        return bool(found > most)
    return bool(found > most + EQUAL * max(1.0, abs(most)))


def _others(candidates: Candidates, chosen: list[int]) -> NDArray[np.int64]:
    return np.delete(np.arange(candidates.count), chosen)


def _told(
    metric: str,
    candidates: Candidates,
    names: NDArray[Any],
    chosen: list[int],
    method: Literal["exact", "every subset", "greedy"],
) -> Subset:
    score, threshold = candidates.figure(chosen)
    if np.isnan(score):
        raise MetricError(
            metric,
            f"is NaN for every subset of {len(chosen)} batches that was tried: give a larger size",
        )
    others = _others(candidates, chosen).tolist()
    rest = candidates.figure(others, threshold)[0] if others else None
    whole = candidates.figure(list(range(candidates.count)))[0]
    return Subset(tuple(names[chosen].tolist()), score, rest, whole, threshold, metric, method)
