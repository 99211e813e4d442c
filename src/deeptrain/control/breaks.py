"""Breakpoints: conditions on figures, gradients and the state, at which a run pauses with its state whole."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from deeptrain.control.expression import Expression, parse
from deeptrain.state import tree

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deeptrain.trainer import Trainer

GRADIENT = ".grad"


class Met(NamedTuple):
    """A breakpoint that was met.

    Attributes:
        words: Which, in words.
        outside: Whether another process set it.
    """

    words: str
    outside: bool


class Breaks:
    """The breakpoints of one trainer. They pause and change nothing, and so are no part of the state.

    Attributes:
        conditions: Those that are set.
        outside: The texts of those that another process set.
    """

    def __init__(self) -> None:
        self.conditions: list[Expression] = []
        self.outside: set[str] = set()
        self._norms: dict[str, list[float]] = {}

    def add(self, trainer: Trainer, text: str, *, outside: bool = False) -> Expression:
        """Set a breakpoint.

        Args:
            trainer: Whose figures and values it asks for.
            text: The condition.
            outside: Whether another process sets it.

        Raises:
            ValueError: It is no condition, or names what there is not.
        """
        condition = parse(text)
        for name in condition.names:
            if name.endswith(GRADIENT):
                gradients(trainer, name)
            elif name.startswith("train.") and len(trainer.history) and name not in trainer.history:
                known = [figure for figure in trainer.history if figure.startswith("train.")]
                raise ValueError(f"{name}: there is no such figure; there are {known}")
            elif name.startswith("val."):
                _refuse_unknown(name, trainer)
            elif name.split(".")[0] not in {"train", "val"}:
                tree.get(trainer.state_dict(), name)
        self.conditions.append(condition)
        if outside:
            self.outside.add(condition.text)
        return condition

    def remove(self, text: str | None = None) -> None:
        """Remove a breakpoint by its text; all of them where none is given.

        Raises:
            ValueError: There is no such breakpoint; the message lists those that there are.
        """
        left = [] if text is None else [known for known in self.conditions if known.text != text.strip()]
        if text is not None and len(left) == len(self.conditions):
            raise ValueError(f"no breakpoint {text!r}: there are {[known.text for known in self.conditions]}")
        self.conditions = left
        self.outside &= {known.text for known in left}

    def look_at_gradients(self, trainer: Trainer) -> None:
        """Note the gradients' norms that conditions ask for: after the commit there are no gradients."""
        asked = {name for known in self.conditions for name in known.names if name.endswith(GRADIENT)}
        self._norms = {name: gradients(trainer, name) for name in asked}

    def met(self, trainer: Trainer, figures: Mapping[str, Any]) -> Met | None:
        """The first condition that holds after an iteration; None where none does.

        One that another process set, and that asks for what there is not, is removed: it must not end the run.
        """

        def lookup(name: str) -> Sequence[float]:
            return self._values(trainer, figures, name)

        for known in list(self.conditions):
            outside = known.text in self.outside
            try:
                if known.holds(lookup):
                    return Met(f"the breakpoint {known.text!r} was met", outside)
            except (KeyError, ValueError) as error:
                if not outside:
                    raise
                self.remove(known.text)
                trainer.display.say(f"the breakpoint {known.text!r} of another process is removed: {error}")
        return None

    def _values(self, trainer: Trainer, figures: Mapping[str, Any], name: str) -> Sequence[float]:
        if name in self._norms:
            return self._norms[name]
        first, _, rest = name.partition(".")
        if first == "train":
            if rest not in figures:
                raise ValueError(
                    f"a breakpoint asks for {name}: the figures are {['train.' + known for known in figures]}"
                )
            return [float(figures[rest])]
        if first == "val":
            last = trainer.history.last(name)
            return [] if last is None else [last]
        found = trainer.get(name)
        return [_number(leaf) for _, leaf in tree.walk(found)]


def _refuse_unknown(name: str, trainer: Trainer) -> None:
    validation = trainer.judging.validation
    known = [] if validation is None else [f"val.{figure}" for figure in validation.names()]
    if name not in known:
        raise ValueError(
            f"{name}: there is no such figure; there are {', '.join(known) or 'none of a validation'}"
        )


def gradients(trainer: Trainer, pattern: str) -> list[float]:
    """The norms of the gradients of the parameters at a path that ends in `.grad`; of those that have one.

    Raises:
        KeyError: There is no parameter at the path; the message names similar ones.
    """
    found = tree.get(trainer.learner.state_dict(), pattern.removesuffix(GRADIENT))
    by_memory = {p.data_ptr(): p for module in trainer.learner.modules() for p in module.parameters()}
    leaves = [leaf for _, leaf in tree.walk(found) if isinstance(leaf, torch.Tensor)]
    parameters = [by_memory[leaf.data_ptr()] for leaf in leaves if leaf.data_ptr() in by_memory]
    if not parameters:
        raise ValueError(
            f"{pattern}: there is a value and no parameter; expected for instance 'model.*.grad'"
        )
    return [float(p.grad.norm()) for p in parameters if p.grad is not None]


def _number(leaf: Any) -> float:
    """A value as one number: a tensor's norm."""
    if isinstance(leaf, torch.Tensor):
        return float(leaf.double().norm()) if leaf.numel() != 1 else float(leaf)
    return float(leaf) if isinstance(leaf, int | float) else math.nan
