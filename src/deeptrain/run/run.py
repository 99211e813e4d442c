"""`Run`: a trainer's place on disk. It finds or makes the run, holds its lock, saves, and writes its record.

runs/M3__mnist/
    lock            held by the kernel for the process that trains
    record/         how each start was made: script, git, settings, environment
    journal.jsonl   a line for everything that happened
    history/        the figures, in segments that are only ever appended to
    inbox/          commands of other processes
    checkpoints/    000000, 000001, ...
"""

from __future__ import annotations

import os
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

from deeptrain.checkpoint.line import Line
from deeptrain.control.journal import Journal
from deeptrain.control.mailbox import NAME, SUPPORTED, Mailbox
from deeptrain.run import branches, detours, holding, leaving, replaced
from deeptrain.run.appraisal import Appraisal
from deeptrain.run.checkpointing import NEVER, Checkpointing
from deeptrain.run.directory import directory_of_runs
from deeptrain.run.journalling import Journalling
from deeptrain.run.loading import read_state
from deeptrain.run.proving import Proof
from deeptrain.run.restoring import check_same, restore
from deeptrain.run.resume import Found, find
from deeptrain.run.standing import Standing
from deeptrain.state.progress import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager
    from os import PathLike
    from pathlib import Path

    from deeptrain.control.interrupt import Interrupted
    from deeptrain.preferences import Unset
    from deeptrain.run.directory import RunDirectory
    from deeptrain.run.travel import Travel
    from deeptrain.trainer import Trainer


class Run:
    """A trainer's run; with `path` None it has no place on disk and everything here does nothing.

    Attributes:
        path: The run's directory, or None.
        directory: The same with its lock; None where there is no run, or it was closed.
        checkpoints: Its checkpoints; None likewise.
        journalling: Its journal, and the replay under way.
        mailbox: Where other processes leave commands; None likewise, and where there can be none.
        standing: What the run still has of the promise.
        line: The branch that it is on.
        replay_until: Up to which count of iterations a process that died had come before.
        appraisal: What the process is to judge in place of training, or None.
        travel: The point of another run that it is to come to, or None.
        proof: What `deeptrain prove` has it note, where that started the process.
        unsaved: The trainer, while it has something to save: a run that is done must not keep its model alive.
        process: Which process may save it; a child that was forked off may not.
        taken_over: Whether another trainer of this process has it now.
        closing: Called before it is closed.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self.directory: RunDirectory | None = None
        self.checkpoints: Checkpointing | None = None
        self.journalling = Journalling()
        self.mailbox: Mailbox | None = None
        self.standing = Standing()
        self.line = Line()
        self.replay_until = 0
        self.appraisal: Appraisal | None = None
        self.travel: Travel | None = None
        self.proof: Proof | None = None
        self.unsaved: Trainer | None = None
        self.process = os.getpid()
        self.taken_over = False
        self.closing: Callable[[], None] | None = None
        self._found: Found | None = None

    # ------------------------------------------------------------------ its beginning

    @classmethod
    def open(
        cls,
        trainer: Trainer,
        *,
        runs: str | PathLike[str] | Unset | None,
        name: str | None,
        resume: str | PathLike[str],
    ) -> Run:
        """Find the run that is to be continued or make a new one, and lock it."""
        run = cls()
        run.appraisal = Appraisal.asked_for(name)
        if runs is None or run.appraisal is not None:
            return run
        if "DEEPTRAIN_PROVE" in os.environ:
            run.proof, name = Proof(), name or "prove"
        place = directory_of_runs(runs)
        run._found = find(trainer, place, name or None, resume, partial(holding.take, run))
        run._open_files(trainer)
        return run

    def _open_files(self, trainer: Trainer) -> None:
        assert self.path is not None
        self.journalling = Journalling(Journal(self.path / "journal.jsonl"))
        self.checkpoints = Checkpointing(self.path / "checkpoints", trainer, self.journal)
        try:
            self.mailbox = Mailbox(self.path / NAME) if SUPPORTED else None
        except OSError as error:
            warnings.warn(f"no commands of other processes are taken: {error}", stacklevel=5)

    def restore(self, trainer: Trainer, resume: str) -> None:
        """Put the trainer where its run stands, and write down how it was started."""
        found, self._found = self._found, None
        self.standing.begin(trainer)
        if found is None:
            return
        try:
            restore(self, trainer, found, resume)
        except BaseException:
            self.close()
            raise

    def begin(self, trainer: Trainer) -> None:
        """Before the first iteration: save checkpoint 0, and see that it is equal to the state."""
        self._refuse_closed()
        self.unsaved = trainer
        self.look_around(trainer)
        if self.proof is not None:
            self.proof.begin(trainer)
        if self.journalling.replay is not None:
            self.journalling.replay.go_on()
        if self.checkpoints is None or self.checkpoints.saved is not None or self.checkpoints.store.paths():
            return
        self.save(trainer)
        check_same(self.checkpoints.store.newest()[1], trainer)

    def _refuse_closed(self) -> None:
        if self.taken_over:
            raise RuntimeError(f"another trainer of this process took over {self.path}: go on with that one")
        if self.path is not None and self.directory is None:
            raise RuntimeError(
                f"the trainer was closed, and {self.path} is free for others: make it anew to go on"
            )

    # ------------------------------------------------------------------ on the way

    def look_around(self, trainer: Trainer) -> None:
        """Say and write down where the environment became another since the last look."""
        before = self.standing.announced
        if found := self.standing.look(trainer):
            trainer.display.on_environment(found, ())
        if before != self.standing.announced:
            at, changed = trainer.progress.train.iterations, [str(reason) for reason in found]
            self.journal("environment", at=at, environment=self.standing.announced, changed=changed)

    @property
    def save_at(self) -> float:
        """When, by `time.monotonic()`, a checkpoint is due by the clock."""
        return NEVER if self.checkpoints is None else self.checkpoints.save_at

    @property
    def due_at(self) -> float:
        """When, by `time.monotonic()`, there is something to save or to write."""
        return NEVER if self.journalling.file is None else min(self.save_at, self.journalling.due_at)

    def save(
        self, trainer: Trainer, *, wait: bool = True, tag: str | None = None, head: bool = False
    ) -> None:
        """Commit a checkpoint of the present state: see `Checkpointing.save`, which takes and raises the same."""
        if self.checkpoints is None:
            return
        self.checkpoints.save(trainer, wait=wait, tag=tag, head=head)
        if wait and trainer.progress.phase is Phase.DONE:
            self.unsaved = None

    def look_for_saved(self) -> None:
        """Note the checkpoints that have come to the disk since the last look.

        Raises:
            CheckpointError: One could not be written; said once. The state in memory is as it was.
        """
        if self.checkpoints is not None:
            self.checkpoints.look()

    @staticmethod
    def read(path: str | PathLike[str]) -> dict[str, Any]:
        """The state of a checkpoint, or of a run's newest."""
        state: dict[str, Any] = read_state(path).tree
        return state

    def on_replace(self, at: int, parts: list[str], changes: list[dict[str, Any]], said: list[str]) -> None:
        """Parts were replaced: what comes now is no replay."""
        self.replay_until = 0
        self.journal("replace", at=at, parts=parts, changes=changes, said=said)

    @staticmethod
    def refuse_replaced(trainer: Trainer, info: Mapping[str, Any], path: str | PathLike[str]) -> None:
        """See that a state is of the parts that the trainer has, where some were replaced; see `replaced`."""
        replaced.refuse_replaced(trainer, info, path)

    # ------------------------------------------------------------------ its journal

    def journal(self, kind: str, *, durable: bool = False, **entry: Any) -> None:
        """Write a line to the journal; where it is to be durable, wait until it is on the disk."""
        self.journalling.write(kind, durable=durable, **entry)

    def note(self, kind: str, **entry: Any) -> None:
        """Put a line down for the journal, without writing it yet."""
        self.journalling.note(kind, **entry)

    def write_journal(self, now: float) -> None:
        """Write what waits, where that is due; called outside a commit, because the disk may be full."""
        self.journalling.write_due(now)

    @property
    def journal_line(self) -> int:
        """The number of the journal's next line, or a lower one where lines wait to be written."""
        return 0 if self.journalling.file is None else self.journalling.file.seq

    # ------------------------------------------------------------------ branches and detours

    def begin_branch(self, trainer: Trainer, before: Line | None, **why: Any) -> None:
        """Begin another branch with the present state, on the disk when this returns.

        Args:
            trainer: Whose state.
            before: The line that is left here; None where the state is of no line of this run.
            why: What the journal is to say of it.

        Raises:
            CheckpointError: The state could not be written; the run is on the branch that it was on.
        """
        branches.begin_branch(self, trainer, before, **why)

    def retracing(self, trainer: Trainer, until: int) -> AbstractContextManager[None]:
        """While the trainer goes over ground that it knows, see `detours.retracing`."""
        return detours.retracing(self, trainer, until)

    def aside(self, trainer: Trainer) -> AbstractContextManager[None]:
        """While the trainer tries something out, see `detours.aside`."""
        return detours.aside(self, trainer)

    def arrive(self, trainer: Trainer) -> Interrupted:
        """The point of another run is come to: gives what ends the script."""
        return detours.arrive(self, trainer)

    # ------------------------------------------------------------------ its end

    def on_done(self, trainer: Trainer) -> None:
        """The run is done and saved."""
        if self.proof is not None:
            self.proof.end(trainer)

    def save_on_the_way_out(self, trainer: Trainer, error: BaseException) -> None:
        """An exception ends `fit`: save, unless the state stays at hand in a notebook; a failure to save is said."""
        leaving.save_on_the_way_out(self, trainer, error)

    def rest(self) -> None:
        """The trainer stops running for now: what waits to be written is written.

        Where an exception stops it in the middle of a replay, how far that came is said and written down; what is
        left is compared when the run goes on, in this process or the next.
        """
        if self.checkpoints is not None:
            self.checkpoints.wait()
        if self.journalling.replay is not None:
            self.journalling.replay.say_how_far(self.unsaved)
        if self.unsaved is not None:
            self.look_around(self.unsaved)
        self.journalling.flush()

    def settle(self) -> None:
        """Wait until nothing is being written, and say where that failed."""
        with leaving.saying(self, "in the background"):
            if self.checkpoints is not None:
                self.checkpoints.settle()

    def close(self) -> None:
        """Save what was trained since the last checkpoint, and let go of the lock and the journal."""
        if self.directory is None:
            return
        if self.closing is not None:
            self.closing()
        self.settle()
        leaving.save_the_rest(self)
        holding.forget(self)
        self.journalling.close()
        self.directory.release()
        self.directory = self.checkpoints = self.mailbox = None
