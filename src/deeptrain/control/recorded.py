"""What a journal has of changes that were asked for: where each was made, and which are to be made again."""

from __future__ import annotations

import math
from contextlib import closing
from typing import TYPE_CHECKING, Any

from deeptrain.control.changes import as_plain
from deeptrain.control.journal import is_news, read_backwards

if TYPE_CHECKING:
    from pathlib import Path

    from deeptrain.state.progress import Task
    from deeptrain.trainer import Trainer

RECORDED = {"prompt", "process"}  # origins that only the journal can bring back


def recorded(journal: Path, after: int, origins: set[str]) -> dict[tuple[str, int], dict[str, Any] | None]:
    """The changes of some origins that a journal has since an iteration, on the present line of history.

    By origin and number; None for one that was not made.

    It is read from its end to that iteration's line, so that the cost does not grow with the run.
    """
    found: list[dict[str, Any]] = []
    left = math.inf  # what was changed from there on lies on a branch that was left
    with closing(read_backwards(journal)) as entries:
        for _, entry in entries:
            if entry.get("kind") == "branch":
                left = min(left, int(entry["at"]))
            elif _is_of(entry, origins) and int(entry.get("at", 0)) < left:
                found.append(entry)
            # What was changed before a load is in the state that was loaded, or was left behind.
            elif (entry.get("kind") == "load" and not entry.get("part")) or (
                is_news(entry) and int(entry["at"]) <= after
            ):
                break
    known: dict[tuple[str, int], dict[str, Any] | None] = {}
    for entry in reversed(found):
        key = str(entry["origin"]), int(entry["number"])
        known[key] = entry if entry["kind"] == "intervention" else None
    return known


def _is_of(entry: dict[str, Any], origins: set[str]) -> bool:
    """Whether a line tells that a change was asked for, or was rejected; not that it was made again."""
    kinds = {"intervention", "rejected"}
    return entry.get("origin") in origins and entry.get("kind") in kinds and "number" in entry


def place_in(trainer: Trainer) -> list[Any]:
    """Where a run stands. Checkpoints that are pending do not count: they may come by the clock.

    How much is pending is not enough: a handler that asks for a validation leaves as much behind as there was before it.
    """
    progress = trainer.progress
    pending = [task for task in progress.pending if task.kind != "checkpoint"]
    first = "" if not pending else _in_words(pending[0])
    done = [progress.train.iterations, progress.validation.passes, progress.validation.batches]
    return [*done, len(pending), first]


def _in_words(task: Task) -> str:
    return (
        f"{task.kind} {task.callback}" if task.event is None else f"on_{task.event.name} of {task.callback}"
    )


def shown(value: Any) -> Any:
    """A value as a line has it that is not made again from there: a large one by its shape."""
    try:
        return as_plain(value)
    except ValueError:
        return f"{tuple(value.shape)} values"
