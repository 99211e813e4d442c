"""What a step is given: checked for what is often given by mistake, and described for the run's fingerprint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

if TYPE_CHECKING:
    from torch.optim import Optimizer

COUNTERS = {"training", "last_epoch", "total_steps", "base_lrs", "best", "cooldown_counter", "num_bad_epochs"}


def name_of(thing: Any) -> str:
    """How a part is called in messages and in the fingerprint: its repr where that says how it was made."""
    if isinstance(thing, nn.Module):
        return " ".join(repr(thing).split())
    if isinstance(thing, str | None):
        return repr(thing)
    return getattr(thing, "__qualname__", type(thing).__qualname__)


def check_model(model: Any, optimizer: Any) -> None:
    """Refuse what is no model, or no optimizer.

    Raises:
        TypeError: One is none.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={name_of(model)}: expected a torch.nn.Module, such as nn.Linear(4, 2)")
    if isinstance(optimizer, type) or not hasattr(optimizer, "param_groups"):
        raise TypeError(
            f"optimizer={name_of(optimizer)}: expected an optimizer over the model's parameters, such as "
            "torch.optim.AdamW(model.parameters(), 1e-3)"
        )


def check_given(loss: Any, scheduler: Any, metrics: Any, scheduler_by: Any) -> None:
    """Refuse what is often given by mistake."""
    for name, thing in (("loss", loss), ("scheduler", scheduler)):
        if isinstance(thing, type):
            raise TypeError(
                f"{name}={thing.__name__} is a class, expected an instance or a function: write {thing.__name__}(...), "
                "or for a scheduler lambda optimizer, totals: ..."
            )
    if loss is not None and not callable(loss):
        raise TypeError(f"loss={loss!r}: expected a function of (predictions, targets), such as nn.MSELoss()")
    if scheduler is not None and not callable(scheduler) and not hasattr(scheduler, "step"):
        raise TypeError(
            f"scheduler={scheduler!r}: expected a function that makes one: lambda optimizer, totals: OneCycleLR(optimizer, ...)"
        )
    names = isinstance(metrics, list | tuple) and all(isinstance(name, str) for name in metrics)
    if metrics is not None and not hasattr(metrics, "items") and not names:
        raise TypeError(
            f"metrics={metrics!r}: expected functions by name, such as {{'accuracy': accuracy}}, or names, ['accuracy']"
        )
    classes = (
        [one for one in dict(metrics).values() if isinstance(one, type)] if hasattr(metrics, "items") else []
    )
    if classes:
        raise TypeError(
            f"metrics holds the class {classes[0].__name__}, expected an instance or a function: write {classes[0].__name__}(...)"
        )
    if scheduler_by not in {None, "updates", "batches", "epochs", "validations"}:
        raise ValueError(
            f"scheduler_by={scheduler_by!r}: expected 'updates', 'batches', 'epochs' or 'validations'"
        )


def described(thing: Any) -> Any:
    """How a loss or a scheduler was made: its class, its plain public attributes, the shapes of its state.

    Left out are counters, and the number of steps, which more epochs may change.
    """
    if not isinstance(thing, nn.Module | LRScheduler | ReduceLROnPlateau):
        return name_of(thing)
    plain = {
        name: value
        for name, value in vars(thing).items()
        if isinstance(value, bool | int | float | str | list | tuple | dict)
        and not name.startswith("_")
        and name not in COUNTERS
    }
    state = {
        name: list(value.shape)
        for name, value in thing.state_dict().items()
        if isinstance(value, torch.Tensor)
    }
    return {"class": type(thing).__name__, **plain, "state": state}


def plain_model(model: nn.Module) -> nn.Module:
    """The model itself, of one that `torch.compile` gave."""
    plain = getattr(model, "_orig_mod", model)
    return plain if isinstance(plain, nn.Module) else model


def accepted(optimizer: Optimizer) -> None:
    """See that each group says by how much its rate is multiplied; a state of before there was such a thing does not."""
    for group in optimizer.param_groups:
        group.setdefault("lr_scale", 1.0)


def check_optimizer(model: nn.Module, optimizer: Optimizer) -> None:
    """Refuse an optimizer that does not go with the model."""
    known = {id(p) for p in model.parameters()}
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(id(p) in known for p in held):
        raise ValueError(
            f"the optimizer {type(optimizer).__name__} holds {len(held)} parameters and none of them is of the model "
            f"{type(model).__name__}: make it with {type(optimizer).__name__}(model.parameters(), ...), from the model "
            "that is given here"
        )
