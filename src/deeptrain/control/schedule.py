"""`Schedule`: functions of the user's that are called when the run comes to a point.

The script registers them anew each time it is run, and they are told apart by their numbers. A commit that comes to a
point puts its function's label on the list of what is pending, which is saved; so the state says what is still to be
called, and needs to know nothing of what is not due yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from deeptrain.state.cadence import At
from deeptrain.state.progress import Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deeptrain.state.progress import TrainCount
    from deeptrain.trainer import Trainer


@dataclass(slots=True)
class Entry:
    """One registered function.

    Attributes:
        label: Its number, its name and its point, by which the state knows it.
        counter: The counter that is looked at.
        count: What that must have come to.
        fn: The function; None where it was removed.
    """

    label: str
    counter: str
    count: int
    fn: Callable[[Trainer], object] | None

    def is_due(self, done: TrainCount, moved: Sequence[str], passed: int) -> bool:
        """Whether the commit that moved these counters, that of the batches by `passed`, came to the point or past it."""
        step = passed if self.counter == "batches" else 1
        beyond: int = getattr(done, self.counter) - self.count
        return self.fn is not None and self.counter in moved and 0 <= beyond < step


class Schedule:
    """The scheduled interventions of one trainer.

    Attributes:
        entries: All that were registered, by their numbers.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.entries: list[Entry] = []
        self._trainer = trainer

    def __repr__(self) -> str:
        return f"Schedule({[entry.label for entry in self.entries if entry.fn is not None]})"

    # ------------------------------------------------------------------ registering

    def register(self, point: At, fn: Callable[[Trainer], object]) -> str:
        """Have a function called at a point. See `Trainer.at`."""
        if not isinstance(point, At):
            raise TypeError(f"at({point!r}, ...): expected a point of the run, such as dt.At(epoch=5)")
        if not callable(fn):
            raise TypeError(f"at({point!r}, {fn!r}): expected a function of the trainer")
        self._refuse_running(f"trainer.at({point!r}, ...)")
        number, (counter, count) = len(self.entries), point.target
        entry = Entry(f"{number} {_name(fn)} {point!r}", counter, count, fn)
        waiting = self._pending(number)
        if waiting is not None:
            _refuse_another(waiting.callback, entry.label)
        self.entries.append(entry)
        at = self._trainer.progress.train.iterations
        self._trainer.run.note("registered", at=at, scheduled=entry.label)
        if waiting is not None:
            return f"scheduled as {entry.label}, whose point has come: it is called next"
        if getattr(self._trainer.progress.train, counter) >= count:
            return f"{point!r} is behind the run, which stands at iteration {at}: {entry.label} is not called"
        return f"scheduled as {entry.label}"

    def remove(self, number: int) -> str:
        """Remove a function by its number; one whose point has come is not called any more either.

        Returns:
            What was removed, in words.

        Raises:
            ValueError: There is none of that number; the message lists those that there are.
            RuntimeError: The trainer runs.
        """
        self._refuse_running(f"trainer.schedule.remove({number!r})")
        entry, waiting = self._entry(number), self._pending(number)
        if entry is None and waiting is None:
            raise ValueError(f"no scheduled function of number {number!r}: there is {self!r}")
        label = waiting.callback if entry is None and waiting is not None else self.entries[number].label
        if entry is not None:
            entry.fn = None  # its number stays taken, so that those behind it keep theirs
        if waiting is not None:
            self._trainer.progress.pending.remove(waiting)
        self._trainer.run.journal("unregistered", at=self._trainer.progress.train.iterations, scheduled=label)
        return f"removed {label}"

    def _entry(self, number: int) -> Entry | None:
        """The function of a number; None where there is none, or it was removed."""
        known = 0 <= number < len(self.entries) and self.entries[number].fn is not None
        return self.entries[number] if known else None

    def _pending(self, number: int) -> Task | None:
        """The task that waits for the function of a number."""
        tasks = (task for task in self._trainer.progress.pending if task.kind == "scheduled")
        return next((task for task in tasks if _number(task) == number), None)

    def _refuse_running(self, call: str) -> None:
        trainer = self._trainer
        if trainer.delivery.handling is not None or trainer.interrupts.running:
            raise RuntimeError(
                f"{call} was called while the trainer runs: a script that is run again would not come by there again once "
                "the run is behind it; call it between two fit(), best right after the trainer is made"
            )

    # ------------------------------------------------------------------ the loop's side

    def put_between(
        self, tasks: list[Task], done: TrainCount, moved: Sequence[str], passed: int
    ) -> list[Task]:
        """What a commit left to be done with the functions that are due in their place: before a checkpoint."""
        known = [entry for entry in self.entries if entry.is_due(done, moved, passed)]
        due = [Task("scheduled", callback=entry.label) for entry in known]
        before = [task for task in tasks if task.kind != "checkpoint"]
        return [*before, *due, *tasks[len(before) :]]

    def awaits_registration(self, pending: Sequence[Task]) -> bool:
        """Whether the function that is called next was not registered yet in this process: the script may be about to."""
        return bool(pending) and pending[0].kind == "scheduled" and _number(pending[0]) >= len(self.entries)

    def deliver(self, task: Task) -> None:
        """Call the function that a task waits for.

        Raises:
            RuntimeError: It is not registered, or another one is under its number.
        """
        trainer, entry = self._trainer, self._entry(_number(task))
        if entry is None:
            _refuse_missing(task)
        _refuse_another(task.callback, entry.label)
        assert entry.fn is not None
        trainer.delivery.call_abortably(entry.label, partial(entry.fn, trainer), None, _nothing)
        at = trainer.progress.train.iterations
        trainer.run.note("scheduled", at=at, scheduled=entry.label)
        trainer.delivery.end()


def _nothing() -> None:
    pass


def _name(fn: Callable[..., object]) -> str:
    """How a function is called; without spaces, which separate a label's parts."""
    return str(getattr(fn, "__qualname__", type(fn).__qualname__)).replace(" ", "_")


def _number(task: Task) -> int:
    return int(task.callback.partition(" ")[0])


def _refuse_missing(task: Task) -> NoReturn:
    raise RuntimeError(
        f"the run waits at the point of the scheduled function {task.callback!r} (number, name, point), and no function is "
        "registered under this number: register it with trainer.at(...) before fit(), in the same order as before, or take it "
        f"off with trainer.schedule.remove({_number(task)})"
    )


def _refuse_another(waiting: str, found: str) -> None:
    if waiting != found:
        raise RuntimeError(
            f"the run waits at the point of the scheduled function {waiting!r} (number, name, point), found {found!r}: let the "
            "script make the same calls of trainer.at in the same order, or take the old one off with "
            f"trainer.schedule.remove({waiting.partition(' ')[0]})"
        )
