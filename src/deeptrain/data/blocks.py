"""A sequence of rows cut into batches, which are computed by the block."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from deeptrain.data.batch import RowIds

Last: TypeAlias = Literal["keep", "drop", "pad"]

BLOCK_ROWS = 8192  # NumPy costs about 100 us a call whatever the size, so batches are computed by the block
BLOCKS_HELD = 4  # so that one who reads ahead and one who looks back do not drive out each other's


class Cut(NamedTuple):
    """How a sequence is cut into batches.

    Attributes:
        total: The sequence's length.
        size: Rows in a batch.
        last: What becomes of a last batch that is short: `"keep"`, `"drop"` or `"pad"`.
    """

    total: int
    size: int
    last: Last

    @property
    def batches(self) -> int:
        """How many batches there are."""
        full, short = divmod(self.total, self.size)
        return full + (short > 0 and self.last != "drop")

    def span(self, batch: int) -> tuple[int, int]:
        """Give where a batch begins and ends in the sequence."""
        start = batch * self.size
        return start, min(start + self.size, self.total)

    def padded(self, batch: int) -> int:
        """Count the rows that are missing in a batch and are filled in."""
        if self.last != "pad":
            return 0
        start, stop = self.span(batch)
        return self.size - (stop - start)


class Stretch(NamedTuple):
    """A part of some rows that are best read together, as all of them are served one after another.

    Attributes:
        name: Tells these rows, in this order, from all others.
        rows: All of them, in the order in which they are served; not to be changed.
        start: Where the part begins in `rows`.
        stop: One after its end.
    """

    name: Hashable
    rows: RowIds
    start: int
    stop: int


def joined(stretches: Sequence[Stretch]) -> RowIds:
    """Give the rows of some parts, one after another; a fresh array."""
    return np.concatenate([one.rows[one.start : one.stop] for one in stretches])


class Blocks:
    """Computes batches by the block, and holds the last few blocks; threads may ask at once."""

    def __init__(self) -> None:
        self._held: tuple[tuple[Hashable, RowIds], ...] = ()

    def rows(self, name: Hashable, cut: Cut, batch: int, compute: Callable[[RowIds], RowIds]) -> RowIds:
        """Give a batch's part of the sequence of this name; a fresh array.

        Args:
            name: Tells one sequence from another.
            cut: How the sequence is cut.
            batch: Which batch of it.
            compute: Gives the sequence's values at some indices.
        """
        span = max(1, BLOCK_ROWS // cut.size)  # whole batches only, so that a batch never lies in two blocks
        which = batch // span
        first = which * span * cut.size
        block = self._block((name, which), compute, first, min(first + span * cut.size, cut.total))
        start, stop = cut.span(batch)
        return block[start - first : stop - first].copy()

    def stretches(
        self,
        name: Hashable,
        begins: Sequence[int],
        span: tuple[int, int],
        compute: Callable[[RowIds], RowIds],
        most: int,
    ) -> tuple[Stretch, ...]:
        """Give the stretches of the sequence that a part of it lies in.

        Args:
            name: Tells one sequence from another.
            begins: Where the stretches begin, and where the last one ends; some may be empty.
            span: The part: the first index and one after the last.
            compute: Gives the sequence's values at some indices.
            most: How long a stretch may be; `()` where one is longer.
        """
        start, stop = span
        found = []
        count = len(begins) - 1
        at_once = max(1, BLOCK_ROWS * count // max(1, begins[-1]))
        for which in range(bisect_right(begins, start) - 1, bisect_left(begins, stop)):
            low, high = begins[which], begins[which + 1]
            if high - low > most:
                return ()
            if low < high:
                first = which - which % at_once
                origin, end = begins[first], begins[min(first + at_once, count)]
                rows = self._block((name, first), compute, origin, end)[low - origin : high - origin]
                found.append(Stretch((self, name, which), rows, max(start, low) - low, min(stop, high) - low))
        return tuple(found)

    def _block(self, key: Hashable, compute: Callable[[RowIds], RowIds], first: int, stop: int) -> RowIds:
        held = self._held
        for name, block in held:
            if name == key:
                return block
        block = compute(np.arange(first, stop))
        self._held = (
            (key, block),
            *held[: BLOCKS_HELD - 1],
        )  # replaced whole, so that no thread sees half of it
        return block
