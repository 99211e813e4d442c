"""Functions of one's own as metrics, and those of scikit-learn turned around."""

from __future__ import annotations

import inspect
from functools import wraps
from typing import TYPE_CHECKING, Any, Literal

from deeptrain.evaluation.metrics.reading import MetricError, array_of

if TYPE_CHECKING:
    from collections.abc import Callable


class OwnMetric:
    """A function `(predictions, targets[, sample_weight, threshold])` as a metric.

    What it does not take is not handed on; weights or a threshold that it would have to ignore are refused.

    Attributes:
        function: The function.
        takes: Which of the further arguments it takes.
        name: The function's name.
        mode: Whether "max" or "min" is the best; None where it was not said.
        needs: "threshold" where it takes one, or else "own".
        mean: False: nothing is known of it.
        adds_up: False.
    """

    needs: Literal["threshold", "own"]
    mean, adds_up = False, False

    def __init__(
        self, function: Callable[..., Any], mode: Literal["max", "min"] | None, takes: frozenset[str]
    ) -> None:
        self.function, self.takes = function, takes
        self.name = str(getattr(function, "__name__", type(function).__name__))
        self.mode = mode
        self.needs = "threshold" if "threshold" in takes else "own"

    @classmethod
    def of(cls, function: Any, mode: Literal["max", "min"] | None = None) -> OwnMetric:
        """Dress a function; one that is dressed already is given a mode.

        Raises:
            TypeError: It is no function.
        """
        if isinstance(function, OwnMetric):
            return cls(function.function, mode or function.mode, function.takes)
        if not callable(function):
            raise TypeError(
                f"metric: found {function!r}, expected a name such as 'f1', or a function of (predictions, targets)"
            )
        return cls(function, mode, _taken(function))

    def __repr__(self) -> str:
        return f"OwnMetric({self.name}, mode={self.mode!r}, needs={self.needs!r})"

    def __call__(
        self, predictions: Any, targets: Any, sample_weight: Any = None, threshold: float | None = None
    ) -> float:
        """Give the figure over all rows.

        Raises:
            MetricError: Weights or a threshold are given that the function does not take, or it gives no number.
        """
        given = {"sample_weight": sample_weight, "threshold": threshold}
        for what, value in given.items():
            if value is not None and what not in self.takes:
                raise MetricError(
                    self.name, f"found {what}, which the function does not take: add it as a parameter"
                )
        more = {what: value for what, value in given.items() if value is not None}
        found = self.function(predictions, targets, **more)
        try:
            return float(found)
        except (TypeError, ValueError, RuntimeError) as error:
            raise MetricError(self.name, f"gave a {type(found).__name__}, expected one number") from error


def _taken(function: Callable[..., Any]) -> frozenset[str]:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return frozenset()  # some of those in C tell nothing of theirs
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return frozenset({"sample_weight", "threshold"})
    return frozenset({"sample_weight", "threshold"} & parameters.keys())


def sklearn_metric(function: Callable[..., Any], **fixed: Any) -> Callable[..., Any]:
    """Turn a function `(y_true, y_pred)`, as scikit-learn's are, into one of `(predictions, targets)`.

    Args:
        function: The function; it is given NumPy arrays, and `sample_weight` where it takes it.
        fixed: Arguments that it is always given, such as `average="macro"`.

    Returns:
        A function `(predictions, targets)`, or `(predictions, targets, sample_weight=None)`. Predictions are handed on as they
        are: where classes are wanted and there are scores, decide first.

    Example:
        >>> def missed(y_true, y_pred):
        ...     return (y_true > y_pred).sum()
        >>> sklearn_metric(missed)(torch.tensor([0, 1, 0]), torch.tensor([1, 1, 0])).item()
        1
    """
    if "sample_weight" not in _taken(function):

        @wraps(function)
        def turned(predictions: Any, targets: Any) -> Any:
            return function(array_of(targets), array_of(predictions), **fixed)

    else:

        @wraps(function)
        def turned(predictions: Any, targets: Any, sample_weight: Any = None) -> Any:
            more = {} if sample_weight is None else {"sample_weight": array_of(sample_weight)}
            return function(array_of(targets), array_of(predictions), **more, **fixed)

    del turned.__wrapped__  # or its signature would be read as the other's
    return turned
