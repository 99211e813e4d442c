"""Appending a history to a run's segments: each checkpoint adds what is new, and costs no more than that.

A process writes to a segment of its own, which it begins when it first has something to add. It begins another one
where a write failed, and where the history went back: then the chain refers to the older segments up to the last block
that both lines share. So whatever a checkpoint on the disk refers to stays as it is.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deeptrain.checkpoint.chain import HISTORY, SEGMENT, Chain, Link, Sum
from deeptrain.checkpoint.files import (
    CheckpointError,
    drop_cache,
    file_end,
    make_directory,
    new_file,
    sync_descriptor,
    sync_directory,
    write_all,
)
from deeptrain.checkpoint.segments import MAGIC, SegmentError, block, blocks, read_link

if TYPE_CHECKING:
    from array import array
    from collections.abc import Mapping
    from pathlib import Path

    from deeptrain.state.history import History

    Pair = tuple[array[int], array[float]]
    Columns = Mapping[str, Pair]


class Addition(NamedTuple):
    """What is to be appended for one checkpoint, in memory of its own.

    Attributes:
        block: The bytes.
        series: What all of the history is, with them.
    """

    block: bytes
    series: dict[str, Sum]


class Appender:
    """What of a history is in a run's segments, and how the rest comes there.

    It is staged at a safe point by one thread and written by another, never both at a time.

    Args:
        home: The run's directory.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._chain = Chain()
        self._columns: Columns = {}
        self._own = False  # whether the chain's last segment may be appended to

    def adopt(self, chain: Chain, history: History) -> None:
        """Go on from a chain that is whole on the disk, and holds the beginning of a history that was loaded."""
        self._chain, self._columns, self._own = chain, history.columns, False

    def stage(self, history: History) -> Addition:
        """Copy what is new, at the cost of that; once after the history went elsewhere, at the cost of reading it."""
        if history.columns is not self._columns:
            self._follow(history)
        known = self._chain.series
        new = history.since({name: known[name].size for name in known})
        sums = {name: known.get(name, Sum()).plus(series) for name, series in new.items()}
        return Addition(block(new), sums)

    def write(self, addition: Addition) -> Chain:
        """Append what was staged, and return once it is on the disk and was read back.

        Returns:
            The chain that holds all of the history.

        Raises:
            CheckpointError: It could not be written. What there was is as it was, and the next segment is a new one.
        """
        links = self._chain.links
        if addition.block:
            last = links[-1] if self._own else None
            self._own = False
            if last is not None and self._is_as_it_was_left(last):
                links = (*links[:-1], self._append(last, addition.block))
            else:
                links = (*links, self._begin(addition.block))
            self._own = True
        self._chain = Chain(links, addition.series)
        return self._chain

    def _is_as_it_was_left(self, last: Link) -> bool:
        """Whether the segment ends where this process ended it; one that is longer is left alone."""
        path = self._home / last.name
        size = path.stat().st_size if path.is_file() else -1
        if size < last.size:
            self._chain = Chain()
            raise CheckpointError(
                f"{path}: the history that was written there is gone; it is whole in memory, and the next checkpoint writes "
                "all of it anew"
            )
        return size == last.size

    # ------------------------------------------------------------------ going elsewhere

    def _follow(self, history: History) -> None:
        """Another state was loaded: go on from what the segments have of it."""
        columns, known = history.columns, self._chain.series
        common = {
            name: _common(self._columns.get(name), columns.get(name), known[name].size) for name in known
        }
        if any(common[name] < known[name].size for name in known):
            links, counts = _cut(self._home, self._chain, common)
            whole = history.since({})
            sums = {name: Sum().plus(whole[name].first(count)) for name, count in counts.items()}
            self._chain, self._own = Chain(links, sums), False
        self._columns = columns  # last: whoever is interrupted before does it again

    # ------------------------------------------------------------------ files

    def _begin(self, data: bytes) -> Link:
        directory = self._home / HISTORY
        link = Link(0, len(MAGIC) + len(data), zlib.crc32(MAGIC + data))
        try:
            make_directory(directory)
            link = link._replace(number=_next_number(directory))
            with new_file(self._home / link.name) as descriptor:
                write_all(descriptor, MAGIC + data)
                sync_descriptor(descriptor)
            sync_directory(directory)
        except OSError as error:
            raise self._failed(link, error) from error
        self._read_back(link)
        return link

    def _append(self, last: Link, data: bytes) -> Link:
        path = self._home / last.name
        try:
            with file_end(path) as descriptor:
                write_all(descriptor, data)
                sync_descriptor(descriptor)
        except OSError as error:
            raise self._failed(last, error) from error
        link = Link(last.number, last.size + len(data), zlib.crc32(data, last.crc))
        self._read_back(link, last.size, last.crc)
        return link

    def _read_back(self, link: Link, start: int = 0, crc: int = 0) -> None:
        """See that what was written comes back from the disk."""
        path = self._home / link.name
        drop_cache(path)
        try:
            with path.open("rb") as file:
                file.seek(start)
                found = zlib.crc32(file.read(link.size - start), crc)
        except OSError as error:
            raise self._failed(link, error) from error
        if found != link.crc:
            raise self._failed(link, "what was written does not come back")

    def _failed(self, link: Link, why: object) -> CheckpointError:
        return CheckpointError(f"{self._home / link.name}: the history could not be written: {why}")


def _next_number(directory: Path) -> int:
    numbers = [int(match[1]) for path in directory.iterdir() if (match := SEGMENT.fullmatch(path.name))]
    return max(numbers, default=-1) + 1


def _common(old: Pair | None, new: Pair | None, count: int) -> int:
    """How many of the first values two series share, bit for bit."""
    if old is None or new is None:
        return 0
    count = min(count, len(old[0]), len(new[0]))
    same = (_bits(old[0], count) == _bits(new[0], count)) & (_bits(old[1], count) == _bits(new[1], count))
    return count if same.all() else int(same.argmin())


def _bits(column: array[Any], count: int) -> np.ndarray[Any, Any]:
    return np.frombuffer(column[:count].tobytes(), np.int64)


def _cut(home: Path, chain: Chain, common: Mapping[str, int]) -> tuple[tuple[Link, ...], dict[str, int]]:
    """The chain up to the last block of which another line has everything too, and how much that is of each series.

    A segment that is not whole any more ends it: what comes behind is written anew.
    """
    links: list[Link] = []
    counts: dict[str, int] = {}
    for link in chain.links:
        end = 0
        try:
            data = read_link(home, link)
            for found in blocks(data):
                after = {**counts, **{name: counts.get(name, 0) + piece.size for name, piece in found.pieces}}
                if any(count > common.get(name, 0) for name, count in after.items()):
                    break
                counts, end = after, found.end
        except SegmentError:
            break
        if end:
            links.append(Link(link.number, end, zlib.crc32(data[:end])))
        if end != link.size:
            break
    return tuple(links), counts
