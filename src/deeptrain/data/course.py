"""The batches of one epoch that was edited: what was served before an edit, and how it goes on."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from deeptrain.data.blocks import Blocks, Cut, Stretch
from deeptrain.data.layout import Gaps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deeptrain.data.batch import RowIds
    from deeptrain.data.order import Order


@dataclass(frozen=True, eq=False)
class Run:
    """The order from one place to the epoch's end, less what was dropped from it.

    Attributes:
        order: The order of which it is a part.
        epoch: And the epoch.
        gaps: The positions in the order that are dropped in this epoch, served ones too: no row of them pads a batch.
        start: How many of the kept positions come before it.
        size: Rows in a batch.
    """

    order: Order
    epoch: int
    gaps: Gaps
    start: int
    size: int
    _blocks: Blocks = field(init=False, default_factory=Blocks)
    _groups: Blocks = field(init=False, default_factory=Blocks)

    @property
    def cut(self) -> Cut:
        """How it is cut into batches."""
        return Cut(self.gaps.kept - self.start, self.size, self.order.last)

    def rows(self, batch: int) -> RowIds:
        """Give the rows of its batch of this number; what fills a short one is the order's beginning."""
        rows = self._blocks.rows(None, self.cut, batch, lambda ranks: self._at(ranks + self.start))
        padded = self.cut.padded(batch)
        return np.concatenate([rows, self._at(np.arange(padded) % self.gaps.kept)]) if padded else rows

    def _at(self, ranks: RowIds) -> RowIds:
        return self.order.at(self.epoch, self.gaps.at(ranks))

    def span(self, batch: int) -> tuple[int, int] | None:
        """Give the batch's rows as one range, if it is known to be one."""
        start, stop = self.cut.span(batch)
        first, last = self.gaps.at(np.array([start, stop - 1]) + self.start).tolist()
        if last - first != stop - start - 1 or self.cut.padded(batch):
            return None
        return self.order.row_span(self.epoch, first, last + 1)

    def stretches(self, batch: int, most: int) -> tuple[Stretch, ...]:
        """Give the groups of sets that a batch draws from; see `Order.stretches`."""
        if self.order.shuffle != "samples":
            return ()
        begins = self.gaps.rank(np.array(self.order.group_begins(self.epoch))) - self.start
        span = self.cut.span(batch)
        return self._groups.stretches(
            None, begins.clip(0).tolist(), span, lambda ranks: self._at(ranks + self.start), most
        )

    def after(self, batches: int) -> Run:
        """Give what comes after its first batches."""
        return replace(self, start=min(self.start + batches * self.size, self.gaps.kept))

    def skipping(self, batches: int) -> Run:
        """Drop its first batches."""
        ranks = np.arange(self.start, min(self.start + batches * self.size, self.gaps.kept))
        return replace(self, gaps=self.gaps.without(self.gaps.at(ranks)))

    def without(self, rows: RowIds) -> Run:
        """Drop these rows."""
        rows = np.setdiff1d(rows, self.order.excluded)
        gaps = self.gaps.without(self.order.positions(self.epoch, rows))
        start = gaps.rank(self.gaps.at(np.array([self.start])))
        return replace(self, gaps=gaps, start=int(start[0]))

    def resized(self, size: int) -> Run:
        """Cut it into batches of another size."""
        return replace(self, size=size)


@dataclass(frozen=True, eq=False)
class Listed:
    """Rows that are served because an edit names them.

    Attributes:
        ids: The rows, in order.
        size: Rows in a batch.
        pads: Whether a short last batch is filled, from the list's beginning.
    """

    ids: RowIds
    size: int
    pads: bool

    @property
    def cut(self) -> Cut:
        """How it is cut into batches; what is asked for by name is never dropped for being short."""
        return Cut(len(self.ids), self.size, "pad" if self.pads else "keep")

    def rows(self, batch: int) -> RowIds:
        """Give the rows of its batch of this number."""
        start, stop = self.cut.span(batch)
        return self.ids[np.arange(start, stop + self.cut.padded(batch)) % len(self.ids)]

    def span(self, batch: int) -> None:  # noqa: ARG002 - the same for all
        """Give nothing: no range is known."""
        return

    def stretches(self, batch: int, most: int) -> tuple[Stretch, ...]:  # noqa: ARG002 - the same for all
        """Give nothing: these rows may be from anywhere."""
        return ()

    def after(self, batches: int) -> Listed:
        """Give what comes after its first batches."""
        return replace(self, ids=self.ids[batches * self.size :])

    def skipping(self, batches: int) -> Listed:
        """Drop its first batches."""
        return self.after(batches)

    def without(self, rows: RowIds) -> Listed:
        """Drop these rows."""
        return replace(self, ids=self.ids[~np.isin(self.ids, rows)])

    def resized(self, size: int) -> Listed:
        """Cut it into batches of another size."""
        return replace(self, size=size)


Piece: TypeAlias = Run | Listed


class _Segment(NamedTuple):
    """A piece, and the epoch's index of its first batch; it ends where the next one begins."""

    first: int
    piece: Piece


class Course:
    """One epoch's batches as a list of segments; constant, as each edit makes a new one.

    Args:
        segments: In the order of their first batches; the last one is the run of what is left of the order.
    """

    def __init__(self, segments: Sequence[_Segment]) -> None:
        self._segments = tuple(segments)
        self._firsts = tuple(segment.first for segment in self._segments)
        last = self._segments[-1]
        self.batches = last.first + last.piece.cut.batches

    @classmethod
    def of(cls, order: Order, epoch: int) -> Course:
        """Give an epoch that was not edited yet."""
        gaps = Gaps(np.arange(0), order.rows_kept)
        return cls([_Segment(0, Run(order, epoch, gaps, 0, order.batch_size))])

    def rows(self, batch: int) -> RowIds:
        """Give the row ids of a batch that there is; a fresh array."""
        first, piece = self._find(batch)
        return piece.rows(batch - first)

    def padded(self, batch: int) -> int:
        """Count the rows that fill the batch."""
        first, piece = self._find(batch)
        return piece.cut.padded(batch - first)

    def span(self, batch: int) -> tuple[int, int] | None:
        """Give the batch's rows as one range, if it is known to be one."""
        first, piece = self._find(batch)
        return piece.span(batch - first)

    def stretches(self, batch: int, most: int) -> tuple[Stretch, ...]:
        """Give the groups of sets that the batch draws from; see `Order.stretches`."""
        first, piece = self._find(batch)
        return piece.stretches(batch - first, most)

    def batch_size(self, batch: int) -> int:
        """Give the batch size in force at a batch, or at the epoch's end."""
        return self._find(batch).piece.size

    def without(self, batch: int, rows: RowIds) -> Course:
        """Drop these rows from a batch on."""
        return self._from(batch, [piece.without(rows) for piece in self._rest(batch)])

    def skipping(self, batch: int, count: int) -> Course:
        """Drop so many batches from a batch on."""
        pieces: list[Piece] = []
        for piece in self._rest(batch):
            here = min(count, piece.cut.batches)
            pieces.append(piece.skipping(here))
            count -= here
        return self._from(batch, pieces)

    def repeating(self, batch: int, rows: RowIds) -> Course:
        """Serve these rows from a batch on, and then what would have come there."""
        rest = self._rest(batch)
        pads = rest[-1].cut.last == "pad"
        return self._from(batch, [Listed(rows, rest[-1].size, pads), *rest])

    def resized(self, batch: int, size: int) -> Course:
        """Cut batches of another size from a batch on."""
        return self._from(batch, [piece.resized(size) for piece in self._rest(batch)])

    def _find(self, batch: int) -> _Segment:
        return self._segments[bisect_right(self._firsts, batch) - 1]

    def _rest(self, batch: int) -> list[Piece]:
        """Give the pieces of what comes from a batch on."""
        which = bisect_right(self._firsts, batch) - 1
        first, piece = self._segments[which]
        return [piece.after(batch - first), *(segment.piece for segment in self._segments[which + 1 :])]

    def _from(self, batch: int, pieces: Sequence[Piece]) -> Course:
        """Give the course with other pieces from a batch on; what is before it stays."""
        segments = [segment for segment in self._segments if segment.first < batch]
        for piece in pieces:
            count = piece.cut.batches
            if count or piece is pieces[-1]:
                segments.append(_Segment(batch, piece))
                batch += count
        return Course(segments)
