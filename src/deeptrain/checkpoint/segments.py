"""Segments: the files of a run's history, each written by one process at its end alone. Little endian:

    8 bytes     "DTHIST1" and a newline
    then for each checkpoint that had something new a block:
        u32     crc32 of the rest of the block
        u64     bytes of the rest behind this number
        for each series that has something new, up to the block's end:
            u32     bytes of its name; the name in UTF-8, such as "train.loss"
            u64     n
            n i64   completed train iterations when each value was taken
            n f64   the values

What lies behind the bytes that a checkpoint's chain counts is of a later one, or of a process that died, and is never
looked at. Nothing that was written is ever overwritten or cut.
"""

from __future__ import annotations

import stat
import struct
import zlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deeptrain.state.history import Series

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from deeptrain.checkpoint.chain import Link

MAGIC = b"DTHIST1\n"
_HEAD = struct.Struct("<IQ")
_LENGTH = struct.Struct("<Q")
_NAME, _COUNT = struct.Struct("<I"), struct.Struct("<Q")
_EACH = 8  # bytes of an iteration, and of a value


class SegmentError(ValueError):
    """A segment does not have the bytes that a chain counts. The message names it, as it is called in the run."""


class Columns(NamedTuple):
    """The bytes of a series, or of a piece of one, as a segment has them."""

    iterations: bytearray | memoryview
    values: bytearray | memoryview

    @property
    def size(self) -> int:
        """How many values there are."""
        return len(self.values) // _EACH

    def series(self) -> Series:
        """The same as numbers."""
        iterations, values = np.frombuffer(self.iterations, "<i8"), np.frombuffer(self.values, "<f8")
        return Series(iterations.astype(np.int64, copy=False), values.astype(np.float64, copy=False))


class Block(NamedTuple):
    """What one checkpoint added: where it ends in the segment, and the pieces by the series' names."""

    end: int
    pieces: list[tuple[str, Columns]]


def block(new: Mapping[str, Series]) -> bytes:
    """The bytes of a block; none where nothing is new."""
    body = b"".join([_piece(name, series) for name, series in new.items() if len(series.values)])
    if not body:
        return b""
    rest = _LENGTH.pack(len(body)) + body
    return zlib.crc32(rest).to_bytes(4, "little") + rest


def _piece(name: str, series: Series) -> bytes:
    title = name.encode("utf-8", "surrogatepass")
    count = _COUNT.pack(len(series.values))
    iterations, values = series.iterations.astype("<i8", copy=False), series.values.astype("<f8", copy=False)
    return b"".join([_NAME.pack(len(title)), title, count, iterations.tobytes(), values.tobytes()])


def read_link(home: Path, link: Link) -> memoryview:
    """The bytes of a segment that count, seen to be those that were written.

    Args:
        home: The run's directory.
        link: Which, and how many.

    Raises:
        SegmentError: They are not there, or others.
    """
    path = home / link.name
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise SegmentError(f"{link.name}: is no regular file")
        if status.st_size < link.size:
            raise SegmentError(f"{link.name}: has {status.st_size} bytes, expected at least {link.size}")
        with path.open("rb") as file:
            data = memoryview(file.read(link.size))
    except FileNotFoundError as error:
        raise SegmentError(f"{link.name}: is missing, expected at {path}") from error
    except OSError as error:
        raise SegmentError(f"{link.name}: cannot be read: {error}") from error
    if len(data) != link.size or zlib.crc32(data) != link.crc:
        raise SegmentError(f"{link.name}: {_where(data)}")
    return data


def _where(data: memoryview) -> str:
    """In words, what of a segment is not as it was written."""
    end = len(MAGIC)
    try:
        for found in blocks(data):
            if zlib.crc32(data[end + 4 : found.end]).to_bytes(4, "little") != data[end : end + 4]:
                break
            end = found.end
    except SegmentError:
        pass
    whole = end == len(data) and data[: len(MAGIC)] == MAGIC
    return "is another segment" if whole else f"damaged at byte {end} or behind it"


def blocks(data: memoryview) -> Iterator[Block]:
    """The blocks of a segment, oldest first.

    Raises:
        SegmentError: It is no segment. No length is believed before the bytes are there.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise SegmentError(f"does not begin with {MAGIC!r}")
    start = len(MAGIC)
    while start < len(data):
        try:
            _, size = _HEAD.unpack_from(data, start)
            start += _HEAD.size
            found = Block(start + size, list(_pieces(_part(data, start, size))))
        except (struct.error, UnicodeDecodeError) as error:
            raise SegmentError(f"is no segment: {error}") from error
        yield found
        start = found.end


def _pieces(body: memoryview) -> Iterator[tuple[str, Columns]]:
    at = 0
    while at < len(body):
        (length,) = _NAME.unpack_from(body, at)
        name = _part(body, at + _NAME.size, length)
        at += _NAME.size + length
        (count,) = _COUNT.unpack_from(body, at)
        at += _COUNT.size
        size = count * _EACH
        columns = Columns(_part(body, at, size), _part(body, at + size, size))
        yield bytes(name).decode("utf-8", "surrogatepass"), columns
        at += 2 * size


def _part(data: memoryview, start: int, size: int) -> memoryview:
    if start + size > len(data):
        raise SegmentError(f"is no segment: {size} bytes at {start} reach beyond its end, {len(data)}")
    return data[start : start + size]
