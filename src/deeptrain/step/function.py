"""`FunctionStep`: a plain function `batch -> loss | dict` that does a whole iteration by itself.

The function is the body of a hand-written loop: forward, backward, `optimizer.step()`, anything. The modules,
optimizers and whatever else with a state it uses are found among the variables that it refers to, and join the
state under their names there.

Its computation ends, and its commit begins, where it first steps one of its optimizers: before that it may be
aborted and repeated; from there on it is shielded to its end. A function that uses no optimizer is shielded
from its start.
"""

from __future__ import annotations

import functools
import inspect
import types
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from deeptrain.step.base import Outcome, Totals
from deeptrain.step.parts import default_device, load_module, load_module_extra, load_optimizer, module_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from deeptrain.data.batch import Batch

TAKEN = {"version", "progress", "data", "random", "history", "callbacks", "volatile"}


class FunctionStep:
    """A function as step.

    Args:
        function: Called with a `Batch`; returns the loss (a tensor of shape () or a number), a dictionary of
            figures (of which "loss" is the loss), or None.

    Raises:
        ValueError: Nothing with a state was found among the function's variables, or one of them has a name
            that the state tree uses itself.

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

    def __init__(self, function: Callable[[Batch], Any]) -> None:
        if not callable(function):
            raise TypeError(
                f"step is a {type(function).__name__}, expected a SupervisedStep, an object with every method of "
                "deeptrain.Step, or a function of a batch"
            )
        self.function = function
        self.parts = parts_of(function)
        self._check_parts()
        self._optimizers = [p for p in self.parts.values() if isinstance(p, Optimizer)]
        self._parameters = [p for module in self.modules() for p in module.parameters()]
        self._gradients: list[torch.Tensor | None] = []
        first = self._parameters[0] if self._parameters else None
        self.device = default_device() if first is None else first.device
        self._began = False
        for optimizer in self._optimizers:
            optimizer.register_step_pre_hook(self._on_optimizer_step)

    def _check_parts(self) -> None:
        if not self.parts:
            raise ValueError(
                f"the step {self.function!r} refers to nothing with state_dict and load_state_dict (a module, an "
                "optimizer): there would be no state to save; let the function refer to its model and optimizer by name"
            )
        if taken := sorted(TAKEN & set(self.parts)):
            raise ValueError(
                f"the step uses variables named {taken}, which the state tree uses itself: rename them"
            )

    def prepare(self, totals: Totals) -> None:
        """Nothing is built. See `Step`."""

    def bind(self, begin_commit: Callable[[], None]) -> None:
        """Take what is called when an optimizer steps first. See `Step`."""
        self._begin_commit = begin_commit

    def _on_optimizer_step(self, *_: Any) -> None:
        if not self._began:
            self._began = True
            self._begin_commit()

    def compute(self, batch: Batch) -> Outcome:
        """Call the function. See `Step`."""
        self._gradients = [None if p.grad is None else p.grad.clone() for p in self._parameters]
        self._began = not self._optimizers
        if self._began:
            self._begin_commit()
        return _outcome(self.function(batch))

    def discard(self) -> None:
        """Put the gradients back to what they were before the function was called. See `Step`."""
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient

    def apply(self) -> None:
        """The function did it. See `Step`."""

    def end_epoch(self) -> None:
        """Nothing is stepped by epochs. See `Step`."""

    def end_validation(self, key: float | None) -> None:
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

    def settings(self) -> dict[str, Any]:
        """The function's name and its parts. See `Step`."""
        return {
            "function": getattr(self.function, "__qualname__", type(self.function).__qualname__),
            "parts": {name: type(part).__name__ for name, part in self.parts.items()},
            "model": {
                f"{name}.{path}": f"{p.dtype} {list(p.shape)}"
                for name, part in self.parts.items()
                if isinstance(part, nn.Module)
                for path, p in part.named_parameters()
            },
        }

    def state_dict(self) -> dict[str, Any]:
        """Every part's state under its name, and gradients where the function leaves some. See `Step`."""
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.parts.items()}
        modules = {name: part for name, part in self.parts.items() if isinstance(part, nn.Module)}
        state["step_extra"] = {
            "modules": {name: module_extra(module) for name, module in modules.items()},
            "gradients": [p.grad for p in self._parameters],
        }
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave. See `Step`."""
        for name, part in self.parts.items():
            if isinstance(part, Optimizer):
                load_optimizer(part, state[name])
            elif isinstance(part, nn.Module):
                load_module(part, state[name], name)
            else:
                part.load_state_dict(state[name])
        for name, extra in state["step_extra"]["modules"].items():
            load_module_extra(self.parts[name], extra)
        for parameter, gradient in zip(self._parameters, state["step_extra"]["gradients"], strict=True):
            parameter.grad = None if gradient is None else gradient.to(parameter.device, copy=True)


def _outcome(returned: Any) -> Outcome:
    figures = dict(returned) if isinstance(returned, dict) else {"loss": returned}
    loss = figures.pop("loss", None)
    if loss is not None:
        loss = torch.as_tensor(loss).detach()
        if loss.dim():
            raise ValueError(
                f"the step returned a loss of shape {tuple(loss.shape)}, expected a scalar of shape ()"
            )
    clean = {name: v.detach() if isinstance(v, torch.Tensor) else v for name, v in figures.items()}
    return Outcome(loss, None, clean)


def parts_of(function: Any) -> dict[str, Any]:
    """Whatever has a state among the variables that a function refers to, by name.

    Looks at closures and globals of functions, at `self` of methods, at the arguments of partials and at the
    attributes of callable objects.
    """
    if isinstance(function, functools.partial):
        bound = {f"arg{i}": value for i, value in enumerate(function.args)} | function.keywords
        return _with_state(bound) | parts_of(function.func)
    if isinstance(function, types.MethodType):
        return _with_state(vars(function.__self__)) | parts_of(function.__func__)
    if isinstance(function, types.FunctionType):
        found = inspect.getclosurevars(function)
        return _with_state({**found.globals, **found.nonlocals})
    return _with_state(getattr(function, "__dict__", {}))


def _with_state(variables: dict[str, Any]) -> dict[str, Any]:
    def has_state(value: Any) -> bool:
        methods = ("state_dict", "load_state_dict")
        if isinstance(value, type) or hasattr(
            value, "fetch"
        ):  # a class; a loader, whose place the trainer keeps
            return False
        return all(callable(getattr(value, method, None)) for method in methods)

    return {name: value for name, value in variables.items() if has_state(value)}
