"""The catalogue of named metrics: how each reads, what of it adds up, its formula and its direction."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from deeptrain.evaluation.metrics import decisions, formulas
from deeptrain.evaluation.metrics.reading import Classes, MetricError, read_values

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from deeptrain.evaluation.metrics.reading import Floats, Given

Needs = Literal["threshold", "classes", "scores", "values"]


@dataclass(frozen=True)
class Recipe:
    """How a named metric is made.

    Attributes:
        mode: Whether "max" or "min" is the best.
        needs: What of the predictions it goes by.
        read: Reads what the metric is called with.
        of: The formula, of what was read; or of tallies, where there is `tally`.
        tally: Adds up what was read for each group of rows: `(read, groups, count)` to `(count, ...)`.
        mean: Whether it is a mean over rows.
    """

    mode: Literal["max", "min"]
    needs: Needs
    read: Callable[[Given], Any]
    of: Callable[[Any], Any]
    tally: Callable[[Any, NDArray[Any] | None, int], Floats] | None = None
    mean: bool = False


def _sums(read: Any, groups: NDArray[Any] | None, count: int, values: Floats) -> Floats:
    """Sum the elements' weighted values for each group of rows."""
    if groups is None:
        return np.array([np.dot(read.weights, values)])
    return _counted(np.repeat(groups, read.each), read.weights * values, count)


def _counted(labels: Any, weights: Floats, count: int) -> Floats:
    """The weights' sum for each label."""
    return np.bincount(labels, weights, count).astype(np.float64, copy=False)


def _mean_of(each: Callable[[Any], Floats]) -> Callable[[Any, NDArray[Any] | None, int], Floats]:
    """Tallies `(groups, 2)` of a mean over rows: the weighted sum, and the weights'."""

    def tally(read: Any, groups: NDArray[Any] | None, count: int) -> Floats:
        values = each(read)
        sums = _sums(read, groups, count, values)
        return np.stack([sums, _sums(read, groups, count, np.ones(len(values)))], axis=-1)

    return tally


def _ratio(tallies: Floats) -> Floats:
    return formulas.over(tallies[..., 0], tallies[..., 1])


def _cells(read: Classes, groups: NDArray[Any] | None, count: int) -> Floats:
    """Tallies `(groups, 4)`: the weights of true negatives, false positives, false negatives and true positives."""
    cells = 2 * read.actual + read.predicted
    if groups is not None:
        cells = cells + 4 * np.repeat(groups, read.each)
    return _counted(cells, read.weights, 4 * count).reshape(count, 4)


def _table(read: Classes, groups: NDArray[Any] | None, count: int) -> Floats:
    """Tallies `(groups, 3, classes)`: the weights of hits, of predicted and of actual rows, of each class."""
    offset = 0 if groups is None else read.classes * np.repeat(groups, read.each)
    hit = read.predicted == read.actual
    parts = (
        _counted(offset + labels, weights, read.classes * count).reshape(count, read.classes)
        for labels, weights in (
            (read.actual, read.weights * hit),
            (read.predicted, read.weights),
            (read.actual, read.weights),
        )
    )
    return np.stack(list(parts), axis=1)


def _two_classes(given: Given) -> Classes:
    return decisions.read_classes(given, binary=True)


def _binary(of: Callable[[Floats], Floats]) -> Recipe:
    return Recipe("max", "threshold", _two_classes, of, _cells)


def _multi(of: Callable[[Floats], Floats], needs: Needs = "classes") -> Recipe:
    return Recipe("max", needs, decisions.read_classes, of, _table)


def _error(each: Callable[[Any], Floats]) -> Recipe:
    return Recipe("min", "values", read_values, _ratio, _mean_of(each), mean=True)


def _through_torchmetrics(function: str, read: Callable[..., Any], needs: Needs, **fixed: Any) -> Recipe:
    """A metric whose formula is not short: torchmetrics' function, on what was read here."""

    def checked(given: Given) -> tuple[str, Any]:
        if given.sample_weight is not None:
            raise MetricError(given.name, "found sample_weight, expected none: it counts all rows alike")
        return given.name, read(given)

    def of(named: tuple[str, Any]) -> float:
        return _torchmetrics(*named, function, fixed)

    return Recipe("max", needs, checked, of)


def _torchmetrics(name: str, read: Any, function: str, fixed: dict[str, Any]) -> float:
    try:
        functional = import_module("torchmetrics.functional")
    except ImportError as error:
        raise ImportError(
            f"the metric {name!r} needs torchmetrics, which is not installed: pip install torchmetrics"
        ) from error
    import torch  # noqa: PLC0415

    if isinstance(read, Classes):
        found, wanted = read.predicted, read.actual
        fixed = {"task": "multiclass", "num_classes": max(read.classes, 2), **fixed}
    else:
        found, wanted = read.predictions.squeeze(-1), read.targets.squeeze(-1)
    return float(getattr(functional, function)(torch.from_numpy(found), torch.from_numpy(wanted), **fixed))


NAMED: dict[str, Recipe] = {
    "accuracy": Recipe(
        "max", "threshold", decisions.read_classes, _ratio, _mean_of(formulas.right), mean=True
    ),
    "balanced_accuracy": _multi(formulas.balanced_accuracy, "threshold"),
    "precision": _binary(formulas.precision),
    "recall": _binary(formulas.tpr),
    "specificity": _binary(formulas.tnr),
    "f1": _binary(formulas.f_beta(1)),
    "f0.5": _binary(formulas.f_beta(0.5)),
    "f2": _binary(formulas.f_beta(2)),
    "f1_macro": _multi(formulas.f1_macro),
    "f1_weighted": _multi(formulas.f1_weighted),
    "informedness": _binary(formulas.informedness),
    "mcc": _multi(formulas.matthews, "threshold"),
    "tpr*tnr": _binary(formulas.product),
    "auroc": Recipe("max", "scores", decisions.read_ranks, formulas.auroc),
    "average_precision": Recipe("max", "scores", decisions.read_ranks, formulas.average_precision),
    "log_loss": Recipe(
        "min",
        "scores",
        decisions.read_log_probabilities,
        _ratio,
        _mean_of(formulas.log_loss),
        mean=True,
    ),
    "brier": Recipe(
        "min",
        "scores",
        decisions.read_probabilities,
        _ratio,
        _mean_of(formulas.brier),
        mean=True,
    ),
    "mae": _error(formulas.absolute),
    "mse": _error(formulas.squared),
    "mape": _error(formulas.relative),
    "rmse": Recipe("min", "values", read_values, formulas.rmse),
    "r2": Recipe("max", "values", read_values, formulas.r2),
    "cohen_kappa": _through_torchmetrics("cohen_kappa", decisions.read_classes, "classes"),
    "jaccard": _through_torchmetrics("jaccard_index", decisions.read_classes, "classes"),
    "pearson": _through_torchmetrics("pearson_corrcoef", read_values, "values"),
    "spearman": _through_torchmetrics("spearman_corrcoef", read_values, "values"),
}
