"""Where a part's values lie, so that two sources can be told to have rows in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from deeptrain.data.formats.raw import RawPart
from deeptrain.data.formats.views import Held, Row, Slice

if TYPE_CHECKING:
    from deeptrain.data.formats.base import Part

Key: TypeAlias = tuple[int, int, str]


class Extent(NamedTuple):
    """A range of bytes.

    Attributes:
        key: The file's device and number, and which of its arrays; the same for two links to one file.
        start: The first byte: in the file where values lie there as they are, else among the array's own.
        stop: One after the last.
    """

    key: Key
    start: int
    stop: int


def extent(part: Part) -> Extent:
    """Say where a part's values lie."""
    if isinstance(part, Slice):
        row = part.nbytes // part.rows
        start = extent(part.base).start + part.start * row
        return Extent(extent(part.base).key, start, start + part.nbytes)
    if isinstance(part, Row):
        start = extent(part.base).start + part.index * part.nbytes
        return Extent(extent(part.base).key, start, start + part.nbytes)
    if isinstance(part, Held):
        return extent(part.base)
    about = part.path.stat()
    if isinstance(part, RawPart):
        return Extent((about.st_dev, about.st_ino, ""), part.offset, part.offset + part.nbytes)
    return Extent((about.st_dev, about.st_ino, str(getattr(part, "entry", ""))), 0, part.nbytes)


def common_bytes(one: list[Extent], other: list[Extent]) -> int:
    """Count the bytes that lie in both of two lists of extents; none may overlap within its list."""
    mine, theirs = _by_key(one), _by_key(other)
    return sum(_overlap(mine[key], theirs[key]) for key in mine.keys() & theirs.keys())


def _by_key(extents: list[Extent]) -> dict[Key, list[tuple[int, int]]]:
    places: dict[Key, list[tuple[int, int]]] = {}
    for key, start, stop in sorted(extents):
        places.setdefault(key, []).append((start, stop))
    return places


def _overlap(mine: list[tuple[int, int]], theirs: list[tuple[int, int]]) -> int:
    count = i = j = 0
    while i < len(mine) and j < len(theirs):
        count += max(0, min(mine[i][1], theirs[j][1]) - max(mine[i][0], theirs[j][0]))
        if mine[i][1] <= theirs[j][1]:
            i += 1
        else:
            j += 1
    return count
