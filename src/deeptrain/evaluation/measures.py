"""The metrics of a validation: names, functions, objects that add up; each called on a whole pass in one way."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import nn

from deeptrain.data.batch import edits
from deeptrain.evaluation.metrics.named import Metric, resolve_metric
from deeptrain.evaluation.metrics.own_metric import OwnMetric
from deeptrain.step.base import figure, measured

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from deeptrain.evaluation.metrics.reading import Form

Given: TypeAlias = "Mapping[str, str | Callable[..., Any]] | Sequence[str] | None"
Resolved: TypeAlias = "Metric | OwnMetric"
# What the predictions are that a loss of torch's takes.
_FORMS: dict[type, Form] = {
    nn.BCEWithLogitsLoss: "logits",
    nn.CrossEntropyLoss: "logits",
    nn.MultiLabelSoftMarginLoss: "logits",
    nn.BCELoss: "probabilities",
}


def resolved(metrics: Given) -> dict[str, Resolved]:
    """Metrics by name, each found or dressed.

    Raises:
        TypeError, ValueError: One is none that can be taken.
    """
    if metrics is None:
        return {}
    if isinstance(metrics, str) or not hasattr(metrics, "__iter__"):
        raise TypeError(
            f"metrics={metrics!r}: expected functions by name, such as {{'accuracy': accuracy}}, or names, ['accuracy', 'f1']"
        )
    if not isinstance(metrics, Mapping):
        odd = [each for each in metrics if not isinstance(each, str)]
        if odd:
            raise TypeError(
                f"metrics holds {odd[0]!r}: expected names, or functions by name: {{'mine': function}}"
            )
        metrics = {name: name for name in metrics}
    return {name: _whole(one) for name, one in metrics.items()}


def _whole(metric: Any) -> Resolved:
    """Resolve; a metric that adds up, as torchmetrics' do, begins anew with each pass."""
    if not all(hasattr(metric, name) for name in ("update", "compute", "reset")):
        return resolve_metric(metric)  # type: ignore[no-any-return]

    def once(predictions: Any, targets: Any) -> Any:
        fresh: Any = copy.deepcopy(metric)
        fresh.reset()
        fresh.update(predictions, targets)
        return fresh.compute()

    once.__name__ = type(metric).__name__
    return OwnMetric(once, None, frozenset())


def form_of(loss: Any) -> Form | None:
    """What predictions are, by the loss that takes them; None where it does not tell."""
    return _FORMS.get(type(loss))


def measure(
    name: str,
    metric: Resolved,
    predictions: Any,
    targets: Any,
    *,
    weights: torch.Tensor | None = None,
    threshold: float | None = None,
) -> float:
    """Call a metric on a whole pass.

    Args:
        name: What the user calls it, for messages.
        metric: The metric.
        predictions: Of all rows.
        targets: Of all rows.
        weights: What each row counts, for a function that takes them; a named metric counts all rows alike.
        threshold: From where on a row is positive.

    Raises:
        ValueError: It gave something that is no number, or cannot be computed; the message names it.
    """
    more: dict[str, Any] = {} if threshold is None else {"threshold": threshold}
    call: Callable[..., Any] = metric
    if isinstance(metric, OwnMetric):
        call = metric.function
        more = {key: value for key, value in more.items() if key in metric.takes}
        if weights is not None and "sample_weight" in metric.takes:
            more["sample_weight"] = weights
    before = edits(predictions) + edits(targets)
    found = float(figure(name, measured(name, lambda p, t: call(p, t, **more), predictions, targets)))
    if edits(predictions) + edits(targets) != before:
        raise ValueError(
            f"the metric {name!r} changed predictions or targets in place, which others are computed of: let it work on copies"
        )
    return found


def with_form(metric: Resolved, form: Form | None) -> Resolved:
    """A named metric that is told what fractions are."""
    return resolve_metric(metric, form=form) if isinstance(metric, Metric) and form is not None else metric


def needs_threshold(metric: Resolved) -> bool:
    """Whether it goes by decisions."""
    return metric.needs == "threshold"
