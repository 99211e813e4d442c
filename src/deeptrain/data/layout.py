"""Where rows stand in an epoch: its sets one after another, and what is left out between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from deeptrain.data.batch import RowIds


class Layout:
    """The sets in an epoch's order, and which place each of their rows has in it.

    Args:
        sizes: Row counts of the source's sets, int64 of shape `(sets,)`.
        sets: The sets' indices in the epoch's order, int64 of the same shape.

    Attributes:
        sets: As given.
        starts: Where each of `sets` begins in the epoch.
        sources: The first row of each of them.
    """

    def __init__(self, sizes: RowIds, sets: RowIds) -> None:
        self.sets = sets
        self.starts = _starts(sizes[sets])
        self._first_rows = _starts(sizes)
        self.sources = self._first_rows[sets]
        self._places = np.empty_like(sets)
        self._places[sets] = np.arange(len(sets))

    def rows(self, positions: RowIds) -> RowIds:
        """Give the row at each position."""
        which = np.searchsorted(self.starts, positions, side="right") - 1
        return self.sources[which] + positions - self.starts[which]

    def positions(self, rows: RowIds) -> RowIds:
        """Give each row's position: the inverse of `rows`."""
        which = np.searchsorted(self._first_rows, rows, side="right") - 1
        return self.starts[self._places[which]] + rows - self._first_rows[which]

    def places(self, rows: RowIds) -> RowIds:
        """Give the place of each row's set among the sets, from 0."""
        return self._places[np.searchsorted(self._first_rows, rows, side="right") - 1]


def _starts(sizes: RowIds) -> RowIds:
    return np.cumsum(sizes) - sizes


class Gaps:
    """The numbers below a total, less some that are left out; memory in proportion to these.

    Args:
        dropped: What is left out: int64, ascending, each once.
        total: All numbers are below it.

    Attributes:
        dropped: As given.
        kept: How many numbers are not left out.

    Example:
        >>> gaps = Gaps(np.array([0, 3]), 6)
        >>> gaps.at(np.arange(gaps.kept)).tolist()
        [1, 2, 4, 5]
    """

    def __init__(self, dropped: RowIds, total: int) -> None:
        self.dropped = dropped
        self.total = total
        self.kept = total - len(dropped)
        self._kept_before = dropped - np.arange(len(dropped))

    def at(self, ranks: RowIds) -> RowIds:
        """Give the kept number of each rank, from 0."""
        return ranks + np.searchsorted(self._kept_before, ranks, side="right")

    def rank(self, numbers: RowIds) -> RowIds:
        """Count the kept numbers before each number: the inverse of `at` for kept ones."""
        return numbers - np.searchsorted(self.dropped, numbers)

    def without(self, more: RowIds) -> Gaps:
        """Leave out more numbers, in any order."""
        return Gaps(np.union1d(self.dropped, more), self.total)
