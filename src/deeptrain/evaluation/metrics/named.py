"""Metrics by name: `resolve_metric("f1")` gives one, callable on tensors and arrays.

A metric of confusion counts, or a mean over rows, adds up: its tallies over some rows are the sum of those over their parts.
So the figures of each batch and of the whole pass, and of every subset of batches, come from one reading.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from deeptrain.evaluation.metrics.catalogue import NAMED
from deeptrain.evaluation.metrics.decisions import read_classes
from deeptrain.evaluation.metrics.names import ALIASES, NO_LONGER
from deeptrain.evaluation.metrics.own_metric import OwnMetric, sklearn_metric
from deeptrain.evaluation.metrics.reading import FORMS, Given

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from deeptrain.evaluation.metrics.catalogue import Recipe
    from deeptrain.evaluation.metrics.reading import Floats, Form

__all__ = ["Metric", "OwnMetric", "metric_names", "resolve", "resolve_metric", "sklearn_metric"]

Mode = Literal["max", "min"]


class Metric:
    """A named metric. `resolve_metric` makes them.

    Called as `(predictions, targets, sample_weight=None, threshold=None)`, it gives a float over all rows:

    - **targets**: classes `(n,)`, in any dtype, or one-hot `(n, classes)`; for numbers (`needs == "values"`) of the predictions' shape.
    - **predictions** for decisions: whole numbers `(n,)` are classes; `(n, classes)` decide for the largest; fractions `(n,)` or
      `(n, 1)` are what `form` says, and decide for class 1 where they are at least the threshold. Further axes come after that
      of the classes, as in torch's losses.
    - **sample_weight**: `(n,)`, at least 0. A row of weight 0 is as if it were not there.
    - **threshold**: of the probability of class 1; None is 0.5, or the larger of two columns. For `form="scores"`, of the score.

    Attributes:
        name: Its name, without aliases.
        mode: Whether "max" or "min" is the best.
        needs: "threshold" (decisions between two classes), "classes" (decisions between any), "scores" or "values".
        form: What fractions are: "probabilities" (checked), "logits", or "scores" of any range.
        of_many: Whether it also judges decisions between more than two classes, or only those.
        mean: Whether it is a mean over rows.
        adds_up: Whether it has `tallies`.

    Raises:
        MetricError: When called: NaN, no rows, labels outside the classes, probabilities outside [0, 1], shapes that do not go
            together. It names the metric and the rows.

    Example:
        >>> f1 = resolve_metric("f1")
        >>> f1(torch.tensor([0.9, 0.6, 0.2]), torch.tensor([1, 0, 0])), f1.mode
        (0.6666666666666666, 'max')
    """

    def __init__(self, name: str, recipe: Recipe, form: Form = "probabilities") -> None:
        self.name, self.form, self._recipe = name, form, recipe
        self.mode: Mode = recipe.mode
        self.of_many = recipe.read is read_classes
        self.needs, self.mean, self.adds_up = recipe.needs, recipe.mean, recipe.tally is not None

    def __repr__(self) -> str:
        return f"Metric({self.name!r}, mode={self.mode!r}, needs={self.needs!r}, form={self.form!r})"

    def __call__(
        self, predictions: Any, targets: Any, sample_weight: Any = None, threshold: float | None = None
    ) -> float:
        """Give the figure over all rows."""
        read = self._recipe.read(Given(self.name, self.form, predictions, targets, sample_weight, threshold))
        if self._recipe.tally is None:
            return float(self._recipe.of(read))
        return float(self._recipe.of(self._recipe.tally(read, None, 1)[0]))

    def tallies(
        self,
        predictions: Any,
        targets: Any,
        groups: NDArray[Any],
        sample_weight: Any = None,
        threshold: float | None = None,
    ) -> Floats:
        """What adds up, for each group of rows.

        Args:
            predictions: As when called.
            targets: As when called.
            groups: The group of each row, `(n,)`, whole numbers from 0 on.
            sample_weight: As when called.
            threshold: As when called.

        Returns:
            `(groups, ...)`. `of_tallies` of a sum of some of them is the metric over the rows of these groups.

        Example:
            >>> accuracy, groups = resolve_metric("accuracy"), torch.tensor([0, 0, 1]).numpy()
            >>> found = accuracy.tallies([1, 0, 1], [1, 1, 1], groups)
            >>> accuracy.of_tallies(found).tolist(), round(float(accuracy.of_tallies(found.sum(axis=0))), 3)
            ([0.5, 1.0], 0.667)
        """
        if self._recipe.tally is None:
            raise TypeError(f"the metric {self.name!r} does not add up: call it on the rows themselves")
        read = self._recipe.read(Given(self.name, self.form, predictions, targets, sample_weight, threshold))
        return self._recipe.tally(read, groups, int(groups.max()) + 1)

    def of_tallies(self, tallies: Floats) -> Floats:
        """The metric of tallies, `(...)` for those of `tallies`, whose first axes are kept; 0 where there are no rows."""
        result: Floats = self._recipe.of(tallies)
        return result


F = TypeVar("F", bound="Callable[..., Any]")


@overload
def resolve_metric(metric: str | Metric, *, mode: Mode | None = None, form: Form | None = None) -> Metric: ...
@overload
def resolve_metric(
    metric: Callable[..., Any] | OwnMetric, *, mode: Mode | None = None, form: Form | None = None
) -> OwnMetric: ...
def resolve_metric(metric: Any, *, mode: Mode | None = None, form: Form | None = None) -> Any:
    """Give a metric by its name, or dress a function of one's own as one.

    Args:
        metric: A name ("accuracy", "f1", "auroc", "mae", ...; DeepTrain 0.x's too); a function `(predictions, targets[, sample_weight,
            threshold])`; or what this gave before.
        mode: Whether the "max" or the "min" is the best; for a function of one's own it must be said where it matters.
        form: What fractions are: "probabilities" (by default), "logits" or "scores"; for names only.

    Raises:
        ValueError: There is no such name (the message lists near ones), mode or form; or `mode` contradicts the name's.
        TypeError: It is neither a name nor a function.

    Example:
        >>> resolve_metric("acc")
        Metric('accuracy', mode='max', needs='threshold', form='probabilities')
        >>> resolve_metric("auc_roc")
        Traceback (most recent call last):
        ValueError: metric: found 'auc_roc', which is none; near are 'auroc', 'auc', 'acc'. ...
    """
    if mode not in {None, "max", "min"}:
        raise ValueError(f'mode={mode!r}: expected "max" or "min"')
    if form is not None and form not in FORMS:
        raise ValueError(f"form={form!r}: expected one of {', '.join(map(repr, FORMS))}")
    if isinstance(metric, str):
        metric = _named(metric, form)
    elif isinstance(metric, Metric) and form is not None:
        metric = Metric(metric.name, NAMED[metric.name], form)
    elif not isinstance(metric, Metric):
        if form is not None:
            raise ValueError(f"form={form!r}: a function of one's own takes predictions as they are")
        return OwnMetric.of(metric, mode)
    if mode not in {None, metric.mode}:
        raise ValueError(f"mode={mode!r}: the best {metric.name!r} is the {metric.mode!r}imum")
    return metric


def _named(name: str, form: Form | None) -> Metric:
    plain = name.strip().lower().replace("-", "_").replace(" ", "_")
    plain = ALIASES.get(plain, plain)
    if plain in NO_LONGER:
        raise ValueError(f"metric: found {name!r}, {NO_LONGER[plain]}")
    if plain not in NAMED:
        near = difflib.get_close_matches(plain, [*NAMED, *ALIASES], n=3, cutoff=0.5)
        hint = f"near are {', '.join(map(repr, near))}" if near else f"there are {', '.join(NAMED)}"
        raise ValueError(
            f"metric: found {name!r}, which is none; {hint}. Or give a function of (predictions, targets)"
        )
    return Metric(plain, NAMED[plain], form or "probabilities")


def metric_names() -> list[str]:
    """The names that `resolve_metric` knows, without aliases.

    Example:
        >>> "balanced_accuracy" in metric_names()
        True
    """
    return sorted(NAMED)


resolve = resolve_metric
