"""`Steering`: what is asked of a run from outside its loop, each change made once and in the record.

Where a call comes from decides how it comes back after a crash:

    callback    made again by the handler, when the iterations are computed again; made when the handler has returned,
                so that one which is aborted, or saved in its middle, has changed nothing
    script      made again by the script; a call that the restored state has already is counted and does nothing
    prompt      a person, or another thread: written to the journal and brought to the disk before it is made, and made
                again from there
    process     another process, see `Commands`: likewise

Changes from other threads wait for the next safe point. Where a change was made is written as its place: the counts of
iterations and of validation, how much was pending, and what came first. An untouched run comes through each place once.
"""

from __future__ import annotations

import contextlib
import math
import threading
import warnings
import weakref
from collections import deque
from concurrent.futures import Future
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from deeptrain.control.changes import as_plain, prepare, prepare_edit
from deeptrain.control.interrupt import is_interactive
from deeptrain.control.journal import is_news, read_backwards
from deeptrain.control.rewinding import Rewind
from deeptrain.data.loader import BatchLoader
from deeptrain.state.progress import Phase, Task, check_version
from deeptrain.state.tree import VOLATILE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deeptrain.data.edits import Edit
    from deeptrain.trainer import Trainer

VERSION = 2
RECORDED = {"prompt", "process"}  # origins that only the journal can bring back
_EDITS = {
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
            return f"train.{_EDITS.get(self.path, self.path)}({named})"
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


class Steering:
    """What is asked of one trainer.

    Attributes:
        waiting: Whether something waits for a safe point.
    """

    def __init__(self) -> None:
        self.waiting = False
        self._asked: deque[tuple[Change, Future[str]]] = deque()
        self._again: deque[dict[str, Any]] = deque()
        self._of_handler: list[tuple[Change, Rewind | None]] = []
        # What a script's changes were that the run has seen: verb and path, and of a rewind the counts at which it was made.
        self._script: list[list[Any]] = []
        self._prompt: list[int] = []  # which numbers a person's had
        self._next = 0  # number of a person's next change in the journal
        self._resumed_at, self._to_pass = -1, 0
        self._retracing = self._unrecorded = False

    # ------------------------------------------------------------------ the state

    def state_dict(self) -> dict[str, Any]:
        """Which changes the run has seen: a script's by what they were, and a person's by their numbers.

        It tells how a run came to where it is, and not where it is: no part of the digest.
        """
        seen = {"script": [list(change) for change in self._script], "prompt": list(self._prompt)}
        return {"version": VERSION, VOLATILE: seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over saved counts."""
        check_version("Steering", state, VERSION)
        self._script = [list(change) for change in state[VOLATILE]["script"]]
        self._prompt = list(state[VOLATILE]["prompt"])
        self._again.clear()
        self.waiting = bool(self._asked)

    def forget(self) -> None:
        """The run begins with the state of another one, whose calls were made by another script."""
        self._script, self._prompt = [], []

    @property
    def made(self) -> tuple[int, int]:
        """How many changes the state has seen: of the script, and of people."""
        return len(self._script), len(self._prompt)

    def resume(self, trainer: Trainer) -> None:
        """After a run was found: what the script will ask for again, and what the journal has that the state has not."""
        self._resumed_at, self._to_pass = trainer.progress.train.iterations, len(self._script)
        if trainer.run.path is None:
            return
        travel = trainer.run.travel
        if travel is not None and not travel.interventions:
            return
        journal = trainer.run.path / "journal.jsonl" if travel is None else travel.journal
        recorded = _recorded(journal, self._resumed_at, RECORDED)
        self._next = max([-1, *self._prompt, *(number for _, number in recorded)]) + 1
        self._make_again(recorded)

    def retrace(self, trainer: Trainer) -> None:
        """Before a run goes over ground that it knows: what people and the script changed there is to be changed again."""
        assert trainer.run.path is not None
        after = trainer.progress.train.iterations
        self._make_again(_recorded(trainer.run.path / "journal.jsonl", after, {*RECORDED, "script"}))

    def _make_again(self, recorded: dict[tuple[str, int], dict[str, Any] | None]) -> None:
        again = [entry for key, entry in recorded.items() if entry is not None and not self._has_seen(*key)]
        self._again = deque(sorted(again, key=lambda entry: (entry["place"][0], entry["seq"])))
        self.waiting = bool(self._again or self._asked)

    def _has_seen(self, origin: str, number: int) -> bool:
        return number < len(self._script) if origin == "script" else number in self._prompt

    def has_been_at(self, trainer: Trainer, counter: str, count: int) -> bool:
        """Whether a script that runs again asks for a point that it had come to, before it went back behind it."""
        if trainer.progress.train.iterations != self._resumed_at:
            return False
        outstanding = self._script[len(self._script) - self._to_pass :] if self._to_pass else []
        return any(made[2].get(counter, 0) >= count for made in outstanding if len(made) > 2)  # noqa: PLR2004

    # ------------------------------------------------------------------ asking

    def ask(self, trainer: Trainer, change: Change) -> str:
        """Make a change now where nothing runs or a handler asks; else at the next safe point.

        Returns:
            What became of it, in words.

        Raises:
            KeyError, ValueError, TypeError: It cannot be made, and nothing was changed.
            RuntimeError: It was asked for in the middle of a computation.
        """
        foreign = threading.get_ident() != trainer.interrupts.thread
        if self._unrecorded and not foreign and trainer.handling is None:
            self._verbs(trainer, change)()
            return "made for the trial"
        if foreign:
            return self._ask_from_elsewhere(trainer, change)
        if trainer.handling is not None:
            return self._of_a_handler(trainer, change)
        if trainer.interrupts.running:
            raise RuntimeError(
                f"trainer.{change} was called in the middle of a computation, which may be repeated: call it in a "
                "callback's handler, between two fit(), or from another thread"
            )
        with trainer.interrupts.resting:
            person = is_interactive()
            if not person and change.verb != "checkpoint" and self._is_made_already(trainer, change):
                return f"made before: the run that goes on here has it (trainer.{change})"
            return self.make(trainer, change, "prompt" if person else "script")

    def _ask_from_elsewhere(self, trainer: Trainer, change: Change) -> str:
        """Make a change of another thread now where nothing runs, else leave it for the next safe point and wait."""
        with trainer.interrupts.resting:  # the trainer does not begin to run in here
            if not trainer.interrupts.running:
                return self.make(trainer, change, "prompt")
            future: Future[str] = Future()
            self._asked.append((change, future))
            self.waiting = True
        return future.result()

    def _of_a_handler(self, trainer: Trainer, change: Change) -> str:
        make = self._verbs(trainer, change)  # what cannot be made is the handler's error
        back = Rewind(trainer, change.value) if change.verb == "rewind" else None
        self._of_handler.append((change, back))
        if back is not None:
            back.keep_tip()  # as of a state in which the handler was not called yet: after a crash it asks again
        # The handler may go on by the new order; where it is aborted, the old one is put back.
        if change.verb == "edit":
            make()
            return "made"
        return "will be made when the handler has returned"

    @contextlib.contextmanager
    def unrecorded(self) -> Iterator[None]:
        """Around a trial: what is asked for is made, and is no part of the record."""
        self._unrecorded = True
        try:
            yield
        finally:
            self._unrecorded = False

    @contextlib.contextmanager
    def once(self, trainer: Trainer, change: Change) -> Iterator[Call]:
        """Around what a script does once, however often it is run again: a load, a fork, a trial.

        The calls that were made before are known behind it too, whatever state it leads to, and this one among them.

        Raises:
            RuntimeError: The trainer runs.
        """
        if trainer.interrupts.running and trainer.handling is None:
            raise RuntimeError(
                f"trainer.{change} was called while the trainer runs: pause it first, with trainer.pause()"
            )
        by_script = trainer.interrupts.thread == threading.get_ident() and not is_interactive()
        if by_script and self._is_made_already(trainer, change):
            yield Call(is_new=False, number=len(self._script) - self._to_pass - 1)
            return
        made = [change.verb, change.path, asdict(trainer.progress.train)]
        script, prompt = [*self._script, *([made] if by_script else [])], self._prompt
        yield Call(is_new=True, number=len(self._script) if by_script else None)
        self._script, self._prompt = script, prompt

    def _is_made_already(self, trainer: Trainer, change: Change) -> bool:
        """Whether a script's call is one that the restored state has: the run has not moved since, and has so many.

        Raises:
            RuntimeError: The call of that number was another one.
        """
        if trainer.progress.train.iterations != self._resumed_at or not self._to_pass:
            self._to_pass = 0
            return False
        number = len(self._script) - self._to_pass
        before = self._script[number]
        if before[:2] != [change.verb, change.path]:
            raise RuntimeError(
                f"the script's change number {number} was {Change(*before[:2])} when the run came here, and is {change} now: "
                'let the script make the same calls in the same order, or start anew with resume="new"'
            )
        self._to_pass -= 1
        return True

    # ------------------------------------------------------------------ making

    def take(self, trainer: Trainer) -> None:
        """Make what waits; called at a safe point. In the middle of a validation nothing new is."""
        while self._again and self._again[0]["place"] == _place(trainer):
            self._repeat(trainer, self._again.popleft())
        while self._again and self._again[0]["place"][0] < trainer.progress.train.iterations:
            self._pass_over(trainer, self._again.popleft())
        if not self._retracing:
            self._take_new(trainer)
        self.waiting = bool(self._again or self._asked or trainer.commands.active)

    def _take_new(self, trainer: Trainer) -> None:
        if not self._unrecorded:
            trainer.commands.take(trainer)
        if trainer.progress.phase is not Phase.VALIDATE and not self.repeats(trainer):
            self.answer(trainer)
        trainer.commands.hold(trainer)

    def repeats(self, trainer: Trainer) -> bool:
        """Whether the run computes again what a process that died had computed: what is new waits until that is through."""
        return bool(self._again) or trainer.progress.train.iterations < trainer.run.replay_until

    def will_repeat(self, identity: str) -> bool:
        """Whether a command of another process is to be made again."""
        return any(entry.get("id") == identity for entry in self._again)

    def answer(self, trainer: Trainer) -> None:
        """Make what other threads wait for."""
        while self._asked:
            change, future = self._asked.popleft()
            try:
                future.set_result(self.make(trainer, change, "prompt"))
            except Exception as error:  # noqa: BLE001 - it is the asker's, whatever it is
                future.set_exception(error)

    @staticmethod
    def _pass_over(trainer: Trainer, entry: dict[str, Any]) -> None:
        change = Change(str(entry["verb"]), str(entry["path"]), entry["value"])
        problem = "the process that trained died, and the run did not come through that place again"
        trainer.commands.repeated(trainer, entry, problem)
        warnings.warn(
            f"trainer.{change} was made at iteration {entry['at']} before the process died, and the run that goes on did not "
            "come through that place again: it is not made, so the run is another one from there on",
            stacklevel=4,
        )

    def settle(self, trainer: Trainer) -> None:
        """The trainer has come to rest: what is recorded for this place is made, and nobody is left waiting."""
        with trainer.interrupts.resting:
            if self.waiting:
                self.take(trainer)
                self.answer(trainer)
                trainer.commands.pay(trainer, "the run rests")

    def end_handler(self, trainer: Trainer) -> None:
        """A handler has returned: make what it asked for."""
        changes, self._of_handler = self._of_handler, []
        for change, back in changes:
            if change.verb == "edit":
                self._record(trainer, change, "callback")
            elif back is not None:
                self._go_back(trainer, change, "callback", back)
            else:
                self.make(trainer, change, "callback")

    def forget_handler(self) -> None:
        """A handler did not come to its end: it asked for nothing."""
        self._of_handler = []

    def _repeat(self, trainer: Trainer, entry: dict[str, Any]) -> None:
        """Make a change again that the journal has and the restored state has not.

        One that cannot be made is no reason to stop: the process may have died before it could write that it was rejected.
        """
        change, origin = Change(str(entry["verb"]), str(entry["path"]), entry["value"]), str(entry["origin"])
        trainer.run.note("again", at=trainer.progress.train.iterations, number=entry["number"], origin=origin)
        if change.verb == "rewind":
            back = Rewind(trainer, change.value)
            back.keep_tip()
            self._travel(trainer, back, origin, int(entry["number"]))
            return
        if origin == "script":
            self._script.append([change.verb, change.path])
        else:
            self._prompt.append(int(entry["number"]))
        try:
            self._verbs(trainer, change)()
        except Exception as error:  # noqa: BLE001 - whatever a part has against a value
            trainer.run.note("rejected", number=entry["number"], origin=origin)
            trainer.commands.repeated(trainer, entry, str(error))
            warnings.warn(f"trainer.{change} of the journal could not be made again: {error}", stacklevel=4)
            return
        trainer.commands.repeated(trainer, entry)

    def make(self, trainer: Trainer, change: Change, origin: str, **more: Any) -> str:
        """Make a change here, after writing it down.

        Args:
            trainer: Whose state it is.
            change: What is asked for.
            origin: Where from, see above.
            more: What else its line in the journal is to have.

        Returns:
            What became of it, in words.

        Raises:
            KeyError, ValueError, TypeError: It cannot be made, and nothing was changed.
        """
        if change.verb == "rewind":
            back = Rewind(trainer, change.value)
            back.keep_tip()
            return self._go_back(trainer, change, origin, back)
        make, at = self._verbs(trainer, change), trainer.progress.train.iterations
        if change.verb == "checkpoint":  # which changes nothing of the training
            make()
            return f"made at iteration {at}"
        number = self._record(trainer, change, origin, **more)
        try:
            make()
        except BaseException:
            trainer.run.note("rejected", number=number, origin=origin)
            raise
        if trainer.progress.phase is Phase.DONE:
            trainer.run.save(trainer)  # nothing else would
        return f"made at iteration {at}"

    def _go_back(self, trainer: Trainer, change: Change, origin: str, back: Rewind) -> str:
        """Go back, with a line in the record before and one behind."""
        number = self._record(trainer, change, origin)
        try:
            return self._travel(trainer, back, origin, number)
        except BaseException:
            trainer.run.note("rejected", number=number, origin=origin)
            raise

    def _travel(self, trainer: Trainer, back: Rewind, origin: str, number: int | None) -> str:
        """Go back. Which calls were made before is known behind it too: they are not made again, though the state is older."""
        script, prompt = (
            self._script,
            [*self._prompt, *([] if number is None or origin == "script" else [number])],
        )
        running = contextlib.nullcontext() if trainer.interrupts.running else trainer.interrupts
        with running:
            self._retracing = True
            try:
                back.travel()
                self._script, self._prompt = script, prompt
                self._again.clear()
                self._retracing = False
                return back.arrive(origin=origin, number=number)
            except BaseException:
                back.undo()
                raise
            finally:
                self._retracing, self.waiting = False, bool(self._asked)

    def _record(self, trainer: Trainer, change: Change, origin: str, **more: Any) -> int | None:
        """Write a change down before it is made, with its number among those of its origin.

        One that only the journal can bring back is on the disk then.
        """
        value = as_plain(change.value) if origin in RECORDED else _shown(change.value)
        at, place = trainer.progress.train.iterations, _place(trainer)
        entry = {
            "at": at,
            "place": place,
            "origin": origin,
            "verb": change.verb,
            "path": change.path,
            "value": value,
            **more,
        }
        if origin == "callback":
            trainer.run.note("intervention", **entry)
            return None
        if origin not in RECORDED:
            trainer.run.journal("intervention", number=len(self._script), **entry)
            made = [asdict(trainer.progress.train)] if change.verb == "rewind" else []
            self._script.append([change.verb, change.path, *made])
            return len(self._script) - 1
        number, self._next = self._next, self._next + 1
        try:
            trainer.run.journal("intervention", durable=True, number=number, **entry)
        except OSError:  # nobody knows whether the line is on the disk
            trainer.run.note("rejected", number=number, origin=origin)
            raise
        self._prompt.append(number)
        return number

    @staticmethod
    def _verbs(trainer: Trainer, change: Change) -> Callable[[], None]:
        """See that a change can be made, and give what makes it."""
        pending, phase = trainer.progress.pending, trainer.progress.phase
        if change.verb == "rewind":
            Rewind(trainer, change.value)
            return _nothing
        if phase is Phase.DONE and change.verb not in {"set", "edit"}:
            raise ValueError(f"trainer.{change}: the run is done, and nothing follows")
        in_handler = (
            trainer.handling is not None
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


def _nothing() -> None:
    pass


def _recorded(journal: Path, after: int, origins: set[str]) -> dict[tuple[str, int], dict[str, Any] | None]:
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
    recorded: dict[tuple[str, int], dict[str, Any] | None] = {}
    for entry in reversed(found):
        key = str(entry["origin"]), int(entry["number"])
        recorded[key] = entry if entry["kind"] == "intervention" else None
    return recorded


def _is_of(entry: dict[str, Any], origins: set[str]) -> bool:
    """Whether a line tells that a change was asked for, or was rejected; not that it was made again."""
    kinds = {"intervention", "rejected"}
    return entry.get("origin") in origins and entry.get("kind") in kinds and "number" in entry


def _place(trainer: Trainer) -> list[Any]:
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


def _shown(value: Any) -> Any:
    try:
        return as_plain(value)
    except ValueError:
        return f"{tuple(value.shape)} values"
