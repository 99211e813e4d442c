"""`Change`: something that is asked of a run, in plain values, and what makes it."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from deeptrain.control.changes import prepare, prepare_edit
from deeptrain.control.rewinding import Rewind
from deeptrain.data.loader import BatchLoader
from deeptrain.state.progress import Phase, Task

if TYPE_CHECKING:
    from collections.abc import Callable

    from deeptrain.data.edits import Edit
    from deeptrain.trainer import Trainer

EDITS = {
    "batch_size": "set_batch_size"
}  # what the loader's methods are called, where they are not called as the edits are
_TASKS: dict[str, Literal["validation", "checkpoint", "finish"]] = {
    "validation": "validation",
    "checkpoint": "checkpoint",
    "stop": "finish",
}


@dataclass(frozen=True, slots=True)
class Change:
    """Something that is asked for.

    Attributes:
        verb: "set", "edit", "rewind", "validation", "checkpoint" or "stop".
        path: What to set, or the kind of an edit of the order.
        value: To which value; or the edit, or where to go back to, as plain values.
    """

    verb: str
    path: str = ""
    value: Any = None

    def __str__(self) -> str:
        if self.verb == "edit":
            named = ", ".join(
                f"{name}={value!r}" for name, value in (self.value or {}).items() if name != "kind"
            )
            return f"train.{EDITS.get(self.path, self.path)}({named})"
        if self.verb in {"rewind", "load"}:
            return f"{self.verb}({self.path})"
        return f"set({self.path!r}, {self.value!r})" if self.verb == "set" else f"request_{self.verb}()"


class Call(NamedTuple):
    """One of a script's calls that are made once.

    Attributes:
        is_new: Whether it is to be made: not where the script runs again and the run has it.
        number: Its number among the script's calls; None where a person makes it.
    """

    is_new: bool
    number: int | None


def prepared(trainer: Trainer, change: Change) -> Callable[[], None]:
    """See that a change can be made, and give what makes it.

    Raises:
        KeyError, ValueError, TypeError: It cannot.
    """
    pending, phase = trainer.progress.pending, trainer.progress.phase
    if change.verb == "rewind":
        Rewind(trainer, change.value)
        return _nothing
    if phase is Phase.DONE and change.verb not in {"set", "edit"}:
        raise ValueError(f"trainer.{change}: the run is done, and nothing follows")
    in_handler = (
        trainer.delivery.handling is not None
    )  # which may edit the order that is trained on, and set nothing
    if phase is Phase.VALIDATE and (change.verb == "set" or (change.verb == "edit" and not in_handler)):
        raise ValueError(
            f"trainer.{change}: a validation is under way, which would be of two states: change it when it is through "
            "(in on_val_end)"
        )
    if change.verb == "edit":
        return prepare_edit(trainer, change.value)
    if change.verb == "set":
        return prepare(trainer, change.path, change.value)
    if change.verb not in _TASKS:
        raise ValueError(f"found the request {change.verb!r}, expected set, {', '.join(_TASKS)}")
    if change.verb == "validation":
        trainer.judging.require()
    return lambda: pending.append(Task(_TASKS[change.verb]))


def _nothing() -> None:
    pass


def steer_edits(trainer: Trainer) -> None:
    """Have every edit of the train loader's order go through the trainer that it feeds, into its record.

    The loader does not keep the trainer alive, and an edit of one that feeds no trainer any more is made as it always is.
    """
    owner = weakref.ref(trainer)

    def steered(loader: BatchLoader, edit: Edit) -> bool:
        trainer = owner()
        if trainer is None or trainer.train is not loader or trainer.run.taken_over:
            return False
        trainer.steering.ask(trainer, Change("edit", edit.kind, edit.as_plain()))
        return True

    if isinstance(trainer.train, BatchLoader):
        trainer.train.steered = steered
