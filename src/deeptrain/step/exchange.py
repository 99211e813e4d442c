"""Other parts for a `SupervisedStep` in the middle of a run: loss, optimizer, scheduler.

A new schedule is made for the rest of the run, and for that a factory is told the rest's totals. They are part of the
state, so that a script which makes its step with the new parts from the start makes the same schedule again.
"""

from __future__ import annotations

import copy
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING, Any

from deeptrain.step.base import Totals
from deeptrain.step.parts import without_params

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deeptrain.step.supervised import SupervisedStep, Unit

PARTS = ("loss", "optimizer", "scheduler")


class AskedTotals(Totals):
    """Totals that note whether somebody looked at them: a schedule that did would be another one in another run."""

    asked = False

    @classmethod
    def of(cls, totals: Totals) -> AskedTotals:
        """The same totals."""
        return cls(*astuple(totals))

    def __getattribute__(self, name: str) -> Any:
        if name in _TOTALS:
            object.__setattr__(self, "asked", True)
        return super().__getattribute__(name)


_TOTALS = {each.name for each in fields(Totals)}


class _Kept:
    """Stands for a part that is not replaced, where None would remove it."""

    def __repr__(self) -> str:
        return "KEPT"


KEPT: Any = _Kept()


@dataclass(frozen=True, slots=True)
class Rest:
    """The totals of what was left of a run when a schedule was made.

    Attributes:
        iterations, batches, updates, epochs: See `Totals`.
        run_epochs: How many epochs the whole run then had.
    """

    iterations: int | None
    batches: int | None
    updates: int | None
    epochs: int
    run_epochs: int

    def of(self, whole: Totals) -> Totals:
        """The rest's totals in a run with these; more epochs than there were make the rest longer."""
        more = whole.epochs - self.run_epochs

        def longer(rest: int | None, total: int | None) -> int | None:
            return rest if rest is None or total is None else rest + total * more // whole.epochs

        return Totals(
            iterations=longer(self.iterations, whole.iterations),
            batches=longer(self.batches, whole.batches),
            updates=longer(self.updates, whole.updates),
            epochs=self.epochs + more,
        )


def exchange(
    step: SupervisedStep, parts: Mapping[str, Any], scheduler_by: Unit | None, whole: Totals, rest: Rest
) -> tuple[SupervisedStep, dict[str, Any]]:
    """A step with other parts, and its settings as a script would have them that makes it from the start.

    The step itself stays as it is; the groups of the optimizers do not, and are the caller's to put back on an error.

    Args:
        step: The step.
        parts: Those of `PARTS` that are new.
        scheduler_by: When a new scheduler steps; None for what its class suggests.
        whole: The totals of the run.
        rest: Those of what is left of it.

    Raises:
        TypeError, ValueError: They do not go with each other.
    """
    made = copy.copy(step)
    live, owned = without_params(step.optimizer), _owned(step.scheduler)
    made.take(parts, scheduler_by)
    _refuse_lost_parameters(step, made)
    if "scheduler" not in parts:
        return made, made.settings()
    if "optimizer" not in parts:
        made.reset_rates()
    made.prepare_rest(rest, whole)
    settings = made.settings()
    if "optimizer" not in parts:
        _keep_what_was_set(made, live, owned)
    return made, settings


def _owned(scheduler: Any) -> set[str]:
    """What a scheduler sets at each of its steps."""
    return {"lr"} | ({"momentum", "betas"} if getattr(scheduler, "cycle_momentum", False) else set())


def _keep_what_was_set(made: SupervisedStep, live: list[dict[str, Any]], owned: set[str]) -> None:
    """Under another schedule an optimizer keeps its values but those that a schedule decides; without one, those too."""
    for group, given, values in zip(made.optimizer.param_groups, made.as_given, live, strict=True):
        for key, value in values.items():
            scheduled = key in owned or group.get(key) != given.get(key)
            if key in given and not (made.scheduler is not None and scheduled):
                group[key] = value


def _refuse_lost_parameters(step: SupervisedStep, made: SupervisedStep) -> None:
    """Parameters of the old loss must not stay in the optimizer, where no state would hold their values."""
    gone = {id(p) for m in step.modules() for p in m.parameters()}
    gone -= {id(p) for m in made.modules() for p in m.parameters()}
    lost = sum(id(p) in gone for group in made.optimizer.param_groups for p in group["params"])
    if lost:
        raise ValueError(
            f"the optimizer {type(made.optimizer).__name__} holds {lost} parameters of the old loss, whose values no state "
            "would hold any more: give an optimizer too that does not"
        )
