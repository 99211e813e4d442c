"""`Unfreeze`: parameters that are trained only from a point of the run on."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from deeptrain.callbacks.base import Callback
from deeptrain.state.cadence import At

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from deeptrain.callbacks.base import Event
    from deeptrain.trainer import Trainer


class Unfreeze(Callback):
    """Freezes parameters at the run's beginning, and has them trained from given points on.

    They have to be in the optimizer from the start: it passes over a parameter that has no gradient, so that a frozen one
    is neither moved nor decayed, and its averages begin when it is trained. Which parameters are frozen is part of
    the model's state. Batch norm's buffers are no parameters: they go on following the data.

    Args:
        points: By patterns of parameters' names as `named_parameters` gives them: from when on they are trained. A pattern
            may have `*`, and stands for a whole module too: "encoder", "encoder.layer*", "*.bias". A parameter that several
            match is trained from the first point that comes.

    Raises:
        TypeError, ValueError: It is no such dict. At the start of training: a pattern matches nothing, or the optimizer
            has not what it matches.

    Example:
        >>> Unfreeze({"encoder.layer1": At(epoch=1), "encoder": At(epoch=3)}).done
        []

    Attributes:
        done: The patterns whose point has come.
    """

    def __init__(self, points: Mapping[str, At]) -> None:
        if not points or not hasattr(points, "items"):
            raise TypeError(
                f"Unfreeze({points!r}): expected points by patterns, such as {{'encoder': dt.At(epoch=1)}}"
            )
        for pattern, point in points.items():
            if not isinstance(point, At):
                raise TypeError(
                    f"Unfreeze({{{pattern!r}: {point!r}}}): expected a point of the run, such as dt.At(epoch=1)"
                )
        self.points = dict(points)
        self.done: list[str] = []

    def on_start(self, trainer: Trainer, event: Event) -> None:
        """See that the patterns stand for something that the optimizer has, before anything is trained."""
        del event
        names = _parameters(trainer)
        held = {
            id(p)
            for optimizer in trainer.learner.optimizers()
            for group in optimizer.param_groups
            for p in group["params"]
        }
        for pattern in self.points:
            found = _matching(names, pattern)
            if not found:
                raise ValueError(
                    f"Unfreeze: {pattern!r} matches none of the model's parameters{_near(names, pattern)}"
                )
            missing = [name for name, p in found.items() if id(p) not in held]
            if missing:
                raise ValueError(
                    f"Unfreeze: {pattern!r} matches {missing[0]}, which the optimizer does not have: make the optimizer with all "
                    "parameters, also those that are frozen at first; it passes over them"
                )

    def on_train_begin(self, trainer: Trainer, event: Event) -> None:
        """Freeze what is to be trained later."""
        names = _parameters(trainer)
        for pattern in self.points:
            for parameter in _matching(names, pattern).values():
                parameter.requires_grad_(False)
        self.on_train_iter_end(trainer, event)

    def on_train_iter_end(self, trainer: Trainer, event: Event) -> None:
        """Have trained what has come to its point. Made again, it changes nothing more."""
        del event
        for pattern, point in self.points.items():
            counter, count = point.target
            if pattern not in self.done and getattr(trainer.progress.train, counter) >= count:
                for parameter in _matching(_parameters(trainer), pattern).values():
                    parameter.requires_grad_(True)
                self.done.append(pattern)

    def state_dict(self) -> dict[str, Any]:
        """The patterns whose point has come."""
        return {"done": list(self.done)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them over; the model's own state has which parameters are frozen."""
        self.done = list(state["done"])


def _parameters(trainer: Trainer) -> dict[str, torch.nn.Parameter]:
    """The parameters of the step's modules by name; of two of one name the model's, which comes first."""
    found: dict[str, torch.nn.Parameter] = {}
    for module in trainer.learner.modules():
        for name, parameter in module.named_parameters(remove_duplicate=False):
            found.setdefault(name, parameter)
    return found


def _matching(names: Mapping[str, torch.nn.Parameter], pattern: str) -> dict[str, torch.nn.Parameter]:
    return {
        name: parameter
        for name, parameter in names.items()
        if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
    }


def _near(names: Mapping[str, Any], pattern: str) -> str:
    known = {
        ".".join(parts[:n]) for parts in (name.split(".") for name in names) for n in range(1, len(parts) + 1)
    }
    near = difflib.get_close_matches(pattern, sorted(known), n=3, cutoff=0.5)
    return f"; near it there are {', '.join(near)}" if near else f"; it has {', '.join(list(names)[:6])}"
