"""Train metrics that are given by a name: read by what the loss says predictions are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def by_name(
    metrics: Mapping[str, Any] | Sequence[str] | None, loss: Any
) -> dict[str, Callable[[Any, Any], Any]]:
    """Functions by name as they are; names, `["accuracy"]` or `{"acc": "accuracy"}`, as what they name.

    A named metric is computed on the CPU, so that an accelerator is waited for in each iteration.

    Raises:
        TypeError, ValueError: One is neither.
    """
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping):
        metrics = {name: name for name in metrics}
    return {name: _named(one, loss) if isinstance(one, str) else one for name, one in metrics.items()}


def _named(name: str, loss: Any) -> Callable[[Any, Any], float]:
    from deeptrain.evaluation.measures import form_of, with_form  # noqa: PLC0415 - who names none does not pay for them
    from deeptrain.evaluation.metrics.named import resolve_metric  # noqa: PLC0415
    from deeptrain.evaluation.metrics.reading import MetricError, array_of  # noqa: PLC0415

    metric = with_form(resolve_metric(name), form_of(loss))

    def measured(predictions: Any, targets: Any) -> float:
        try:
            return metric(predictions, targets)
        except MetricError:
            if np.isfinite(array_of(predictions)).all():
                raise
            return float("nan")  # what is not finite is for `on_nonfinite` to deal with

    measured.__qualname__ = measured.__name__ = name
    return measured
