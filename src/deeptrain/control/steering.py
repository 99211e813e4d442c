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
import threading
import warnings
from collections import deque
from concurrent.futures import Future
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from deeptrain.control.change import Call, Change, prepared
from deeptrain.control.changes import as_plain
from deeptrain.control.interrupt import is_interactive
from deeptrain.control.recorded import RECORDED, place_in, recorded, shown
from deeptrain.control.rewinding import Rewind
from deeptrain.state.progress import Phase, check_version
from deeptrain.state.tree import VOLATILE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deeptrain.trainer import Trainer

VERSION = 2


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
        # What a script's changes were that the run has seen: verb, path, and the counts at which each was made.
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
        known = recorded(journal, self._resumed_at, RECORDED)
        self._next = max([-1, *self._prompt, *(number for _, number in known)]) + 1
        self._make_again(known)

    def retrace(self, trainer: Trainer) -> None:
        """Before a run goes over ground that it knows: what people and the script changed there is to be changed again."""
        assert trainer.run.path is not None
        after = trainer.progress.train.iterations
        self._make_again(recorded(trainer.run.path / "journal.jsonl", after, {*RECORDED, "script"}))

    def _make_again(self, known: dict[tuple[str, int], dict[str, Any] | None]) -> None:
        again = [entry for key, entry in known.items() if entry is not None and not self._has_seen(*key)]
        self._again = deque(sorted(again, key=lambda entry: (entry["place"][0], entry["seq"])))
        self.waiting = bool(self._again or self._asked)

    def _has_seen(self, origin: str, number: int) -> bool:
        return number < len(self._script) if origin == "script" else number in self._prompt

    def has_been_at(self, trainer: Trainer, counter: str, count: int) -> bool:
        """Whether a script that runs again asks for a point that it had come to, before it went back behind it; says so."""
        if trainer.progress.train.iterations != self._resumed_at:
            return False
        outstanding = self._script[len(self._script) - self._to_pass :] if self._to_pass else []
        behind = [
            made
            for made in outstanding
            if made[2].get(counter, 0) >= count > getattr(trainer.progress.train, counter)
        ]
        for verb, path, _ in behind[:1]:
            call = Change(verb, path)
            trainer.display.say(
                f"fit() is passed over: the run had come to there before the script's {call}, which it has and waits for; "
                'where the script does not make that call any more, Trainer(resume="new") starts anew'
            )
        return bool(behind)

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
        if self._unrecorded and not foreign and trainer.delivery.handling is None:
            if change.verb == "rewind":
                raise RuntimeError(
                    "trainer.rewind was called in a variant of a trial, which goes on from the state that it is given"
                )
            prepared(trainer, change)()
            return "made for the trial"
        if foreign:
            return self._ask_from_elsewhere(trainer, change)
        if trainer.delivery.handling is not None:
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
        goes_back = any(back is not None for _, back in self._of_handler)
        if goes_back and change.verb == "rewind":
            raise RuntimeError(
                f"trainer.{change}: the handler asked to go back before; once is all that a handler may"
            )
        # What cannot be made is the handler's error.
        if change.verb == "rewind":
            back = Rewind(trainer, change.value)
            self._of_handler.append((change, back))
            back.keep_tip()  # as of a state in which the handler was not called yet: after a crash it asks again
            return "will be made when the handler has returned"
        make = prepared(trainer, change)
        self._of_handler.append((change, None))
        # The handler may go on by the new order; where it is aborted, the old one is put back.
        if change.verb == "edit" and not goes_back:
            make()
            return "made"
        return "will be made when the handler has returned"

    @contextlib.contextmanager
    def unrecorded(self) -> Iterator[None]:
        """Around a trial: what is asked for is made, and is no part of the record; what waits goes on waiting."""
        again, self._again, self._unrecorded = self._again, deque(), True
        try:
            yield
        finally:
            self._again, self._unrecorded = again, False
            self.waiting = bool(again or self._asked)

    @contextlib.contextmanager
    def once(self, trainer: Trainer, change: Change) -> Iterator[Call]:
        """Around what a script does once, however often it is run again: a load, a fork, a trial.

        The calls that were made before are known behind it too, whatever state it leads to, and this one among them.

        Raises:
            RuntimeError: The trainer runs.
        """
        if self._unrecorded:
            yield Call(is_new=True, number=None)
            return
        if trainer.interrupts.running and trainer.delivery.handling is None:
            raise RuntimeError(
                f"trainer.{change} was called while the trainer runs: pause it first, with trainer.pause()"
            )
        by_script = trainer.interrupts.thread == threading.get_ident() and not is_interactive()
        if by_script and self._is_made_already(trainer, change):
            yield Call(is_new=False, number=len(self._script) - self._to_pass - 1)
            return
        made = [change.verb, change.path, asdict(trainer.progress.train)]
        script, prompt = [*self._script, *([made] if by_script else [])], self._prompt
        at, again = trainer.progress.train.iterations, self._again.copy()
        yield Call(is_new=True, number=len(self._script) if by_script else None)
        self._script, self._prompt = script, prompt
        if trainer.progress.train.iterations == at:  # what the journal has of later places is still to come
            self._again, self.waiting = again, bool(again or self._asked)

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
        while self._again and self._again[0]["place"] == place_in(trainer):
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
        for number, (change, back) in enumerate(changes):
            if change.verb == "edit":
                self._record(trainer, change, "callback")
            elif back is not None:
                # What it asked for after that is part of what the new branch begins with: nobody would ask for it again.
                then = [more for more, _ in changes[number + 1 :]]
                self._go_back(trainer, change, "callback", back, then)
                return
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
            self._script.append([change.verb, change.path, asdict(trainer.progress.train)])
        else:
            self._prompt.append(int(entry["number"]))
        try:
            prepared(trainer, change)()
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
        make, at = prepared(trainer, change), trainer.progress.train.iterations
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

    def _go_back(
        self, trainer: Trainer, change: Change, origin: str, back: Rewind, then: Sequence[Change] = ()
    ) -> str:
        """Go back, with a line in the record before and one behind."""
        number = self._record(trainer, change, origin)
        try:
            return self._travel(trainer, back, origin, number, then)
        except BaseException:
            trainer.run.note("rejected", number=number, origin=origin)
            raise

    def _travel(
        self, trainer: Trainer, back: Rewind, origin: str, number: int | None, then: Sequence[Change] = ()
    ) -> str:
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
                for change in then:
                    self._record(trainer, change, origin)
                    prepared(trainer, change)()
                if back.is_short and origin == "script":
                    self._script = script[
                        :-1
                    ]  # not made before the point is come to: a script that is run again makes it again
                told = back.arrive(origin=origin, number=number)
            except BaseException:
                back.undo()
                raise
            finally:
                self._retracing, self.waiting = False, bool(self._asked)
            if back.is_short:
                back.go_on(partial(setattr, self, "_script", script))
        return told

    def _record(self, trainer: Trainer, change: Change, origin: str, **more: Any) -> int | None:
        """Write a change down before it is made, with its number among those of its origin.

        One that only the journal can bring back is on the disk then.
        """
        value = as_plain(change.value) if origin in RECORDED else shown(change.value)
        at, place = trainer.progress.train.iterations, place_in(trainer)
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
            self._script.append([change.verb, change.path, asdict(trainer.progress.train)])
            return len(self._script) - 1
        number, self._next = self._next, self._next + 1
        try:
            trainer.run.journal("intervention", durable=True, number=number, **entry)
        except OSError:  # nobody knows whether the line is on the disk
            trainer.run.note("rejected", number=number, origin=origin)
            raise
        self._prompt.append(number)
        return number
