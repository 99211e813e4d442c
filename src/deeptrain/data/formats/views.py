"""Parts of parts: some of a part's rows as a set of their own, and the rows of one file that holds all sets."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from deeptrain.data.forks import renew_in_children
from deeptrain.data.formats.base import Array, Part
from deeptrain.data.formats.raw import RawPart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deeptrain.data.batch import RowIds


class Slice(Part):
    """The rows of a part from `start` on, as many as are asked for.

    Args:
        base: What they are rows of.
        start: The first one.
        rows: How many.
    """

    def __init__(self, base: Part, start: int, rows: int) -> None:
        self.path, self.shape, self.dtype, self.rows = base.path, base.shape, base.dtype, rows
        self.base, self.start = base, start

    def read_into(self, out: Array, start: int) -> None:
        """Read from the base."""
        self.base.read_into(out, self.start + start)

    def pick_into(self, out: Array, places: RowIds, rows: RowIds) -> None:
        """Pick from the base."""
        self.base.pick_into(out, places, rows + self.start)

    def close(self) -> None:
        """Close the base."""
        self.base.close()


class Held(Part):
    """A part that can only be read whole, read once for all the sets that are cut out of it."""

    def __init__(self, base: Part) -> None:
        self.path, self.shape, self.dtype, self.rows = base.path, base.shape, base.dtype, base.rows
        self.base = base
        self._values: Array | None = None
        self._lock = threading.Lock()
        renew_in_children(self)

    def renew(self) -> None:
        """Begin anew in a child process."""
        self._lock = threading.Lock()

    def read_into(self, out: Array, start: int) -> None:
        """Copy from memory."""
        out[...] = self._whole()[start : start + len(out)]

    def pick_into(self, out: Array, places: RowIds, rows: RowIds) -> None:
        """Copy from memory."""
        out[places] = self._whole()[rows]

    def close(self) -> None:
        """Let the values go."""
        self._values = None
        self.base.close()

    def _whole(self) -> Array:
        with self._lock:  # a second thread waits instead of reading it too
            values = self._values
            if values is None:
                values = np.empty((self.rows, *self.shape), self.dtype)
                self.base.read_into(values, 0)
                self._values = values
            return values


class Row(Part):
    """One row of a part of shape `(sets, rows, ...)`, as a set; for parts whose values are not just bytes in a file."""

    whole: ClassVar[bool] = True

    def __init__(self, base: Part, index: int) -> None:
        self.path, self.dtype = base.path, base.dtype
        self.rows, self.shape = base.shape[0], base.shape[1:]
        self.base, self.index = base, index

    def read_into(self, out: Array, start: int) -> None:
        """Read the set whole, and keep what is wanted of it."""
        if len(out) == self.rows:
            self.base.read_into(out[np.newaxis], self.index)
            return
        values = np.empty((1, self.rows, *self.shape), self.dtype)
        self.base.read_into(values, self.index)
        out[...] = values[0, start : start + len(out)]

    def close(self) -> None:
        """Close the base."""
        self.base.close()


def cut(part: Part, sizes: Sequence[int]) -> list[Part]:
    """Cut a part into sets of so many rows, one after another."""
    if len(sizes) == 1:
        return [part]
    base = Held(part) if part.whole else part
    starts = np.cumsum((0, *sizes)).tolist()
    return [Slice(base, start, size) for start, size in zip(starts, sizes, strict=False)]


def unstack(part: Part) -> list[Part]:
    """Give the sets of a part of shape `(sets, rows, ...)`."""
    if part.whole:
        part = Held(part)
    flat = part.joined_axes() if isinstance(part, RawPart) else None
    if flat is None:
        return [Row(part, index) for index in range(part.rows)]
    rows = part.shape[0]
    return [Slice(flat, index * rows, rows) for index in range(part.rows)]
