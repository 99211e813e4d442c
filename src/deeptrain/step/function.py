"""`FunctionStep`: a plain function `batch -> loss | dict` that does a whole iteration by itself.

The function is the body of a hand-written loop: forward, backward, `optimizer.step()`, anything. The modules,
optimizers and whatever else with a state it uses are found among the variables that it refers to, and join the
state under their names there.

Its computation ends, and its commit begins, where it first steps an optimizer: before that it may be aborted
and repeated; from there on it is shielded to its end. A function that uses no optimizer is shielded from its
start. Before the commit gradients, the groups' values (learning rates) and the states of schedulers and the
like are put back.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from deeptrain.data.batch import map_tensors
from deeptrain.step.base import Outcome, Totals
from deeptrain.step.discovery import parts_of
from deeptrain.step.parts import (
    Parameters,
    default_device,
    group_values,
    load_module,
    load_module_extra,
    load_optimizer,
    module_extra,
    put_back_groups,
)
from deeptrain.step.stateful import reset_states

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from deeptrain.data.batch import Batch

TAKEN = {
    "version", "seed", "progress", "data", "random", "history", "callbacks", "step_extra", "steering", "replaced", "volatile",
}  # fmt: skip


class FunctionStep:
    """A function as step.

    Args:
        function: Called with a `Batch`; returns the loss (a tensor of shape () or a number), a dictionary of
            figures (of which "loss" is the loss), an `Outcome`, or None.
        parts: What has a state, by name; by default what is found among the function's variables.
        shielded: Whether the commit begins with the call, so that nothing needs to be copied to be put back.

    Raises:
        TypeError: It cannot be called.
        ValueError: Nothing with a state was found among the function's variables, an optimizer's parameters
            belong to no module that was found, or a part has a name that the state tree uses itself.

    Example:
        >>> model = nn.Linear(4, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
        >>> def train(batch):
        ...     loss = model(batch.inputs).square().mean()
        ...     loss.backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        ...     return loss
        >>> sorted(FunctionStep(train).parts)
        ['model', 'optimizer']
    """

    def __init__(
        self,
        function: Callable[[Batch], Any],
        parts: Mapping[str, Any] | None = None,
        *,
        shielded: bool = False,
    ) -> None:
        if isinstance(function, nn.Module):
            raise TypeError(
                f"step is the module {type(function).__name__}, which says nothing of loss and optimizer: give "
                "dt.SupervisedStep(model, loss=..., optimizer=...), or a function of a batch"
            )
        if not callable(function):
            raise TypeError(
                f"step is a {type(function).__name__}, expected a SupervisedStep, an object with every method of "
                "deeptrain.Step, or a function of a batch"
            )
        self.function = function
        self.parts = parts_of(function) if parts is None else dict(parts)
        self._optimizers = [p for p in self.parts.values() if isinstance(p, Optimizer)]
        self._small = [p for p in self.parts.values() if not isinstance(p, Optimizer | nn.Module)]
        self._parameters = Parameters(self.modules(), self._optimizers)
        self._check_parts()
        first = next(iter(self._parameters.all()), None)
        self.device = default_device() if first is None else first.device
        self._before: tuple[list[Any], list[Any], list[Any]] | None = None
        self._began = False
        self._shielded = shielded or not self._optimizers
        self._begin_commit: Callable[[], None] = _nothing

    def _check_parts(self) -> None:
        if not self.parts:
            raise ValueError(
                f"the step {self.function!r} refers to nothing with state_dict and load_state_dict (a module, an "
                "optimizer): there would be no state to save; let it refer to its model and optimizer by name"
            )
        if taken := sorted(TAKEN & set(self.parts)):
            raise ValueError(
                f"the step uses variables named {taken}, which the state tree uses itself: rename them"
            )
        owned = {id(p) for module in self.modules() for p in module.parameters()}
        for name, part in self.parts.items():
            if isinstance(part, Optimizer) and any(
                id(p) not in owned for g in part.param_groups for p in g["params"]
            ):
                raise ValueError(
                    f"the step's optimizer {name!r} holds parameters of no module that was found among the variables "
                    f"of {self.function!r} (found: {sorted(self.parts)}): their values would not be saved; let the "
                    "function, or one that it calls, refer to their module by name"
                )

    def prepare(self, totals: Totals) -> None:
        """Nothing is built. See `Step`."""

    def bind(self, begin_commit: Callable[[], None]) -> None:
        """Take what is called when an optimizer steps first. See `Step`."""
        self._begin_commit = begin_commit

    def _on_optimizer_step(self, optimizer: Optimizer, *_: Any) -> None:
        if not any(optimizer is known for known in self._optimizers):
            raise ValueError(
                f"the step {self.function!r} steps a {type(optimizer).__name__} that was not found among its variables "
                f"(found: {sorted(self.parts)}): its state would not be saved; let the function refer to it by name"
            )
        if not self._began:
            self._began = True
            self._begin_commit()

    def compute(self, batch: Batch) -> Outcome:
        """Call the function. See `Step`."""
        if not batch.iteration:
            reset_states(self.modules())
        self._before = None if self._shielded else self._remembered()
        self._began = self._shielded
        hook = register_optimizer_step_pre_hook(self._on_optimizer_step)
        try:
            if self._began:
                self._begin_commit()
            return outcome_of(self.function(batch))
        finally:
            hook.remove()

    def _remembered(self) -> tuple[list[Any], list[Any], list[Any]]:
        gradients = [None if p.grad is None else p.grad.clone() for p in self._parameters.all()]
        small = [copy.deepcopy(part.state_dict()) for part in self._small]
        return gradients, group_values(self._optimizers), small

    def discard(self) -> None:
        """Put back what the function may have changed before it stepped an optimizer. See `Step`."""
        before, self._before = self._before, None
        if before is None:
            return  # it was not called
        gradients, groups, small = before
        for parameter, gradient in zip(self._parameters.all(), gradients, strict=True):
            parameter.grad = gradient
        for part, state in zip(self._small, small, strict=True):
            part.load_state_dict(state)
        put_back_groups(self._optimizers, groups)

    def apply(self) -> None:
        """The function did it. See `Step`."""
        self._before = None

    def end_batch(self) -> None:
        """Reset the state that modules carry from piece to piece. See `Step`."""
        reset_states(self.modules())

    def end_epoch(self) -> None:
        """Nothing is stepped by epochs. See `Step`."""

    def end_validation(self, key: float | None, figures: Mapping[str, float]) -> None:
        """Nothing is stepped by validations. See `Step`."""

    def evaluate(self, batch: Batch) -> Outcome:  # noqa: ARG002
        """A function says nothing of how to evaluate. See `Step`.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            f"the step {self.function!r} is a function, which trains and cannot evaluate: give the trainer a "
            "SupervisedStep or a class on the Step protocol, or leave validation out"
        )

    def loss_over(self, predictions: Any, targets: Any) -> float | None:
        """None: see `evaluate`."""

    def modules(self) -> Iterable[nn.Module]:
        """The modules among the parts. See `Step`."""
        return [part for part in self.parts.values() if isinstance(part, nn.Module)]

    def optimizers(self) -> Sequence[Optimizer]:
        """The optimizers among the parts. See `Step`."""
        return self._optimizers

    def settings(self) -> dict[str, Any]:
        """The function's name and its parts. See `Step`."""
        modules = {name: part for name, part in self.parts.items() if isinstance(part, nn.Module)}
        return {
            "function": getattr(self.function, "__qualname__", type(self.function).__qualname__),
            "parts": {name: type(part).__name__ for name, part in self.parts.items()},
            "model": {
                f"{name}.{path}": f"{p.dtype} {list(p.shape)}"
                for name, module in modules.items()
                for path, p in module.named_parameters()
            },
        }

    def state_dict(self) -> dict[str, Any]:
        """Every part's state under its name, and gradients where the function leaves some. See `Step`."""
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.parts.items()}
        modules = {name: part for name, part in self.parts.items() if isinstance(part, nn.Module)}
        state["step_extra"] = {
            "modules": {name: module_extra(module) for name, module in modules.items()},
            "gradients": [p.grad for p in self._parameters.all()],
        }
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave. See `Step`."""
        for name, part in self.parts.items():
            if isinstance(part, Optimizer):
                load_optimizer(part, state[name])
            elif isinstance(part, nn.Module):
                load_module(part, state[name], name)
                load_module_extra(part, state["step_extra"]["modules"][name])
            else:
                part.load_state_dict(copy.deepcopy(state[name]))
        for parameter, gradient in zip(self._parameters.all(), state["step_extra"]["gradients"], strict=True):
            parameter.grad = None if gradient is None else gradient.to(parameter.device, copy=True)


def _nothing() -> None:
    """What begins a commit where there is no trainer."""


def outcome_of(returned: Any) -> Outcome:
    """What a function of a batch returned, as an outcome whose tensors have no history.

    Raises:
        ValueError: The loss is not a scalar.
    """
    if isinstance(returned, Outcome):
        told = outcome_of({**returned.metrics, "loss": returned.loss})
        return Outcome(
            told.loss, map_tensors(returned.predictions, torch.Tensor.detach), told.metrics, returned.left_out
        )
    figures = dict(returned) if isinstance(returned, dict) else {"loss": returned}
    loss = figures.pop("loss", None)
    if loss is not None:
        loss = loss.detach() if isinstance(loss, torch.Tensor) else torch.tensor(loss, dtype=torch.float64)
        if loss.dim():
            raise ValueError(
                f"the step returned a loss of shape {tuple(loss.shape)}, expected a scalar of shape ()"
            )
    clean = {name: v.detach() if isinstance(v, torch.Tensor) else v for name, v in figures.items()}
    return Outcome(loss, None, clean)
