"""The journal: one line of JSON for everything that happened in a run, appended as it happens.

Lines of iterations are put together and written at least every tenth of a second of training, all others at
once: a process that is killed may leave its last few iterations unmentioned, and nothing else. A line that a
crash cut short is cut off before the next append.
"""

from __future__ import annotations

import errno
import json
import math
import os
import time
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from deeptrain.data.batch import Batch

TAIL = 1 << 16
LINES, SECONDS = 256, 0.1  # so many lines of iterations, or so much time, may wait


class Journal:
    """An open journal.

    Args:
        path: The file; made where there is none.

    Attributes:
        flush_at: When, by `time.monotonic()`, what waits is to be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0), 0o644)
        self._waiting: list[tuple[int, tuple[int, int, int], Mapping[str, float]] | str] = []
        self.flush_at = 0.0
        self._cut_torn_line()

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

    def add(self, kind: str, **entry: Any) -> None:
        """Append one line, at the next flush; cannot fail for want of space."""
        self._waiting.append(json.dumps({"kind": kind, **entry}) + "\n")

    def iteration(self, at: int, batch: Batch, figures: Mapping[str, float]) -> None:
        """Append the line of one train iteration, its floats exact; written at once where much waits.

        Raises:
            OSError: What waits could not be written; it goes on waiting.
        """
        self._waiting.append((at, (batch.epoch, batch.index, batch.iteration), figures))
        if len(self._waiting) >= LINES:
            self.flush()

    def flush(self) -> None:
        """Write what waits, all or nothing.

        Raises:
            OSError: It could not be written; it goes on waiting.
        """
        if self._waiting:
            text = "".join(
                [line if isinstance(line, str) else _line(*line) for line in self._waiting]
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
            self._waiting = []
        self.flush_at = time.monotonic() + SECONDS

    def close(self) -> None:
        """Write what waits, and close the file."""
        try:
            self.flush()
        finally:
            os.close(self._file)


def _line(at: int, place: tuple[int, int, int], figures: Mapping[str, Any]) -> str:
    # Put together by hand, at a fifth of the cost of json.dumps: this is in every iteration.
    fed = place if place[2] else place[:2]
    values = tuple(figures.values())
    if {float}.issuperset(map(type, values)) and math.isfinite(sum(values)):
        return _template(tuple(figures), len(fed)) % (at, *fed, *values)
    found = {name: float(value) for name, value in figures.items()}  # fetches what is still on a device
    return json.dumps({"kind": "iteration", "at": at, "batch": fed, "figures": found}) + "\n"


@cache
def _template(names: tuple[str, ...], numbers: int) -> str:
    fed = ", ".join(["%d"] * numbers)
    values = ", ".join([json.dumps(name).replace("%", "%%") + ": %r" for name in names])
    return f'{{"kind": "iteration", "at": %d, "batch": [{fed}], "figures": {{{values}}}}}\n'


def read_journal(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal in the order in which they were written; a torn last one is left out.

    Raises:
        ValueError: A line in the middle is not JSON; the message names the file and the line's number.
    """
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: not a line of a journal ({error})") from error


def last_iteration(path: Path) -> int:
    """The highest train iteration that a journal tells of since the last load of another state; 0 where none is."""
    newest = 0
    for entry in read_journal(path):
        if entry.get("kind") == "iteration":
            newest = max(newest, int(entry["at"]))
        elif entry.get("kind") == "load":
            newest = int(entry["at"])
    return newest
