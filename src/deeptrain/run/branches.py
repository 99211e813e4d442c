"""Which branch of its history a run is on: its newest checkpoint says so, and where that cannot be read, the journal.

A branch is begun by a checkpoint, its head, and then by a line of the journal.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from deeptrain.checkpoint.line import Line
from deeptrain.checkpoint.reading import CorruptCheckpoint
from deeptrain.checkpoint.store import CheckpointStore, Newest, line_of
from deeptrain.control.journal import last_branch, read_backwards

if TYPE_CHECKING:
    from pathlib import Path

    from deeptrain.control.journal import Journal
    from deeptrain.run.run import Run
    from deeptrain.trainer import Trainer


def newest_of(run: Path, *, history: bool = True) -> Newest:
    """A run's newest whole checkpoint on the branch that it is on.

    A rewind is on the disk once it has returned. Should what it wrote there be damaged later, the run is not to go on from
    where it stood before: what was left behind stays behind.

    Args:
        run: The run's directory.
        history: Whether the history is wanted. Else its series may be empty, and need not be whole.

    Raises:
        CheckpointError: There is none; the message lists each with the reason.
    """
    store = CheckpointStore(run / "checkpoints")
    return store.newest(_line_by_journal(run, store), history=history)


def _line_by_journal(run: Path, store: CheckpointStore) -> Line | None:
    newest = store.paths()[-1:]
    try:
        for path in newest:
            line_of(path)
    except CorruptCheckpoint:
        return line_in_journal(run / "journal.jsonl")
    return None


def line_in_journal(journal: Path) -> Line | None:
    """The line that a journal's end is on; None where it is the first branch, or the journal does not tell."""
    branch = last_branch(journal)
    if not branch:
        return None
    with closing(read_backwards(journal)) as entries:
        for _, entry in entries:
            if entry.get("kind") == "branch" and entry.get("branch") == branch:
                return Line.of(entry)
    return None


def begin_branch(run: Run, trainer: Trainer, before: Line | None, **why: Any) -> None:
    """Begin another branch with the present state, on the disk when this returns; see `Run.begin_branch`."""
    journal = run.journalling.file
    if journal is None:
        return
    at, left = trainer.progress.train.iterations, run.line
    number = max(left.branch, journal.branch) + 1
    run.line = Line(number) if before is None else before.left_at(at, number=number)
    try:
        run.save(trainer, head=True)
        _tell(journal, run.line, at, **why)
    except BaseException:
        _leave(run, left)
        raise


def _leave(run: Run, left: Line) -> None:
    """A branch could not be begun: what was saved for it goes, and the run is on the one that it was on."""
    began, run.line = run.line.branch, left
    if run.checkpoints is not None:
        store = run.checkpoints.store
        store.discard([facts.path for facts in store.facts() if facts.line.branch == began])
        run.checkpoints.leave()


def _tell(journal: Journal, line: Line, at: int, **why: Any) -> None:
    journal.begin_branch(line.branch, at=at, cut=at + 1, before=line.info()["before"], **why)


def go_on_with(run: Run, line: Line, trainer: Trainer) -> None:
    """Take over the line that the run was on; its first line in the journal may be missing, where the process died."""
    journal = run.journalling.file
    assert journal is not None
    run.line = line
    told = last_branch(journal.path)
    journal.branch = told
    if told < line.branch:
        _tell(journal, line, trainer.progress.train.iterations, recovered=True)
