"""Cutting rows into sets: which rows of a table come in which set, and blocks of any size joined to sets of one size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from deeptrain.data.errors import joined
from deeptrain.data.permute import ROUNDS, permute
from deeptrain.data.source import spell
from deeptrain.data.writers.rows import INPUTS
from deeptrain.data.writers.values import cast
from deeptrain.state.hashing import mix_many

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from deeptrain.data.batch import RowIds
    from deeptrain.data.formats.base import Array
    from deeptrain.data.writers.rows import Block, Table

Columns: TypeAlias = "dict[str, Array]"
Remainder: TypeAlias = Literal["keep", "drop", "oversample"]

REMAINDERS = ("keep", "drop", "oversample")
NO_ROWS = "write_sets: found no rows, expected at least one"
FIRST_ROOM = 1024  # rows that memory is taken for before it is known how many there are


class Selection(NamedTuple):
    """Which rows of a table are written, and where.

    Attributes:
        rows: Rows in the table.
        per_set: Rows in a set.
        seed: The seed of the order; None where rows keep theirs.
        remainder: What becomes of rows that fill no set.
    """

    rows: int
    per_set: int
    seed: int | None
    remainder: Remainder

    @property
    def total(self) -> int:
        """How many rows are written."""
        full = self.rows - self.rows % self.per_set
        if self.remainder == "keep" or full == self.rows:
            return self.rows
        return full if self.remainder == "drop" else full + self.per_set

    def ids(self) -> Iterator[RowIds]:
        """Give the rows of each set, in their order, set by set."""
        for start in range(0, self.total, self.per_set):
            yield self._rows_at(np.arange(start, min(start + self.per_set, self.total)))

    def _rows_at(self, positions: RowIds) -> RowIds:
        """Look positions up: first all rows, each once, then those that are written a second time."""
        own, again = positions[positions < self.rows], positions[positions >= self.rows] - self.rows
        if self.seed is not None:
            own = self._permuted(own, self.seed, "rows")
        if not len(again):
            return own
        # Taken by chance: the first rows of a sorted data set would all be of one class.
        return np.concatenate([own, self._permuted(again % self.rows, self.seed or 0, "again")])

    def _permuted(self, positions: RowIds, seed: int, purpose: str) -> RowIds:
        keys = np.array(mix_many(ROUNDS, seed, "write", purpose), np.uint64)
        return permute(positions.astype(np.uint64), self.rows, keys).astype(np.int64)


def in_order(table: Table, selection: Selection) -> Iterator[Block]:
    """Give a table's rows as they are to be written."""
    for ids in selection.ids():
        yield from table.blocks(ids)


def joined_to_sets(
    blocks: Iterable[Block], per_set: int, *, short: bool, dtype: np.dtype[Any] | None = None
) -> Iterator[Columns]:
    """Join blocks and cut them into sets.

    Args:
        blocks: Rows in their order.
        per_set: Rows in a set.
        short: Whether a last set with fewer rows is given too.
        dtype: What inputs are cast to.

    Yields:
        Each set's columns by their names. Their memory is used again for the next set.

    Raises:
        ValueError: A row is of another shape or dtype than the first one, or cannot be cast; or some rows have
            labels and some have none.
    """
    columns: dict[str, _Column] = {}
    count = 0
    for block in blocks:
        columns = columns or {
            name: _Column(name, per_set, dtype if name == INPUTS else None) for name in block.columns
        }
        _refuse_other(columns, block)
        at = 0
        while at < block.rows:
            stop = min(at + per_set - count, block.rows)
            for name, column in columns.items():
                column.put(count, block.columns[name][at:stop], block.first + at)
            count, at = count + stop - at, stop
            if count == per_set:
                yield {name: column.first(count) for name, column in columns.items()}
                count = 0
    if count and short:
        yield {name: column.first(count) for name, column in columns.items()}


def _refuse_other(columns: dict[str, _Column], block: Block) -> None:
    missing, extra = columns.keys() - block.columns.keys(), block.columns.keys() - columns.keys()
    if missing or extra:
        found = f"no {joined(missing)}" if missing else joined(extra)
        raise ValueError(
            f"write_sets: row {block.first} has {found}, unlike those before it; expected them for every row or for none"
        )


class _Column:
    """Standing memory for one set's rows of one kind, all of them like the first."""

    def __init__(self, name: str, rows: int, dtype: np.dtype[Any] | None) -> None:
        self._name, self._most, self._dtype = name, rows, dtype
        self._like = ""
        self._values: Array | None = None

    def first(self, count: int) -> Array:
        assert self._values is not None
        return self._values[:count]

    def put(self, at: int, rows: Array, number: int) -> None:
        found = spell(rows.shape[1:], rows.dtype)
        if self._values is None:
            self._like = found
            self._values = np.empty((min(self._most, FIRST_ROOM), *rows.shape[1:]), self._dtype or rows.dtype)
            _refuse_empty(self._name, rows, number)
        if found != self._like:
            raise ValueError(
                f"write_sets: {self._name} of row {number} are {found}, those before it {self._like}; expected one shape "
                f"and dtype for all rows: cut or pad them, or convert them"
            )
        self._values = _with_room(self._values, at + len(rows), self._most)
        self._values[at : at + len(rows)] = cast(rows, self._values.dtype, number)


def _refuse_empty(name: str, rows: Array, number: int) -> None:
    if 0 in rows.shape[1:]:
        raise ValueError(
            f"write_sets: {name} of row {number} are {spell(rows.shape[1:], rows.dtype)}, expected at least one value in a row"
        )


def _with_room(values: Array, rows: int, most: int) -> Array:
    """Give memory for so many rows, with what is in the present one; twice as much each time, so that little is copied."""
    if rows <= len(values):
        return values
    larger = np.empty((min(most, max(rows, 2 * len(values))), *values.shape[1:]), values.dtype)
    larger[: len(values)] = values
    return larger
