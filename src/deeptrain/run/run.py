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

import atexit
import contextlib
import copy
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeptrain.checkpoint.files import CheckpointError, write_json
from deeptrain.checkpoint.line import Line
from deeptrain.checkpoint.selecting import patterns
from deeptrain.checkpoint.store import line_of
from deeptrain.control.interrupt import Interrupted, is_interactive
from deeptrain.control.journal import Journal, last_branch
from deeptrain.control.mailbox import NAME, SUPPORTED, Mailbox
from deeptrain.run.checkpointing import NEVER, Checkpointing, about, position_of, write
from deeptrain.run.declared import begins_with, declared, say_left_aside, to_skip
from deeptrain.run.fingerprint import compare
from deeptrain.run.guarantee import taken
from deeptrain.run.loading import Loaded, Place, merged, read_state, say, wants_history
from deeptrain.run.record import write_start
from deeptrain.run.replaced import refuse_replaced
from deeptrain.run.replay import ReplayMismatch
from deeptrain.run.replaying import Replaying
from deeptrain.run.resume import Found, find, reconcile
from deeptrain.run.standing import Standing
from deeptrain.state import tree
from deeptrain.state.history import same_series
from deeptrain.state.progress import Phase

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from os import PathLike

    from deeptrain.data.batch import Batch
    from deeptrain.run.directory import RunDirectory
    from deeptrain.run.replay import Verdict
    from deeptrain.run.travel import Travel
    from deeptrain.trainer import Trainer

FOREVER = 1 << 62

# Runs that a trainer of this process holds: a second trainer on the same run takes over.
_held: dict[Path, Run] = {}


class TornStateError(RuntimeError):
    """The state is not whole, because an exception came out of the middle of a commit or a load."""


class Run:
    """A trainer's run; with `path` None it has no place on disk and everything here does nothing.

    Attributes:
        path: The run's directory, or None.
        proving: Whether `deeptrain prove` started the process: then every iteration is traced.
        replay_until: Up to which count of iterations a process that died had come before.
        line: The branch that it is on.
        travel: The point of another run that it is to come to, or None.
        checkpoints: Its checkpoints; None where there is no run, or it was closed.
        standing: What the run still has of the promise.
        mailbox: Where other processes leave commands; None likewise, and where there can be none.
        closing: Called before it is closed.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.replay_until = 0
        self.line = Line()
        self.travel: Travel | None = None
        self._verdict: Verdict | None = None
        self.proving = False
        self.taken_over = False
        self._directory: RunDirectory | None = None
        self.checkpoints: Checkpointing | None = None
        self.mailbox: Mailbox | None = None
        self.closing: Callable[[], None] | None = None
        self._journal: Journal | None = None
        self._replay: Replaying | None = None
        self._found: Found | None = None
        self.standing = Standing()
        # Held only while it has something to save: a run that is done must not keep its model alive.
        self._unsaved: Trainer | None = None
        self._process = os.getpid()
        self._attributes: dict[str, str] = {}

    @classmethod
    def open(
        cls,
        trainer: Trainer,
        *,
        runs: str | PathLike[str] | None,
        name: str | None,
        resume: str | PathLike[str],
    ) -> Run:
        """Find the run that is to be continued or make a new one, and lock it."""
        if runs is None:
            return cls()
        proving = "DEEPTRAIN_PROVE" in os.environ
        name = name or ("prove" if proving else None)
        run = cls()
        run.proving = proving
        place = Path(os.environ.get("DEEPTRAIN_RUNS", runs))
        run._found = find(trainer, place, name, resume, run._take)
        run._open_files(trainer)
        return run

    def _take(self, directory: RunDirectory) -> None:
        """Lock a run for this trainer; a trainer of this process that holds it lets it go."""
        other = _held.get(directory.path.resolve())
        if other is not None:
            other.taken_over = True
            other.close()
            warnings.warn(
                f"another trainer of this process held {directory.path}; this one takes over", stacklevel=7
            )
        if self.path is not None:
            _held.pop(self.path.resolve(), None)
        directory.lock()
        self._directory, self.path = directory, directory.path
        _held[directory.path.resolve()] = self

    def _open_files(self, trainer: Trainer) -> None:
        assert self.path is not None
        self._journal = Journal(self.path / "journal.jsonl")
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
            self._restore(trainer, found, resume)
        except BaseException:
            self.close()
            raise

    def _restore(self, trainer: Trainer, found: Found, resume: str) -> None:
        assert self.path is not None
        assert self.checkpoints is not None
        trainer.display.on_run(found, self.path)
        if found.state is not None:
            finish = reconcile(trainer, found, resume)
            mismatches = compare(found.info["settings"], trainer.settings) if resume == "take" else []
            state = begins_with(trainer, found)
            trainer.load_state_dict(state)
            self._check_same(state, trainer, taken=resume == "take")
            finish()
            if found.travel is not None:
                assert self._journal is not None
                self.travel = found.travel
                source = found.travel.journal
                self._replay = Replaying(
                    self._journal, after=trainer.progress.train.iterations, source=source
                )
                self.replay_until = self._replay.until
            elif found.parent is not None:
                trainer.steering.forget()  # another script's calls
            else:
                say_left_aside(trainer)
                assert self._journal is not None
                self._go_on_with(found.line, trainer)
                self._replay = Replaying(self._journal, after=trainer.progress.train.iterations)
                self.replay_until = self._replay.until
                self.checkpoints.go_on_from(trainer, found.chain)
            if self._replay is not None:
                self._replay.prepare(found.info, self.standing, comparable=not mismatches)
            differences = self.standing.go_on(trainer, found.info, taken(mismatches))
            trainer.display.on_environment(differences, self.standing.lost())
        origin = {
            "parent": None if found.parent is None else str(found.parent),
            "resume": None if found.parent is None else resume,
            "passed_over": found.passed_over,
        }
        write_start(self.path, trainer.settings, trainer.config, origin, self.standing.announced)
        at, now = trainer.progress.train.iterations, self.standing.announced
        self.journal("start", at=at, parent=origin["parent"], environment=now)
        if found.state is not None:
            trainer.display.on_restored(trainer, self.replay_until)

    @staticmethod
    def _check_same(saved: dict[str, Any], trainer: Trainer, *, taken: bool = False) -> None:
        """Refuse a state that does not come back equal; where the script's settings were taken, those aside.

        Raises:
            ValueError: Loading it gave another state; the message names the paths.
        """
        present = trainer.state_dict()
        # More epochs may have been asked of a run that was done.
        renewed = {name: present["progress"][name] for name in ("phase", "stopped_short_of")}
        saved = {**saved, "progress": {**saved["progress"], **renewed}}
        if taken:
            saved["data"] = present["data"] = {}
        if same_series(
            saved["history"], present["history"]
        ):  # as long as the run; a digest of it takes its time
            saved["history"] = present["history"] = {}
        if tree.digest(saved) == tree.digest(present):
            return
        lines = "\n  ".join(str(d) for d in tree.diff(saved, present)[:10])
        raise ValueError(
            "the saved state was loaded and what is there now is not the same, so the run would not go on as it was:\n  "
            f"{lines}\nsee that each part's load_state_dict takes over all that its state_dict gives"
        )

    # ------------------------------------------------------------------ saving

    def begin(self, trainer: Trainer) -> None:
        """Before the first iteration: save checkpoint 0, and see that it is equal to the state."""
        if self.taken_over:
            raise RuntimeError(f"another trainer of this process took over {self.path}: go on with that one")
        if self.path is not None and self._directory is None:
            raise RuntimeError(
                f"the trainer was closed, and {self.path} is free for others: make it anew to go on"
            )
        self._unsaved = trainer
        self.look_around(trainer)
        if self.proving and not self._attributes:
            from deeptrain.introspect.suspects import attributes  # noqa: PLC0415 - for proofs alone

            self._attributes = attributes(trainer)
        if self._replay is not None:
            self._replay.go_on()
        if self.checkpoints is None or self.checkpoints.saved is not None or self.checkpoints.store.paths():
            return
        self.save(trainer)
        self._check_same(self.checkpoints.store.newest()[1], trainer)

    def look_around(self, trainer: Trainer) -> None:
        """Say and write down where the environment became another since the last look."""
        before = self.standing.announced
        if found := self.standing.look(trainer):
            trainer.display.on_environment(found, ())
        if before != self.standing.announced:
            at, changed = trainer.progress.train.iterations, [str(reason) for reason in found]
            self.journal("environment", at=at, environment=self.standing.announced, changed=changed)

    def save(
        self, trainer: Trainer, *, wait: bool = True, tag: str | None = None, head: bool = False
    ) -> None:
        """Commit a checkpoint of the present state.

        Args:
            trainer: Whose state.
            wait: Whether to return only once it is on the disk and verified; else it is written while training goes on,
                and `look_for_saved` tells what became of it.
            tag: A name for it; then it is kept for good.
            head: Whether it is what a branch begins with.

        Raises:
            CheckpointError: It could not be written, or one before it.
        """
        if self.checkpoints is None:
            return
        self.checkpoints.save(trainer, wait=wait, tag=tag, head=head)
        if wait and trainer.progress.phase is Phase.DONE:
            self._unsaved = None

    # ------------------------------------------------------------------ branches

    def begin_branch(self, trainer: Trainer, before: Line | None, **why: Any) -> None:
        """Begin another branch with the present state, on the disk when this returns.

        Args:
            trainer: Whose state.
            before: The line that is left here; None where the state is of no line of this run.
            why: What the journal is to say of it.

        Raises:
            CheckpointError: The state could not be written; the run is on the branch that it was on.
        """
        if self._journal is None:
            return
        at, left = trainer.progress.train.iterations, self.line
        number = max(left.branch, self._journal.branch) + 1
        self.line = Line(number) if before is None else before.left_at(at, number=number)
        try:
            self.save(trainer, head=True)
            self._tell_of_branch(at, **why)
        except BaseException:
            self._leave_branch(left)
            raise

    def _leave_branch(self, left: Line) -> None:
        """A branch could not be begun: what was saved for it goes, and the run is on the one that it was on."""
        began, self.line = self.line.branch, left
        if self.checkpoints is not None:
            store = self.checkpoints.store
            store.discard([facts.path for facts in store.facts() if facts.line.branch == began])
            self.checkpoints.leave()

    def _tell_of_branch(self, at: int, **why: Any) -> None:
        assert self._journal is not None
        self._journal.begin_branch(
            self.line.branch, at=at, cut=at + 1, before=self.line.info()["before"], **why
        )

    def _go_on_with(self, line: Line, trainer: Trainer) -> None:
        """Take over the line that the run was on; its first line in the journal may be missing, where the process died."""
        assert self._journal is not None
        self.line = line
        told = last_branch(self._journal.path)
        self._journal.branch = told
        if told < line.branch:
            self._tell_of_branch(trainer.progress.train.iterations, recovered=True)

    @contextlib.contextmanager
    def retracing(self, trainer: Trainer, until: int) -> Iterator[None]:
        """While the trainer goes over ground that it knows: nothing is saved or shown, and the figures are compared.

        Args:
            trainer: It has just been put where it begins.
            until: Up to which count of iterations it had come before.
        """
        assert self._journal is not None
        assert self.checkpoints is not None
        self._journal.flush()
        self._replay = Replaying(self._journal, after=trainer.progress.train.iterations)
        self._replay.prepare({"environment": self.standing.environment}, self.standing, comparable=True)
        self.replay_until, self.checkpoints.muted, trainer.display.quiet = until, True, True
        verdict = None
        try:
            yield
            verdict = None if self._replay is None else self._replay.end()
        finally:
            self._replay, self.replay_until = None, 0
            self.checkpoints.muted = trainer.display.quiet = False
        if verdict is not None:
            trainer.display.on_replay(verdict)

    @contextlib.contextmanager
    def aside(self, trainer: Trainer) -> Iterator[None]:
        """While the trainer tries something out: nothing is saved, shown or written down, and sinks are told of a replay."""
        journal, replay, until, unsaved = self._journal, self._replay, self.replay_until, self._unsaved
        self._journal, self._replay, self.replay_until = None, None, FOREVER
        standing, self.standing = self.standing, copy.deepcopy(self.standing)
        trainer.display.quiet = True
        if self.checkpoints is not None:
            self.checkpoints.muted = True
        try:
            yield
        finally:
            self._journal, self._replay, self.replay_until, self._unsaved = journal, replay, until, unsaved
            self.standing = standing
            trainer.display.quiet = False
            if self.checkpoints is not None:
                self.checkpoints.muted = False

    def arrive(self, trainer: Trainer) -> Interrupted:
        """The point that the run was to come to is there: save, report, and give what ends the script."""
        assert self.travel is not None
        travel, self.travel = self.travel, None
        self.save(trainer)
        if self._replay is not None:
            self._replay.end()
            self._verdict = self._replay.verdict
            self._replay = None
        return travel.report(trainer, self._verdict)

    # ------------------------------------------------------------------ what came of saving

    def look_for_saved(self) -> None:
        """Note the checkpoints that have come to the disk since the last look.

        Raises:
            CheckpointError: One could not be written; said once. The state in memory is as it was.
        """
        if self.checkpoints is not None:
            self.checkpoints.look()

    def save_on_the_way_out(self, trainer: Trainer, error: BaseException) -> None:
        """Save what stops a script from going on; in a notebook the state stays in memory instead.

        A failure to save is said and does not hide what stopped the run.
        """
        if self._process != os.getpid():
            return  # a child that was forked off is no trainer
        with self._saying("on the way out"):
            self._note_the_end(trainer, error)
            if self._wants_saving(trainer, error):
                self.save(trainer)

    def _note_the_end(self, trainer: Trainer, error: BaseException) -> None:
        kind = "interrupt" if isinstance(error, Interrupted) else "exception"
        reason = error.reason if isinstance(error, Interrupted) else f"{type(error).__name__}: {error}"
        self.journal(kind, at=trainer.progress.train.iterations, reason=reason)

    def _wants_saving(self, trainer: Trainer, error: BaseException) -> bool:
        number = getattr(error, "signal", None)
        if is_interactive() and number in {None, signal.SIGINT}:
            return False
        behind = self.checkpoints is not None and self.checkpoints.is_behind(trainer)
        return behind and not isinstance(error, CheckpointError)

    def write(
        self,
        trainer: Trainer,
        path: str | PathLike[str],
        only: str | Sequence[str] = (),
        skip: str | Sequence[str] = (),
    ) -> None:
        """Write a checkpoint to a path of the user's; one of a part of the state says so."""
        if not only:
            skip = (*patterns("skip", skip), *declared(trainer, "save_skip", [trainer.state_dict()]))
        write(trainer, path, about(trainer), only, skip)

    @staticmethod
    def read(path: str | PathLike[str]) -> dict[str, Any]:
        """The state of a checkpoint, or of a run's newest."""
        state: dict[str, Any] = read_state(path).tree
        return state

    @staticmethod
    def read_into(
        trainer: Trainer,
        path: str | PathLike[str],
        only: str | Sequence[str] = (),
        skip: str | Sequence[str] = (),
    ) -> Loaded:
        """The state to go to: the saved one, or the present one with a part of the saved one in it.

        Raises:
            TornStateError: A part was to be put into a state that is not whole.
        """
        before, saved = Place.of(trainer), read_state(path, history=wants_history(only, skip))
        for passed, why in saved.passed_over:
            say(trainer, f"passed over a checkpoint that is not whole: {passed}: {why}")
        if not only:
            skip = (*patterns("skip", skip), *to_skip(trainer, saved))
        if not (only or skip) and saved.info.get("partial") is None:
            refuse_replaced(trainer, saved.info, saved.path)
            return Loaded(saved.tree, None, before, saved.info)
        if trainer.progress.torn is not None:
            raise TornStateError(
                f"{trainer.progress.torn}. A part of a state can only be loaded into one that is whole: load the whole of a "
                "checkpoint first, with trainer.load(path)"
            )
        return Loaded(*merged(trainer, saved, only, skip), before)

    def on_load(self, trainer: Trainer, path: str | PathLike[str], loaded: Loaded) -> None:
        """The user went to another state: what comes now is no replay, and no checkpoint here holds it."""
        self.replay_until = 0
        if self._replay is not None:
            self._replay.leave()
        if loaded.info is not None:
            trainer.display.on_environment(self.standing.go_on(trainer, loaded.info), self.standing.lost())
        self._settle()
        self.journal("load", at=trainer.progress.train.iterations, path=str(path), **loaded.entry())
        if loaded.report is not None:
            say(trainer, f"{path}: {loaded.report}")
        moved = loaded.before.moved(Place.of(trainer))
        if moved is not None:
            say(trainer, f"{path}: {moved}")
        if self.checkpoints is None:
            return
        if self.checkpoints.saved is None:
            if (
                moved is not None
            ):  # as what the run begins with, or a process that ends here would have loaded in vain
                self.begin(trainer)
            return
        self.checkpoints.leave()
        if moved is None:
            self.save(trainer)  # else a crash would take it back
        else:
            self.begin_branch(trainer, self._line_at(Path(path)), origin="load", path=str(path))

    def _line_at(self, path: Path) -> Line | None:
        """The line that a checkpoint of this run was saved on; None for any other path."""
        assert self.path is not None
        own = path.is_dir() and path.resolve().parent == (self.path / "checkpoints").resolve()
        return line_of(path) if own else None

    def on_replace(self, at: int, parts: list[str], changes: list[dict[str, Any]], said: list[str]) -> None:
        """Parts were replaced: what comes now is no replay."""
        self.replay_until = 0
        self.journal("replace", at=at, parts=parts, changes=changes, said=said)

    # ------------------------------------------------------------------ the journal

    def journal(self, kind: str, *, durable: bool = False, **entry: Any) -> None:
        """Write a line to the journal; where it is to be durable, wait until it is on the disk."""
        if self._journal is not None:
            write = self._journal.write_durably if durable else self._journal.write
            write(kind, **entry)

    @property
    def journal_line(self) -> int:
        """The number of the journal's next line, or a lower one where lines wait to be written."""
        return 0 if self._journal is None else self._journal.seq

    def note(self, kind: str, **entry: Any) -> None:
        """Put a line down for the journal, without writing it yet."""
        if self._journal is not None:
            self._journal.add(kind, **entry)

    def write_journal(self, now: float) -> None:
        """Write what waits, where that is due; called outside a commit, because the disk may be full."""
        if self._journal is not None and now >= self._journal.flush_at:
            self._journal.flush()

    @property
    def save_at(self) -> float:
        """When, by `time.monotonic()`, a checkpoint is due by the clock."""
        return NEVER if self.checkpoints is None else self.checkpoints.save_at

    @property
    def due_at(self) -> float:
        """When, by `time.monotonic()`, there is something to save or to write."""
        if self._journal is None or self.checkpoints is None:
            return NEVER
        return min(self.checkpoints.save_at, self._journal.flush_at)

    def on_iteration(self, trainer: Trainer, batch: Batch, figures: dict[str, Any]) -> None:
        """Put an iteration's line down. Called outside the commit, because the disk may be full.

        Raises:
            ReplayMismatch: It was computed before, came out otherwise, and the run is to stop then.
        """
        if self._replay is not None:
            self._on_replayed(trainer, self._replay, batch, figures)
        elif self._journal is not None:
            self._journal.iteration(trainer.progress.train.iterations, batch, figures)
        if self.proving:
            self.trace(trainer)

    def _on_replayed(
        self, trainer: Trainer, replay: Replaying, batch: Batch, figures: dict[str, Any]
    ) -> None:
        if self._journal is None:  # the trainer was closed
            self._replay = None
            return
        if not self.replay_until:
            replay.leave()
        with self._stopping(trainer, replay):
            replay.on_iteration(trainer, batch, figures)

    @contextlib.contextmanager
    def _stopping(self, trainer: Trainer, replay: Replaying) -> Iterator[None]:
        """What differs is not to become, unasked, the state that the next start goes on from."""
        try:
            yield
        except ReplayMismatch:
            self._settle()
            if self.checkpoints is not None:
                self.checkpoints.saved = position_of(trainer)
            raise
        finally:
            if replay.over:
                self._replay, self._verdict = None, replay.verdict

    def on_validation(self, trainer: Trainer, figures: dict[str, float]) -> None:
        """Put the line of a pass of validation down. Called inside the commit; cannot fail."""
        at, number = trainer.progress.train.iterations, trainer.progress.validation.passes
        if self._replay is not None:
            self._replay.on_validation(number, at, figures)
        else:
            self.note("validation", at=at, **{"pass": number}, figures=figures)

    def after_validation(self, trainer: Trainer) -> None:
        """The commit of a piece of a validation is through: write what waits, and say where a replay differs.

        Raises:
            ReplayMismatch: The pass was computed before, came out otherwise, and the run is to stop then.
        """
        self.write_journal(time.monotonic())
        if self._replay is not None:
            with self._stopping(trainer, self._replay):
                self._replay.settle(trainer)

    def rest(self) -> None:
        """The trainer stops running for now: what waits to be written is written.

        Where an exception stops it in the middle of a replay, how far that came is said and written down; what is
        left is compared when the run goes on, in this process or the next.
        """
        if self.checkpoints is not None:
            self.checkpoints.wait()
        if self._replay is not None:
            self._replay.say_how_far(self._unsaved)
        if self._unsaved is not None:
            self.look_around(self._unsaved)
        if self._journal is not None:
            self._journal.flush()

    def trace(self, trainer: Trainer) -> None:
        """Note what the last iteration saw and found, for `deeptrain prove`."""
        assert trainer.last is not None
        from deeptrain.introspect.trace import entry  # noqa: PLC0415 - for proofs alone

        self.journal("trace", trace=entry(trainer, trainer.last))

    def look_for_suspects(self, trainer: Trainer) -> None:
        """At the end of a run that is put to the proof, note what could make another one differ."""
        if self.proving and self.path is not None:
            from deeptrain.introspect.suspects import attributes, changed, generators  # noqa: PLC0415 - likewise

            found = [*generators(trainer), *changed(self._attributes, attributes(trainer))]
            write_json(self.path / "record" / "suspects.json", found)

    def _save_the_rest(self) -> None:
        trainer, self._unsaved = self._unsaved, None
        if trainer is None or self._process != os.getpid() or self.checkpoints is None:
            return
        if self.checkpoints.saved is None or not self.checkpoints.is_behind(trainer):
            return
        with self._saying("at the end"):
            self.save(trainer)

    def _settle(self) -> None:
        """Wait until nothing is being written, and say where that failed."""
        with self._saying("in the background"):
            if self.checkpoints is not None:
                self.checkpoints.settle()

    @contextlib.contextmanager
    def _saying(self, when: str) -> Iterator[None]:
        """Say a failure to save, which is not to hide what stopped the run, and about which nothing can be done."""
        try:
            yield
        except Exception as failure:  # noqa: BLE001 - whatever it is
            sys.stderr.write(f"{self.path}: the state could not be saved {when}: {failure}\n")

    def close(self) -> None:
        """Save what was trained since the last checkpoint, and let go of the lock and the journal."""
        if self._directory is None or self.path is None:
            return
        if self.closing is not None:
            self.closing()
        self._settle()
        self._save_the_rest()
        if _held.get(self.path.resolve()) is self:
            del _held[self.path.resolve()]
        if self._journal is not None:
            self._journal.close()
        self._directory.release()
        self._directory = self.checkpoints = self._journal = self._replay = self.mailbox = None


@atexit.register
def _close_all() -> None:
    """A script that ends, in whatever way lets Python run, leaves no training unsaved."""
    for run in list(_held.values()):
        run.close()
