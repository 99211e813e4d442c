"""Which branch of its history a run is on: its newest checkpoint says so, and where that cannot be read, the journal."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from deeptrain.checkpoint.line import Line
from deeptrain.checkpoint.reading import CorruptCheckpoint
from deeptrain.checkpoint.store import CheckpointStore, Newest, line_of
from deeptrain.control.journal import last_branch, read_backwards

if TYPE_CHECKING:
    from pathlib import Path


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
