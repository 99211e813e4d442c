"""`select_ensemble`: greedy selection with replacement over kept predictions, and what it gains out of fold.

The method of Caruana, Niculescu-Mizil, Crew and Ksikes (2004): begin with the best few, add whichever makes the mean of predictions
score best, the same ones again too, keep the best of these ensembles, and average over bags of models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deeptrain.data.checks import at_least
from deeptrain.evaluation.choosing.blending import WHO, How, Library, selected
from deeptrain.evaluation.choosing.scoring import Scoring, rows_of
from deeptrain.evaluation.metrics.reading import MetricError, array_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from deeptrain.evaluation.choosing.scoring import Threshold
    from deeptrain.evaluation.metrics.named import Metric, Mode
    from deeptrain.evaluation.metrics.own_metric import OwnMetric
    from deeptrain.evaluation.metrics.reading import Floats, Form

DECIDED = 0.5  # what 0 and 1 are parted at


@dataclass(frozen=True)
class Ensemble:
    """What `select_ensemble` found.

    Attributes:
        weights: Of each model's predictions in the mean; they sum to 1, and most may be 0.
        score: The metric of the mean. Optimistic: it was selected for it.
        out_of_fold: The metric where each fold's rows are predicted by an ensemble selected on the other folds.
        best: The best single model.
        best_score: Its metric; optimistic likewise.
        best_out_of_fold: The metric where each fold's rows are predicted by the model that is best on the other folds.
        gain: By how much `out_of_fold` is better than `best_out_of_fold`; below 0 where it is worse.
        threshold: The threshold found on all rows, or the given one.
        metric: The metric's name.
        logits: Whether predictions were logits, which are averaged as probabilities.
    """

    weights: dict[str, float]
    score: float
    out_of_fold: float
    best: str
    best_score: float
    best_out_of_fold: float
    gain: float
    threshold: float | None
    metric: str
    logits: bool

    def __str__(self) -> str:
        parts = sorted(((weight, name) for name, weight in self.weights.items() if weight), reverse=True)
        return (
            f"{self.metric} {self.out_of_fold:.6g} out of fold, {self.best_out_of_fold:.6g} of the best single one (gain "
            f"{self.gain:+.3g}); on the rows that it was selected on {self.score:.6g} (optimistic), {self.best_score:.6g} of "
            f"{self.best}: " + ", ".join(f"{weight:.3g} {name}" for weight, name in parts)
        )

    def predict(self, predictions: Mapping[str, Any]) -> Floats:
        """Give the weighted mean of predictions.

        Args:
            predictions: By name, those of the models that have a weight at least, as they were given for the selection.

        Returns:
            In their shape: probabilities where they are logits.

        Raises:
            KeyError: A model that has a weight is missing.
        """
        used = {name: weight for name, weight in self.weights.items() if weight}
        missing = sorted(used.keys() - predictions.keys())
        if missing:
            raise KeyError(
                f"the ensemble has no predictions of {', '.join(missing)}, found {sorted(predictions)}"
            )
        library = Library.of(WHO, {name: predictions[name] for name in used}, logits=self.logits)
        return library.mean(np.array(list(used.values())))


def select_ensemble(
    predictions: Mapping[str, Any],
    targets: Any,
    metric: str | Metric | OwnMetric | Callable[..., Any],
    *,
    mode: Mode | None = None,
    form: Form | None = None,
    sample_weight: Any = None,
    threshold: Threshold = None,
    groups: Any = None,
    folds: int = 5,
    start: int = 5,
    rounds: int = 20,
    bags: int = 10,
    share: float = 0.5,
    seed: int = 0,
) -> Ensemble:
    """Select which models' predictions to average, and how often each counts; report what that gains out of fold.

    Args:
        predictions: Kept predictions by the name of a checkpoint or a run, each `(n, ...)`, of the same rows in the same order.
        targets: Their targets, `(n, ...)`.
        metric: A name, or a function of `(predictions, targets[, sample_weight, threshold])`.
        mode: Whether "max" or "min" is the best; for functions.
        form: What fractions are: "probabilities", "logits" (averaged as probabilities) or "scores"; for names.
        sample_weight: A weight for each row, `(n,)`.
        threshold: A threshold for all; or a function that finds the best one for each ensemble that is tried, as in `best_subset`. Out
            of fold, it is found on the other folds.
        groups: A group for each row, `(n,)`; the rows of one, as the windows of a series, are never parted by folds.
        folds: In how many parts rows are held out, one after the other.
        start: With how many of the best models, at most, an ensemble begins: as many as score best together.
        rounds: How many models are added after that, one by one; of all ensembles on the way the best is kept.
        bags: Over how many selections, each among a random part of the models, weights are averaged. 1 is one among all of them,
            which on the rows that it is selected on is never worse than the best single model.
        share: How large a part of the models a bag has, up to 1.
        seed: What bags and folds are drawn from.

    Returns:
        The models' weights, and the figures in and out of fold.

    Raises:
        ValueError: Rows do not match, or there are fewer of them (or of groups) than folds.
        TypeError: Predictions are classes, which have no mean.
        MetricError: The metric is NaN for every model, or cannot be computed.

    Example:
        >>> one, other = [0.9, 0.4, 0.2, 0.8, 0.3, 0.1], [0.3, 0.9, 0.1, 0.6, 0.1, 0.3]
        >>> found = select_ensemble({"one": one, "other": other}, [1, 1, 0, 1, 0, 0], "brier", folds=3, bags=1)
        >>> {name: round(weight, 2) for name, weight in found.weights.items()}, found.score < found.best_score
        ({'one': 0.65, 'other': 0.35}, True)
    """
    how = How(start, rounds, bags, share, seed)
    scoring = Scoring.of(WHO, metric, mode, form, threshold)
    logits = getattr(scoring.metric, "form", None) == "logits"
    scoring = scoring.on_probabilities() if logits else scoring
    wanted = array_of(targets)
    library = Library.of(WHO, predictions, logits=logits, rows=len(wanted))
    weights = None if sample_weight is None else rows_of(WHO, "sample_weight", sample_weight, len(wanted))
    if scoring.searches and library.arrays[0].size != len(wanted):
        raise ValueError(
            f"{WHO}: found predictions of shape {library.shape} with a threshold that is searched, expected ({len(wanted)},), the "
            "probability of class 1"
        )
    held = _folds(wanted, groups, at_least(2, f"{WHO}: folds", folds), seed)
    data = _Rows(library, wanted, weights)
    mix, best = _selected(scoring, data, how)
    out_of_fold, best_out_of_fold = _out_of_fold(scoring, data, how, held)
    score, found = scoring.score(library.mean(mix), wanted, weights)
    return Ensemble(
        weights=dict(zip(library.names, mix.tolist(), strict=True)),
        score=score,
        out_of_fold=out_of_fold,
        best=library.names[best],
        best_score=scoring.score(library.alone(best), wanted, weights)[0],
        best_out_of_fold=best_out_of_fold,
        gain=out_of_fold - best_out_of_fold
        if scoring.metric.mode == "max"
        else best_out_of_fold - out_of_fold,
        threshold=found,
        metric=scoring.metric.name,
        logits=logits,
    )


@dataclass(frozen=True)
class _Rows:
    """Predictions, targets and weights of some rows."""

    library: Library
    targets: NDArray[Any]
    weights: NDArray[Any] | None

    def at(self, rows: NDArray[Any]) -> _Rows:
        """Those of some of these rows."""
        weights = None if self.weights is None else self.weights[rows]
        return _Rows(self.library.at(rows), self.targets[rows], weights)


def _selected(scoring: Scoring, data: _Rows, how: How) -> tuple[Floats, int]:
    """The models' weights, and the best single one."""

    def score(mean: Floats) -> float:
        return float(scoring.oriented(scoring.score(mean, data.targets, data.weights)[0]))

    library = data.library
    alone = np.array([score(library.alone(each)) for each in range(len(library.names))])
    if not (alone > -np.inf).any():
        raise MetricError(
            scoring.metric.name, f"is NaN for each of the {len(alone)} models, or the worst there is"
        )
    mixes = [selected(library, among, alone, score, how) for among in _bags(len(library.names), how)]
    mean: Floats = np.mean(mixes, axis=0)
    return mean, int(alone.argmax())


def _bags(models: int, how: How) -> list[NDArray[np.int64]]:
    if how.bags == 1:
        return [np.arange(models)]
    size = max(1, round(how.share * models))
    return [
        np.sort(np.random.default_rng([how.seed, 1, bag]).permutation(models)[:size])
        for bag in range(how.bags)
    ]


def _folds(targets: NDArray[Any], groups: Any, folds: int, seed: int) -> NDArray[np.int64]:
    """Each row's fold; equal groups have equal ones."""
    labels = np.arange(len(targets)) if groups is None else rows_of(WHO, "groups", groups, len(targets))
    names, numbers = np.unique(labels.reshape(-1), return_inverse=True)
    if len(names) < folds:
        what = "rows" if groups is None else "groups"
        raise ValueError(
            f"{WHO}: found {len(names)} {what} for folds={folds}, expected at least one for each"
        )
    of_names = np.random.default_rng([seed, 0]).permutation(len(names)) % folds
    result: NDArray[np.int64] = of_names[numbers]
    return result


def _out_of_fold(scoring: Scoring, data: _Rows, how: How, held: NDArray[np.int64]) -> tuple[float, float]:
    """The metric of the ensemble and of the best single model, each selected without the rows that it is judged on."""
    shape = data.library.shape
    ensemble, single = np.empty(shape), np.empty(shape)
    for fold in range(int(held.max()) + 1):
        rest, rows = data.at(np.flatnonzero(held != fold)), np.flatnonzero(held == fold)
        mix, best = _selected(scoring, rest, how)
        here = data.library.at(rows)
        for judged, at_rest, at_rows in (
            (ensemble, rest.library.mean(mix), here.mean(mix)),
            (single, rest.library.alone(best), here.alone(best)),
        ):
            cut = scoring.find(at_rest, rest.targets, rest.weights) if scoring.searches else None
            judged[rows] = at_rows if cut is None else at_rows >= cut
    # Where each fold has a threshold of its own, its decisions are joined, not its scores.
    cut = DECIDED if scoring.searches else scoring.find(ensemble, data.targets, data.weights)
    metric, (targets, weights) = scoring.metric, (data.targets, data.weights)
    return metric(ensemble, targets, weights, cut), metric(single, targets, weights, cut)
