"""The `Step` protocol: what the trainer asks of the thing that learns.

A step is two halves. `compute` works out everything (forward, loss, backward) and may be aborted and repeated:
the trainer puts back the random streams, the buffers of the step's modules and, through `discard`, the
gradients. `apply` makes it count (the optimizer's step) and is never interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from torch import nn
    from torch.optim import Optimizer

    from deeptrain.data.batch import Batch


@dataclass(frozen=True, slots=True)
class Totals:
    """How much a whole run will do, for schedulers that ask.

    Attributes:
        iterations: Calls of the step; None where only the outcomes tell how often a batch is fed.
        batches: Batches; None where the loader does not know its length.
        updates: Optimizer steps; None likewise. A schedule can then go by batches or epochs.
        epochs: Passes over the train order.
    """

    iterations: int | None
    batches: int | None
    updates: int | None
    epochs: int


@dataclass(slots=True)
class Outcome:
    """What `compute` or `evaluate` found out about one batch.

    Attributes:
        loss: A tensor of shape (), detached; None where a step has no single loss.
        predictions: What the model gave, detached; any nesting of tensors, or None.
        metrics: Further figures, each a number or a tensor of one element.
        left_out: Whether nothing of it is to come into the model: then the buffers that `compute` changed are put back.
    """

    loss: torch.Tensor | None
    predictions: Any = None
    metrics: Mapping[str, float | torch.Tensor] = field(default_factory=dict)
    left_out: bool = False


@dataclass(frozen=True, slots=True)
class Applied:
    """What the commit of an iteration, or of an epoch's end, came to.

    Attributes:
        updates: How many optimizer steps there were.
        figures: Further figures of the iteration, such as the gradient's norm; numbers or tensors of one element.
    """

    updates: int = 1
    figures: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Step(Protocol):
    """What the trainer asks of the thing that learns. `SupervisedStep` is the one for most uses, `OwnStep` a base for others.

    Attributes:
        device: Where it computes; the device's random stream joins the state.
    """

    device: torch.device

    def prepare(self, totals: Totals) -> None:
        """Build what needs to know the length of the run; called once, before any state is restored."""

    def bind(self, begin_commit: Callable[[], None]) -> None:
        """Take a function to be called where `compute` itself begins to change what cannot be put back."""

    def compute(self, batch: Batch) -> Outcome:
        """Work out one iteration, changing nothing but gradients, buffers and random streams."""

    def discard(self) -> None:
        """Forget what `compute` left behind, down to the gradients there were before it."""

    def apply(self) -> Applied | None:
        """Make the computed iteration count. Never aborted; an exception in here tears the state.

        Returns:
            What that came to; None for one update and no more figures.
        """

    def end_batch(self) -> None:
        """A batch's last iteration was applied; part of that commit."""

    def end_epoch(self) -> Applied | None:
        """An epoch's last iteration was applied; part of that commit.

        Returns:
            What the end itself came to, such as the update of the pieces that were left; None for nothing.
        """

    def end_validation(self, key: float | None, figures: Mapping[str, float]) -> None:
        """A validation pass ended with this key figure, and these figures in all; part of that commit."""

    def evaluate(self, batch: Batch) -> Outcome:
        """Loss and predictions in evaluation mode, without gradients; training flags are put back."""

    def loss_over(self, predictions: Any, targets: Any) -> float | None:
        """The loss over a whole validation pass, or None where there is none."""

    def modules(self) -> Iterable[nn.Module]:
        """The modules whose buffers `compute` may change."""

    def optimizers(self) -> Sequence[Optimizer]:
        """The optimizers whose learning rates and the like are put back where a handler does not come to its end."""

    def settings(self) -> dict[str, Any]:
        """Plain values that describe how the step was made, for the run's fingerprint."""

    def state_dict(self) -> dict[str, Any]:
        """The step's part of the state tree; its keys stand at the tree's top."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state."""


def figures_of(outcome: Outcome) -> dict[str, float | torch.Tensor]:
    """The outcome's figures by name, the loss first; those on the CPU as floats, others left where they are.

    Raises:
        ValueError: A figure is not one number; the message names it.
    """
    figures: dict[str, float | torch.Tensor] = {}
    if outcome.loss is not None:
        figures["loss"] = outcome.loss.item() if outcome.loss.is_cpu else outcome.loss
    for name, value in outcome.metrics.items():
        if type(name) is not str:
            raise TypeError(f"a metric is named {name!r}, a {type(name).__name__}; expected a str")
        figures[name] = figure(name, value)
    return figures


def measured(name: str, metric: Callable[[Any, Any], Any], predictions: Any, targets: Any) -> Any:
    """Call a metric; where it raises, the exception says which one it was and what it was given."""
    try:
        return metric(predictions, targets)
    except Exception as error:
        error.add_note(
            f"raised by the metric {name!r}, which is called as (predictions, targets): found {_shape(predictions)} and "
            f"{_shape(targets)}"
        )
        raise


def _shape(tree: Any) -> str:
    if isinstance(tree, torch.Tensor):
        return f"{tree.dtype} {list(tree.shape)}".removeprefix("torch.")
    return type(tree).__name__


def figure(name: str, value: Any) -> float | torch.Tensor:
    """A metric's value as a float, or as a tensor of one element where it is not on the CPU.

    Raises:
        ValueError: It is not one number; the message names the metric.
    """
    if isinstance(value, torch.Tensor) and value.numel() == 1 and not value.is_complex():
        return value.item() if value.is_cpu else value.detach()
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError) as error:
        shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
        raise ValueError(
            f"the metric {name!r} gave a {type(value).__name__}{shape}, expected one number: "
            "return a float or a tensor of one element"
        ) from error
