"""The order of rows as a pure function of (seed, epoch, batch): no walking, no array as long as the data."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np

from deeptrain.data.blocks import Blocks, Cut, Last, Stretch
from deeptrain.data.checks import at_least, flag, known, whole
from deeptrain.data.layout import Gaps
from deeptrain.data.permute import invert, permute
from deeptrain.data.shuffling import Shuffling, Step, by_block

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from deeptrain.data.batch import RowIds

Shuffle: TypeAlias = Literal["sets", "batches", "samples", "global"] | bool | None

__all__ = ["LASTS", "SHUFFLES", "Last", "Order", "Shuffle", "out_of_range", "shard"]

SHUFFLES = (None, "sets", "batches", "samples", "global")
LASTS = ("keep", "drop", "pad")


class Order:
    """Maps (epoch, batch) to row ids, in constant time and memory.

    An epoch is laid out set by set, in the source's order or shuffled. Under `"batches"` the batches are cut from the
    layout's rows one after another, and those that begin within one group of sets are permuted among each other; a
    short last batch stays last. Under `"samples"` the rows within one group of sets are permuted before batches are cut.

    Args:
        sizes: Row counts of the source's sets, in order; row ids count through them.
        batch_size: Rows in a batch, at least 1; the last batch of an epoch may have fewer.
        shuffle: None, `"sets"` (the sets' order), `"batches"` (the sets' order, then whole batches within groups of
            `group` sets), `"samples"` (the sets' order, then rows within such groups), `"global"` (all rows) or True,
            which means `"global"`.
        seed: Any whole number.
        group: Sets in a group, under `"batches"` and `"samples"`; the last group may have fewer.
        last: `"keep"` or `"drop"` a last batch that is short, or `"pad"` it with rows from the epoch's beginning.
        shuffle_sets: False keeps the sets' order under `"batches"` and `"samples"`.
        excluded: Rows that are not served; None for none.

    Attributes:
        rows_total: Rows in the source.
        rows_kept: Those that are not excluded.
        batches: Batches in an epoch.
        excluded: As given, ascending and each once.

    Raises:
        ValueError: A setting is out of range, or there would be no batch.
        TypeError: A number is not whole.

    Example:
        >>> order = Order([4, 4], 3, last="pad")
        >>> order.rows(0, 2).tolist(), order.padded(0, 2)
        ([6, 7, 0], 1)
    """

    def __init__(
        self,
        sizes: Sequence[int] | RowIds,
        batch_size: int,
        shuffle: Shuffle = None,
        seed: int = 0,
        *,
        group: int = 8,
        last: Last = "keep",
        shuffle_sets: bool = True,
        excluded: RowIds | None = None,
    ) -> None:
        self.batch_size = at_least(1, "batch_size", batch_size)
        self.shuffle = _known_shuffle(shuffle)
        self.seed = whole("seed", seed)
        self.group = at_least(1, "group", group)
        self.last = cast("Last", known("last", last, LASTS))
        self.shuffle_sets = flag("shuffle_sets", shuffle_sets)
        if self.shuffle == "sets" and not self.shuffle_sets:
            raise ValueError(
                "shuffle='sets' with shuffle_sets=False is a contradiction: expected one of the two; "
                "shuffle=None keeps everything in order"
            )
        self.sizes = np.asarray(sizes, np.int64)
        self.rows_total = int(self.sizes.sum())
        self.excluded = np.unique(np.asarray([] if excluded is None else excluded, np.int64))
        self.rows_kept = self.rows_total - len(self.excluded)
        self._cut = Cut(self.rows_kept, self.batch_size, self.last)
        self.batches = self._cut.batches
        if self.batches == 0:
            raise ValueError(self._nothing())
        self._shuffling = Shuffling(
            self.sizes, self.shuffle, self.seed, self.group, shuffle_sets=self.shuffle_sets
        )
        self._no_gaps = Gaps(self.excluded[:0], self.rows_total)
        self._cached_gaps: tuple[int, Gaps] | None = None
        self._cached_begins: tuple[int, list[int]] | None = None
        self._blocks, self._groups = Blocks(), Blocks()

    def _nothing(self) -> str:
        if self.rows_total == 0:
            return f"no rows to load: found {len(self.sizes)} sets with 0 rows; expected at least one row"
        if self.rows_kept == 0:
            return f"no rows to load: all {self.rows_total} are excluded; expected at least one that is not"
        return (
            f"no batch to load: found {self.rows_kept} rows, fewer than batch_size {self.batch_size}, and last='drop' "
            f"drops a short batch; make batch_size smaller or set last='keep'"
        )

    def span(self, epoch: int, batch: int) -> tuple[int, int]:
        """Give the positions of a batch in its epoch: first, and one after the last; without those that pad it.

        Raises:
            IndexError: There is no such epoch or batch.
        """
        if not 0 <= batch < self.batches or epoch < 0:
            raise IndexError(out_of_range(epoch, batch, self.batches))
        return self._cut.span(batch)

    def padded(self, epoch: int, batch: int) -> int:
        """Count the rows that were added at a batch's end to fill it.

        Raises:
            IndexError: There is no such epoch or batch.
        """
        self.span(epoch, batch)
        return self._cut.padded(batch)

    def rows(self, epoch: int, batch: int) -> RowIds:
        """Give the row ids of a batch, in order: int64 of shape `(size,)`; a fresh array.

        Raises:
            IndexError: There is no such epoch or batch.
        """
        padded = self.padded(epoch, batch)
        rows = self._blocks.rows(epoch, self._cut, batch, lambda positions: self.at(epoch, positions))
        if not padded:
            return rows
        return np.concatenate([rows, self.at(epoch, np.arange(padded) % self.rows_kept)])

    def replaced(self, *, batch_size: int | None = None, excluded: RowIds | None = None) -> Order:
        """Give the order with another batch size or other excluded rows.

        Raises:
            ValueError: There would be no batch.
        """
        return Order(
            self.sizes,
            self.batch_size if batch_size is None else batch_size,
            cast("Shuffle", self.shuffle),
            self.seed,
            group=self.group,
            last=self.last,
            shuffle_sets=self.shuffle_sets,
            excluded=self.excluded if excluded is None else excluded,
        )

    def at(self, epoch: int, positions: RowIds) -> RowIds:
        """Give the rows at some positions of an epoch, which count through its kept rows from 0.

        Args:
            epoch: From 0.
            positions: int64 of shape `(n,)`, each from 0 to `rows_kept - 1`.
        """
        return by_block(lambda some: self._at(epoch, some), positions)

    def positions(self, epoch: int, rows: RowIds) -> RowIds:
        """Find the positions of some rows in an epoch: the inverse of `at`.

        Args:
            epoch: From 0.
            rows: int64 of shape `(n,)`, each from 0 to `rows_total - 1`, and none that is excluded.
        """
        return by_block(lambda some: self._positions(epoch, some), rows)

    def row_span(self, epoch: int, start: int, stop: int) -> tuple[int, int] | None:
        """Give the rows at the positions `start` to `stop - 1` as one range, if they are known to be one.

        Returns:
            The first row, and one after the last: where nothing is shuffled and nothing in between is excluded.
        """
        if self.shuffle is not None:
            return None
        if len(self.excluded) == 0:
            return start, stop
        first, last = self.at(epoch, np.array([start, stop - 1])).tolist()
        return (first, last + 1) if last - first == stop - start - 1 else None

    def run(self, epoch: int, batch: int, most: int) -> range:
        """Give the rows of a batch that is a part of a set, and of those behind it, where they follow each other in the source.

        Args:
            epoch: From 0.
            batch: From 0.
            most: How many rows there may be.

        Returns:
            Rows of whole batches, or of the epoch's last one where that is short and is not padded; empty for a batch that
            is no part of a set, and where rows are not known to follow each other.

        Raises:
            IndexError: There is no such epoch or batch.
        """
        start, _ = self.span(epoch, batch)
        if self.shuffle not in {None, "sets"} or len(self.excluded):
            return range(0)
        row, size, before = self._shuffling.set_at(epoch, start)
        if self.batch_size >= size:
            return range(0)
        left = size - before if self.shuffle else most
        rest = self.rows_kept - start
        if self.last != "keep":
            rest -= rest % self.batch_size
        left = min(left, most)
        return range(row, row + (rest if left >= rest else left - left % self.batch_size))

    def stretches(self, epoch: int, batch: int, most: int) -> tuple[Stretch, ...]:
        """Give the groups of sets that a batch draws from, under `"samples"`, so that each can be read whole.

        Args:
            epoch: From 0.
            batch: From 0.
            most: How many rows a group may have.

        Returns:
            The rows of each group as they are served, and which of them are the batch's, without those that pad it; `()`
            under other modes, and where a group has more rows.

        Raises:
            IndexError: There is no such epoch or batch.
        """
        span = self.span(epoch, batch)
        if self.shuffle != "samples":
            return ()
        return self._groups.stretches(
            epoch, self.group_begins(epoch), span, lambda positions: self.at(epoch, positions), most
        )

    def group_begins(self, epoch: int) -> list[int]:
        """Give the position at which each group of sets begins, and one after the last."""
        cached = self._cached_begins
        if cached is None or cached[0] != epoch:
            begins = self._gaps(epoch).rank(self._shuffling.group_starts(epoch)).tolist()
            self._cached_begins = cached = (epoch, [*begins, self.rows_kept])
        return cached[1]

    def sets_of(self, rows: RowIds) -> RowIds:
        """Give the index of each row's set."""
        return np.searchsorted(self._stops, rows, side="right")

    @cached_property
    def has_no_empty_sets(self) -> bool:
        """Whether each set has a row."""
        return bool((self.sizes > 0).all())

    @cached_property
    def kept_sets(self) -> npt.NDArray[np.bool_]:
        """Tell which sets have a row that is not excluded: of shape `(sets,)`."""
        return np.bincount(self.sets_of(self.excluded), minlength=len(self.sizes)) < self.sizes

    @cached_property
    def _stops(self) -> RowIds:
        return np.cumsum(self.sizes)

    def _at(self, epoch: int, positions: RowIds) -> RowIds:
        if self.shuffle == "batches":
            positions = self._batches_mixed(permute, epoch, positions)
        return self._shuffling.rows(epoch, self._gaps(epoch).at(positions))

    def _positions(self, epoch: int, rows: RowIds) -> RowIds:
        positions = self._gaps(epoch).rank(self._shuffling.positions(epoch, rows))
        return self._batches_mixed(invert, epoch, positions) if self.shuffle == "batches" else positions

    def _gaps(self, epoch: int) -> Gaps:
        if len(self.excluded) == 0:
            return self._no_gaps
        cached = self._cached_gaps
        if cached is None or cached[0] != epoch:
            dropped = by_block(lambda some: self._shuffling.positions(epoch, some), self.excluded)
            self._cached_gaps = cached = (epoch, Gaps(np.sort(dropped), self.rows_total))
        return cached[1]

    def _batches_mixed(self, step: Step, epoch: int, positions: RowIds) -> RowIds:
        """Move each position to where its batch is moved; what is short at the end stays."""
        full = self.rows_kept // self.batch_size
        batches, within = np.divmod(positions, self.batch_size)
        whole = batches < full
        if whole.any():
            # The first batch that begins in each group; a group within one batch may have none.
            begin = np.array(self.group_begins(epoch)[:-1])
            starts = np.minimum(-(-begin // self.batch_size), full)
            # Each batch once: its rows move together.
            present, row = np.unique(batches[whole], return_inverse=True)
            mixed = self._shuffling.mixed(step, "batches", epoch, present, starts=starts, total=full)
            batches[whole] = mixed[row]
        return batches * self.batch_size + within


def shard(rows: RowIds, rank: int, world: int) -> RowIds:
    """Give the part of one batch that a rank serves.

    The parts follow each other in the order of the ranks, and their sizes differ by one at most; where a batch has fewer
    rows than there are ranks, the last ones get none.

    Args:
        rows: The batch's row ids, of shape `(size,)`.
        rank: From 0 to `world - 1`.
        world: How many ranks there are.

    Raises:
        ValueError: There is no such rank.

    Example:
        >>> [shard(np.arange(5), rank, 3).tolist() for rank in range(3)]
        [[0, 1], [2, 3], [4]]
    """
    world = at_least(1, "world", world)
    if not 0 <= rank < world:
        raise ValueError(f"rank: found {rank!r}, expected 0 to {world - 1} (the world has {world})")
    size, more = divmod(len(rows), world)
    start = rank * size + min(rank, more)
    return rows[start : start + size + (rank < more)]


def out_of_range(epoch: int, batch: int, batches: int) -> str:
    """Word the error for a place that is not there."""
    if batches == 0:
        return f"no batch {batch} in epoch {epoch}: edits left no batch in this epoch; the next one is in epoch {epoch + 1}"
    return f"no batch {batch} in epoch {epoch}: an epoch has the batches 0 to {batches - 1}, and epochs count from 0"


def _known_shuffle(value: Any) -> str | None:
    if isinstance(value, bool):
        return "global" if value else None
    return None if value is None else known("shuffle", value, SHUFFLES)
