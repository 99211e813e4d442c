"""The journal: one line of JSON for everything that happened in a run, appended as it happens.

Lines of iterations are put together and written at least every tenth of a second of training, all others at
once: a process that is killed may leave its last few iterations unmentioned, and nothing else. A line that a
crash cut short is cut off before the next append.

Every line has a `seq`, which rises by one from line to line, through restarts too, and the `branch` that the run was on. An iteration that is computed
again after a crash, and comes out as its line has it, gets another line with `"replayed": true`: a record of what
was done, and nothing new. Any other line of an iteration is news: the lines before it of that iteration and later
ones are of a line of history that was left. So are those before an entry with a `cut`, from that iteration on, and
all before a `load`. What is left is the present line of history.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
from contextlib import closing
from functools import cache
from typing import TYPE_CHECKING, Any

from deeptrain.checkpoint.files import sync_descriptor, sync_directory

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping
    from pathlib import Path

    from deeptrain.data.batch import Batch

TAIL = 1 << 16
LONGEST = 1 << 24  # bytes of a line; what is longer was not written here
_FLOATS = frozenset({float})
LINES, SECONDS = 256, 0.1  # so many lines of iterations, or so much time, may wait


class Journal:
    """An open journal.

    Args:
        path: The file; made where there is none.

    Attributes:
        flush_at: When, by `time.monotonic()`, what waits is to be written.
        seq: The number of the next line.
        branch: The branch that what waits, and what comes, is told of.

    Raises:
        ValueError: The file's last line is not a line of a journal.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        is_new = not path.exists()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o644)
        self._waiting: list[tuple[int, tuple[int, int, int], Mapping[str, float]] | str] = []
        self.flush_at = 0.0
        self._lost: OSError | None = None
        if is_new:
            sync_directory(path.parent)
        self._cut_torn_line()
        self.seq, self.branch = _next_number(path), 0

    def _cut_torn_line(self) -> None:
        size = os.fstat(self._file).st_size
        start = size
        while start > 0:
            start = max(0, start - TAIL)
            end = os.pread(self._file, min(TAIL, size - start), start).rfind(b"\n")
            if end >= 0:
                os.ftruncate(self._file, start + end + 1)
                return
        os.ftruncate(self._file, 0)

    def write(self, kind: str, **entry: Any) -> None:
        """Append one line, at once."""
        self.add(kind, **entry)
        self.flush()

    def write_durably(self, kind: str, **entry: Any) -> None:
        """Append one line, and wait until it and all before it are on the disk.

        Raises:
            OSError: It could not be written or brought to the disk. After a failed fsync nobody knows what is there, and no
                later one would tell: from then on every call fails.
        """
        self.write(kind, **entry)
        try:
            if self._lost is None:
                sync_descriptor(self._file)
                return
        except OSError as error:
            self._lost = error
        raise OSError(
            self._lost.errno,
            f"the journal could not be brought to the disk: {self._lost.strerror}; start the script again to go on with it",
            str(self.path),
        )

    def add(self, kind: str, **entry: Any) -> None:
        """Append one line, at the next flush; cannot fail for want of space."""
        self._waiting.append(json.dumps({"kind": kind, **entry})[1:] + "\n")

    def iteration(self, at: int, batch: Batch, figures: Mapping[str, float]) -> None:
        """Append the line of one train iteration, its floats exact; written at once where much waits.

        Raises:
            OSError: What waits could not be written; it goes on waiting.
        """
        self._waiting.append((at, (batch.epoch, batch.index, batch.iteration), figures))
        if len(self._waiting) >= LINES:
            self.flush()

    def again(self, at: int, batch: Batch, figures: Mapping[str, float]) -> None:
        """Append the line of an iteration that was computed again and came out the same, at the next flush."""
        self.add("iteration", at=at, batch=place_of(batch), figures=floats(figures), replayed=True)

    def begin_branch(self, branch: int, **entry: Any) -> None:
        """Append the line with which a branch begins, at once, and see it onto the disk."""
        self.flush()
        before, self.branch = self.branch, branch
        try:
            self.write("branch", parent=before, **entry)
        except BaseException:
            self._waiting.clear()
            self.branch = before
            raise
        sync_descriptor(self._file)

    def flush(self) -> None:
        """Write what waits, all or nothing.

        Raises:
            OSError: It could not be written; it goes on waiting.
        """
        if self._waiting:
            text = "".join(
                [
                    f'{{"seq": {seq}, "branch": {self.branch}, {line}'
                    if isinstance(line, str)
                    else _line(seq, self.branch, *line)
                    for seq, line in enumerate(self._waiting, self.seq)
                ]
            ).encode()
            size = os.fstat(self._file).st_size
            try:
                written = os.write(self._file, text)
            except OSError as error:
                raise OSError(
                    error.errno, f"the journal could not be written: {error.strerror}", str(self.path)
                ) from error
            if written < len(text):
                os.ftruncate(self._file, size)
                raise OSError(
                    errno.ENOSPC, "the journal could not be written whole: free some space", str(self.path)
                )
            self.seq += len(self._waiting)
            self._waiting = []
        self.flush_at = time.monotonic() + SECONDS

    def close(self) -> None:
        """Write what waits, and close the file."""
        try:
            self.flush()
        finally:
            os.close(self._file)


def place_of(batch: Batch) -> tuple[int, ...]:
    """Where a batch lies in the order, as a line has it: epoch, index and, of a piece but the first, which one."""
    return (batch.epoch, batch.index, batch.iteration) if batch.iteration else (batch.epoch, batch.index)


def floats(figures: Mapping[str, Any]) -> dict[str, float]:
    """The figures as a line has them; fetches what is still on a device."""
    return {name: float(value) for name, value in figures.items()}


def _line(seq: int, branch: int, at: int, place: tuple[int, int, int], figures: Mapping[str, Any]) -> str:
    # Put together by hand, at a fifth of the cost of json.dumps: this is in every iteration.
    fed = place if place[2] else place[:2]
    values = tuple(figures.values())
    if _FLOATS.issuperset(map(type, values)) and math.isfinite(sum(values)):
        return _template(tuple(figures), len(fed)) % (seq, branch, at, *fed, *values)
    entry = {
        "seq": seq,
        "branch": branch,
        "kind": "iteration",
        "at": at,
        "batch": fed,
        "figures": floats(figures),
    }
    return json.dumps(entry) + "\n"


@cache
def _template(names: tuple[str, ...], numbers: int) -> str:
    fed = ", ".join(["%d"] * numbers)
    values = ", ".join([json.dumps(name).replace("%", "%%") + ": %r" for name in names])
    return f'{{"seq": %d, "branch": %d, "kind": "iteration", "at": %d, "batch": [{fed}], "figures": {{{values}}}}}\n'


# ---------------------------------------------------------------------- reading


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal in the order in which they were written; a torn last one is left out.

    Raises:
        ValueError: A line in the middle is not one of a journal; the message names the file and the line's number.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST), b""), 1):
            where = f"{path}, line {number}"
            if line.endswith(b"\n"):
                yield parse(line, where)
            else:
                _refuse_long(len(line), where)


def read_backwards(path: Path) -> Generator[tuple[int, dict[str, Any]], None, None]:
    """The lines of a journal, newest first, each with the place in the file where it begins.

    So that what lies at a journal's end is found at the same cost however long it is. A torn last line is left out.

    Raises:
        ValueError: A line that is come to is not one of a journal; the message names the file and the byte.
    """
    for place, line in _lines_backwards(path):
        yield place, parse(line, f"{path}, at byte {place}")


def _lines_backwards(path: Path) -> Iterator[tuple[int, bytes]]:
    if not path.exists():
        return
    with path.open("rb") as file:
        start, torn = file.seek(0, os.SEEK_END), True
        rest: list[bytes] = []  # pieces of a line whose beginning was not come to yet, last one first
        while start > 0:
            size = min(TAIL, start)
            start = file.seek(start - size)
            rest.append(file.read(size))
            if b"\n" in rest[-1]:
                first, *lines = b"".join(reversed(rest)).split(b"\n")
                end = start + len(first) + sum(map(len, lines)) + len(lines)
                if torn:  # what is behind the last newline is no line
                    end -= len(lines.pop()) + 1
                    torn = False
                for line in reversed(lines):
                    yield end - len(line), line
                    end -= len(line) + 1
                rest = [first]
            _refuse_long(sum(map(len, rest)), f"{path}, from byte {start}")
        if not torn:
            yield 0, b"".join(reversed(rest))


def _refuse_long(size: int, where: str) -> None:
    if size >= LONGEST:
        raise ValueError(f"{where}: not a line of a journal (it has {size} bytes or more)")


def parse(line: bytes, where: str) -> dict[str, Any]:
    """The entry that a line holds.

    Args:
        line: Its bytes.
        where: The file and the place in it, for the message.

    Raises:
        ValueError: It holds none, or one whose counts are no whole numbers.
    """
    _refuse_long(len(line), where)
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not a line of a journal ({error})") from error
    if not isinstance(entry, dict):
        raise ValueError(  # noqa: TRY004 - of a file, not of an argument
            f"{where}: not a line of a journal (expected an object, found {entry!r:.60})"
        )
    for name in ("seq", "branch", "at", "cut"):
        if type(entry.get(name, 0)) is not int:
            raise ValueError(
                f"{where}: not a line of a journal ({name!r} is {entry[name]!r:.60}, expected a whole number)"
            )
    return entry


def is_news(entry: Mapping[str, Any]) -> bool:
    """Whether it is the line of an iteration that no line of the present history told of before."""
    return entry.get("kind") == "iteration" and not entry.get("replayed") and "at" in entry


def last_iteration(path: Path) -> int:
    """The highest train iteration that a journal tells of on the present line of history; 0 where none is."""
    below = math.inf
    with closing(read_backwards(path)) as entries:
        for _, entry in entries:
            at = int(entry.get("at", 0))
            if entry.get("kind") == "load" or (is_news(entry) and at < below):
                return at
            below = min(below, entry.get("cut", below))
    return 0


def last_branch(path: Path) -> int:
    """The branch that a journal's newest line tells of; 0 where it tells of none."""
    with closing(read_backwards(path)) as entries:
        for _, entry in entries:
            return int(entry.get("branch", 0))
    return 0


def _next_number(path: Path) -> int:
    """One more than the newest line has; 0 for a new journal, and for one of before lines had numbers."""
    with closing(read_backwards(path)) as entries:
        for _, entry in entries:
            return int(entry.get("seq", -1)) + 1
    return 0
