"""All rows of a source in the order of an epoch, before some are excluded and batches are cut."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from deeptrain.data.blocks import BLOCK_ROWS
from deeptrain.data.layout import Layout
from deeptrain.data.permute import ROUNDS, Words, invert, permute
from deeptrain.state.hashing import mix_many

if TYPE_CHECKING:
    from collections.abc import Callable

    from deeptrain.data.batch import RowIds

Step: TypeAlias = "Callable[[Words, Any, Words], Words]"  # `permute` or `invert`


class Shuffling:
    """Maps positions in an epoch to rows and back; the lookups cost nothing but what is looked up.

    Args:
        sizes: Row counts of the source's sets, int64 of shape `(sets,)`.
        mode: None, `"sets"`, `"batches"`, `"samples"` or `"global"`. Whole batches are mixed by who cuts them
            (`mixed`): here `"batches"` is as `"sets"`.
        seed: Any whole number.
        group: Sets in a group.
        shuffle_sets: Whether the sets' order is shuffled too.
    """

    def __init__(self, sizes: RowIds, mode: str | None, seed: int, group: int, *, shuffle_sets: bool) -> None:
        self._sizes = sizes
        self._total = int(sizes.sum())
        self._mode = mode
        self._seed = seed
        self._group = group
        self._shuffle_sets = shuffle_sets
        self._cached: tuple[int, Layout] | None = None

    def rows(self, epoch: int, positions: RowIds) -> RowIds:
        """Give the rows at some positions of the epoch."""
        if self._mode is None:
            return positions
        if self._mode == "global":
            return self._all_mixed(permute, epoch, positions)
        layout = self.layout(epoch)
        if self._mode == "samples":
            positions = self._samples_mixed(permute, epoch, positions)
        return layout.rows(positions)

    def positions(self, epoch: int, rows: RowIds) -> RowIds:
        """Find the positions of some rows in the epoch: the inverse of `rows`."""
        if self._mode is None:
            return rows
        if self._mode == "global":
            return self._all_mixed(invert, epoch, rows)
        positions = self.layout(epoch).positions(rows)
        if self._mode == "samples":
            return self._samples_mixed(invert, epoch, positions)
        return positions

    def layout(self, epoch: int) -> Layout:
        """Give the epoch's sets in their order; one epoch's is held."""
        cached = self._cached
        if cached is None or cached[0] != epoch:
            self._cached = cached = (epoch, Layout(self._sizes, self._sets(epoch)))
        return cached[1]

    def set_at(self, epoch: int, position: int) -> tuple[int, int, int]:
        """Give the row at a position, how many rows its set has, and how many of them come before this one.

        Where rows or batches are mixed, rows do not follow each other in their set, and it is not asked for.
        """
        layout = self.layout(epoch)
        which = bisect_right(layout.starts, position) - 1
        before = position - int(layout.starts[which])
        return int(layout.sources[which]) + before, int(self._sizes[layout.sets[which]]), before

    def group_starts(self, epoch: int) -> RowIds:
        """Give the position at which each group of sets begins."""
        return self.layout(epoch).starts[:: self._group]

    def mixed(
        self, step: Step, purpose: str, epoch: int, values: RowIds, *, starts: RowIds, total: int
    ) -> RowIds:
        """Permute numbers within stretches of `range(total)`, each stretch under keys of its own.

        Args:
            step: `permute`, or `invert` for the way back.
            purpose: Tells these permutations from others of the epoch.
            epoch: From 0.
            values: int64 of shape `(n,)`, n at least 1, each below `total`.
            starts: Where the stretches begin: ascending, the first at 0; some may be empty.
            total: Where the last one ends.
        """
        sizes = np.diff(starts, append=total).astype(np.uint64)
        which = np.searchsorted(starts, values, side="right") - 1
        present, column = np.unique(which, return_inverse=True)
        keys = np.stack([self._keys(purpose, epoch, stretch) for stretch in present.tolist()], axis=1)
        within = (values - starts[which]).astype(np.uint64)
        return starts[which] + step(within, sizes[which], keys[:, column]).astype(np.int64)

    def _samples_mixed(self, step: Step, epoch: int, positions: RowIds) -> RowIds:
        starts = self.group_starts(epoch)
        return self.mixed(step, "group", epoch, positions, starts=starts, total=self._total)

    def _all_mixed(self, step: Step, epoch: int, values: RowIds) -> RowIds:
        return step(values.astype(np.uint64), self._total, self._keys("rows", epoch)).astype(np.int64)

    def _sets(self, epoch: int) -> RowIds:
        places = np.arange(len(self._sizes))
        if self._mode is None or not self._shuffle_sets:
            return places
        keys = self._keys("sets", epoch)
        return by_block(
            lambda some: permute(some.astype(np.uint64), len(places), keys).astype(np.int64), places
        )

    def _keys(self, purpose: str, *counters: int) -> Words:
        return np.array(mix_many(ROUNDS, self._seed, "order", purpose, *counters), np.uint64)


def by_block(compute: Callable[[RowIds], RowIds], values: RowIds) -> RowIds:
    """Compute a function of each value, some thousand at a time: what is in between stays small, and in the cache."""
    if len(values) <= BLOCK_ROWS:
        return compute(values) if len(values) else values
    blocks = range(0, len(values), BLOCK_ROWS)
    return np.concatenate([compute(values[start : start + BLOCK_ROWS]) for start in blocks])
