"""What thresholds are searched by: a metric of confusion counts over all cuts, or one of predictions over a grid of them."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

from deeptrain.evaluation.arrays import EvaluationError, Inputs, as_given
from deeptrain.evaluation.thresholds.confusion import CountMetric, Counts, count_metric
from deeptrain.evaluation.thresholds.cuts import Cuts, Rows, cuts_of, sort_rows
from deeptrain.evaluation.thresholds.resampling import cross_fitted, items_of, replicates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from deeptrain.evaluation.thresholds.search import Found, Search

_OF_COUNTS, _OF_PREDICTIONS = 4, 2


class Judged(Protocol):
    """Some rows under one metric."""

    name: str
    mode: Literal["max", "min"]
    calibrated: float | None

    def find(self) -> Found | None:
        """The best threshold; its score is the larger the better."""

    def at(self, threshold: float) -> float:
        """The metric at a threshold."""

    def counts(self, threshold: float) -> Counts | None:
        """The confusion counts at a threshold, where the metric is made of them."""

    def replicates(
        self, threshold: float, number: int, random: np.random.Generator
    ) -> Iterator[tuple[float, float]]:
        """Of rows that are drawn again: the best threshold, and the metric at the given one."""

    def cross_fitted(self, threshold: float, folds: int, random: np.random.Generator) -> float | None:
        """The metric where each row is called by a threshold that other rows chose."""


def judged(
    inputs: Inputs, given: tuple[Any, Any], metric: Any, mode: str | None, *, search: Search, grid: int
) -> Judged:
    """Put rows and a metric together. See `best_threshold` for what is taken as metric.

    Raises:
        TypeError, ValueError: The metric is none that can be taken.
    """
    if isinstance(metric, str):
        metric = count_metric(metric)
    elif getattr(metric, "needs", None) == "threshold" and hasattr(metric, "adds_up") and metric.adds_up:
        metric = count_metric(metric.name)  # a named one, resolved
    if mode not in {None, "max", "min"} or (
        isinstance(metric, CountMetric) and mode not in {None, metric.mode}
    ):
        expected = (
            f"{metric.mode!r}, or leave it out" if isinstance(metric, CountMetric) else '"max" or "min"'
        )
        raise ValueError(
            f"mode={mode!r}: expected {expected}: it says whether large or small values of the metric are good"
        )
    if isinstance(metric, CountMetric):
        return _OfCounts(inputs, metric, search)
    direction: Literal["max", "min"] = "min" if mode == "min" else "max"
    wanted = _positional(metric)
    if wanted == _OF_COUNTS:
        return _OfCounts(inputs, CountMetric(_name(metric), metric, direction), search)
    if wanted == _OF_PREDICTIONS:
        return _OfPredictions(inputs, given, _Opaque(metric, direction, max(2, grid)), search)
    raise TypeError(
        f"metric={metric!r}: expected a name, a CountMetric, a function of (tp, fp, tn, fn), or a function of "
        "(predictions, targets) with or without sample_weight"
    )


def _positional(function: Any) -> int:
    """How many arguments a function has to be given; of one that cannot be looked at, 0."""
    if not callable(function):
        return 0
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return 0
    kinds = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    asked = [p for p in parameters if p.kind in kinds and p.default is p.empty and p.name != "sample_weight"]
    return len(asked)


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _called(name: str, function: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    """Call a metric; what it raises bears its name."""
    try:
        return function(*arguments, **more)
    except Exception as error:
        raise EvaluationError(f"the metric {name} raised {type(error).__name__}: {error}") from error


class _OfCounts:
    """A metric of confusion counts, over all cuts."""

    def __init__(self, inputs: Inputs, metric: CountMetric, search: Search) -> None:
        self.name, self.mode, self.calibrated = metric.name, metric.mode, metric.calibrated
        self._metric, self._search = metric, search
        self._rows: Rows = sort_rows(inputs)
        self._cuts = cuts_of(self._rows, inputs.precision)

    def _score(self, cuts: Cuts, some: Any) -> NDArray[np.float64]:
        counts = cuts.counts(some)
        values: NDArray[np.float64] = _called(self.name, self._metric, *counts)
        if values.shape != counts.tp.shape:
            raise EvaluationError(
                f"the metric {self.name}: found values of shape {values.shape}, expected {counts.tp.shape}: it is given arrays of counts, "
                "each entry one threshold, and has to give a value for each (np.where in place of if)"
            )
        return values if self.mode == "max" else -values

    def find(self) -> Found | None:
        return self._search.best(self._cuts, self._score)

    def counts(self, threshold: float) -> Counts | None:
        return self._cuts.counts(self._cuts.index(threshold))

    def at(self, threshold: float) -> float:
        return self._metric.of(self._cuts.counts(self._cuts.index(threshold)))

    def _choose(self, cuts: Cuts) -> float | None:
        found = self._search.best(cuts, self._score)
        return None if found is None else found.threshold

    def replicates(
        self, threshold: float, number: int, random: np.random.Generator
    ) -> Iterator[tuple[float, float]]:
        items = items_of(self._rows, self._cuts, threshold)
        for cuts in replicates(items, number, random):
            best = self._choose(cuts)
            yield (np.nan if best is None else best), self._metric.of(cuts.counts(cuts.index(threshold)))

    def cross_fitted(self, threshold: float, folds: int, random: np.random.Generator) -> float | None:
        items = items_of(self._rows, self._cuts, threshold)
        counts = cross_fitted(items, folds, self._choose, random)
        return None if counts is None else self._metric.of(counts)


class _Opaque(NamedTuple):
    """A metric of predictions, its direction, and the number of cuts that are tried."""

    function: Callable[..., Any]
    mode: Literal["max", "min"]
    grid: int


class _OfPredictions:
    """A metric of predictions and targets, over a grid of the cuts; the rows stay in their order."""

    calibrated: float | None = None

    def __init__(self, inputs: Inputs, given: tuple[Any, Any], metric: _Opaque, search: Search) -> None:
        self.name, self.mode = _name(metric.function), metric.mode
        self._inputs, self._given, self._metric, self._search = inputs, given, metric, search

    def find(self) -> Found | None:
        cuts = cuts_of(sort_rows(self._inputs), self._inputs.precision)
        allowed = self._search.allowed(cuts)
        if not len(allowed):
            return None
        number = min(self._metric.grid, len(allowed))
        some = np.unique(np.linspace(allowed.start, allowed.stop - 1, number).round().astype(np.int64))
        values = np.array([self._value(self._called_by(cuts, int(cut))) for cut in some])
        return self._search.best_of(cuts, some, values if self.mode == "max" else -values)

    def _called_by(self, cuts: Cuts, cut: int) -> NDArray[np.bool_]:
        if cut == len(cuts.edges):
            return np.zeros(len(self._inputs.scores), np.bool_)
        return np.asarray(self._inputs.scores >= cuts.edges[cut])

    def _value(self, predictions: NDArray[np.bool_]) -> float:
        like = self._given[0]
        arguments = [as_given(each.astype(np.int64), like) for each in (predictions, self._inputs.positive)]
        weights = self._inputs.weights
        more = {} if weights is None else {"sample_weight": as_given(weights, like)}
        return float(_called(self.name, self._metric.function, *arguments, **more))

    def _part(self, rows: NDArray[np.int64]) -> _OfPredictions:
        weights = self._inputs.weights
        part = Inputs(
            self._inputs.scores[rows],
            self._inputs.positive[rows],
            None if weights is None else weights[rows],
            self._inputs.precision,
        )
        return _OfPredictions(part, self._given, self._metric, self._search)

    def counts(self, threshold: float) -> Counts | None:
        del threshold
        return None

    def at(self, threshold: float) -> float:
        return self._value(np.asarray(self._inputs.scores >= threshold))

    def replicates(
        self, threshold: float, number: int, random: np.random.Generator
    ) -> Iterator[tuple[float, float]]:
        total = len(self._inputs.scores)
        for _ in range(number):
            drawn = self._part(np.sort(random.integers(0, total, total)))
            found = drawn.find()
            yield (np.nan if found is None else found.threshold), drawn.at(threshold)

    def cross_fitted(self, threshold: float, folds: int, random: np.random.Generator) -> float | None:
        del threshold
        fold = random.permutation(len(self._inputs.scores)) % folds
        predictions = np.zeros(len(fold), np.bool_)
        for number in range(folds):
            found = self._part(np.nonzero(fold != number)[0]).find()
            if found is None:
                return None
            held = fold == number
            predictions[held] = self._inputs.scores[held] >= found.threshold
        return self._value(predictions)
