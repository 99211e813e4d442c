"""Values that are stored in chunks, each of which is decoded whole: the base of several readers."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from deeptrain.data.errors import DataError
from deeptrain.data.formats.base import Array, Part

if TYPE_CHECKING:
    from pathlib import Path

    from deeptrain.data.batch import RowIds

SMALL = 1 << 26  # bytes; a set up to this size is read whole and kept while batches come from it
MOST_CHUNK = 1 << 31  # bytes that one chunk may take in memory


class ChunkedPart(Part):
    """Rows in chunks. The chunk that was last read in part is kept, as the next batch often begins in it."""

    _last: tuple[int, Array] | None = None

    @abstractmethod
    def _chunk(self, row: int) -> tuple[int, int]:
        """Give the bounds of a row's chunk: its first row, and one after its last."""

    @abstractmethod
    def _load(self, out: Array, start: int) -> None:
        """Fill `out`, which begins and ends where chunks do."""

    def read_into(self, out: Array, start: int) -> None:
        """Decode whole chunks into place; of the first and the last what is wanted."""
        at, stop = start, start + len(out)
        while at < stop:
            first, end = self._chunk(at)
            if first == at and end <= stop:
                last = self._chunk(stop - 1)
                end = stop if last[1] == stop else last[0]
                self._load(out[at - start : end - start], at)
            else:
                end = min(end, stop)
                out[at - start : end - start] = self._kept(at)[at - first : end - first]
            at = end

    def pick_into(self, out: Array, places: RowIds, rows: RowIds) -> None:
        """Decode each chunk once, and take its rows."""
        at = 0
        while at < len(rows):
            first, end = self._chunk(int(rows[at]))
            stop = int(np.searchsorted(rows, end))
            out[places[at:stop]] = self._kept(first)[rows[at:stop] - first]
            at = stop

    def close(self) -> None:
        """Let the kept chunk go."""
        self._last = None

    def _kept(self, row: int) -> Array:
        first, end = self._chunk(row)
        last = self._last
        if last is not None and last[0] == first:
            return last[1]
        values = np.empty((end - first, *self.shape), self.dtype)
        self._load(values, first)
        self._last = (first, values)
        return values


class RegularPart(ChunkedPart):
    """Chunks of one length along the rows.

    Attributes:
        chunk_rows: Rows in a chunk; the last one may have fewer.
    """

    chunk_rows: int

    def _chunk(self, row: int) -> tuple[int, int]:
        first = row // self.chunk_rows * self.chunk_rows
        return first, min(first + self.chunk_rows, self.rows)


class WholePart(Part):
    """A part that is small enough to be read whole.

    Args:
        base: The part.
    """

    whole: ClassVar[bool] = True

    def __init__(self, base: Part) -> None:
        self.path, self.shape, self.dtype, self.rows = base.path, base.shape, base.dtype, base.rows
        self.base = base
        self.entry = getattr(base, "entry", "")

    def read_into(self, out: Array, start: int) -> None:
        """Read from the base."""
        self.base.read_into(out, start)

    def close(self) -> None:
        """Close the base."""
        self.base.close()


def whole_if_small(part: ChunkedPart) -> Part:
    """Have a small part read whole, a large one by its chunks."""
    return WholePart(part) if part.nbytes <= SMALL else part


def check_chunk(path: Path, size: int) -> None:
    """Refuse chunks that would take absurdly much memory.

    Raises:
        DataError: They are larger than 2 GiB.
    """
    if size > MOST_CHUNK:
        raise DataError(
            path,
            found=f"chunks of {size} bytes",
            expected=f"at most {MOST_CHUNK}",
            remedy="If the file is not damaged, store it in smaller chunks.",
        )
