"""`Column`: the sets of one column (the inputs, or the labels), one after another, as one table of rows.

Rows that follow each other are read straight into the batch's memory. Rows out of order are read together with those
that come next, where the order says which these are (`stretches`): each to the place from where it is served, so that
batches are pieces of what was read. Else they are picked one by one, or, where a set can only be read whole, from such
sets, which are kept until the memory for them is used up.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from deeptrain.data.batch import is_run
from deeptrain.data.buffers import Buffers, fresh
from deeptrain.data.errors import DataError
from deeptrain.data.residents import Residents
from deeptrain.data.slices import MOST_IN_SET, Slices
from deeptrain.data.source import spell

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deeptrain.data.batch import RowIds
    from deeptrain.data.blocks import Stretch
    from deeptrain.data.buffers import Take
    from deeptrain.data.formats.base import Array, Part

    Stretches: TypeAlias = tuple[Stretch, ...]

MEMORY = 1 << 30  # bytes of sets that are kept while the batches go through them
FEW = 1 << 22  # bytes of a column, such as labels, that is read at once and kept
LARGE = 1 << 12  # bytes of a row, from which on one copied by itself costs no more than picked with others
STRETCHES = 2  # that are open, as a batch may draw from two


class Column:
    """Several sets as one table of rows.

    Args:
        parts: The sets' values, in the sets' order.
        dtype: What to cast to on reading; by default values stay as they are stored.
        memory: Bytes of whole sets to keep for the batches to come.
        few: Bytes of a column that is read at once and kept.

    Attributes:
        rows: Rows of all sets.
        sizes: Rows of each set.
        shape: One row's shape.
        dtype: The dtype of what is read.

    Raises:
        DataError: A set has another shape or dtype than the first one.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        dtype: np.dtype[Any] | None = None,
        memory: int = MEMORY,
        few: int = FEW,
    ) -> None:
        first = parts[0]
        for part in parts:
            _refuse_other(part, first)
        self.parts = list(parts)
        self.sizes = tuple(part.rows for part in parts)
        self.rows = sum(self.sizes)
        self.shape = first.shape
        self.dtype = first.dtype if dtype is None else np.dtype(dtype)
        self._casts = self.dtype != first.dtype
        # A float may be rounded. What a whole number or a boolean does not hold is an error.
        self._exact = not np.issubdtype(self.dtype, np.inexact) and not np.can_cast(
            first.dtype, self.dtype, "safe"
        )
        self._torch_dtype = torch.from_numpy(np.empty(0, self.dtype)).dtype
        self._starts = np.cumsum((0, *self.sizes), dtype=np.int64)
        self._begins: list[int] = self._starts.tolist()
        self._all = tuple(range(len(parts)))
        self._bytes = int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize
        self._memory = memory
        self._pool = Buffers(most=memory)
        self._residents = Residents(memory)
        self._slices = Slices(memory)
        self._stretches = Slices(memory, count=STRETCHES)
        self._small = self.rows * self._bytes <= few
        self._kept_whole: torch.Tensor | None = None

    @property
    def row(self) -> str:
        """One row's type: `float32[28, 28]`."""
        return spell(self.shape, self.dtype)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row, as it is read."""
        return self._bytes

    def keep(self, sets: Sequence[int]) -> None:
        """Keep these sets in memory from when they are first read on."""
        self._residents.keep({(which,) for which in sets})

    def read_range(self, start: int, stop: int, take: Take = fresh, *, near: bool = False) -> torch.Tensor:
        """Read the rows `start` to `stop - 1` into one tensor; `start < stop`, within the table.

        Args:
            start: The first row.
            stop: One after the last.
            take: Gives the memory.
            near: Whether the other rows of their sets will be asked for soon. Then a set is read whole, and the tensor
                may be a piece of it.
        """
        if (everything := self._everything()) is not None:
            return everything.narrow_copy(0, start, stop - start)
        which = bisect_right(self._begins, start) - 1
        if near and stop <= self._begins[which + 1] and self._is_sliced(which, stop - start):
            begin = self._begins[which]
            return self._slice(which, start - begin, stop - begin)
        out = take((stop - start, *self.shape), self._torch_dtype)
        view = out.numpy()
        for which, low, high in self._runs(start, stop):
            begin, piece = self._begins[which], view[low - start : high - start]
            if near and self._is_sliced(which, stop - start):
                piece[...] = self._slice(which, low - begin, high - begin).numpy()
            else:
                self._fill(piece, which, low - begin)
        return out

    def _is_sliced(self, which: int, rows: int) -> bool:
        """Whether a batch of so many rows is cut from a set, which is cheaper than reading it by itself."""
        size = self.sizes[which]
        return rows < size and size * self._bytes <= MOST_IN_SET and not self._residents.is_kept((which,))

    def _slice(self, which: int, start: int, stop: int) -> torch.Tensor:
        return self._slices.give(which, start, stop, lambda: self._read_whole((which,)))

    def read(
        self, rows: RowIds, take: Take = fresh, stretches: Stretches = (), *, near: bool = False
    ) -> torch.Tensor:
        """Read rows in the order given into one tensor.

        Args:
            rows: Row ids, at least one, int64 of shape `(n,)`.
            take: Gives the memory.
            stretches: What to read together: the first rows lie in these, one after another.
            near: As for `read_range`.
        """
        if (everything := self._everything()) is not None:
            return everything.index_select(0, torch.from_numpy(rows))
        if stretches and max(len(one.rows) for one in stretches) * self._bytes <= self._memory // 3:
            return self._read_stretches(rows, take, stretches)
        if is_run(rows):
            return self.read_range(int(rows[0]), int(rows[-1]) + 1, take, near=near)
        out = take((len(rows), *self.shape), self._torch_dtype)
        if not self._pick_from_standing(out.numpy(), rows):
            self._gather(out.numpy(), rows)
        return out

    def close(self) -> None:
        """Let go of files and of what was kept; the next read begins anew."""
        self._kept_whole = None
        self._residents.clear()
        self._slices.clear()
        self._stretches.clear()
        self._pool.clear()
        for part in self.parts:
            part.close()

    # ------------------------------------------------------------------ rows that follow each other

    def _runs(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Cut a range of rows where one set ends and the next begins: (set, first row, one after the last)."""
        which = bisect_right(self._begins, start) - 1
        while start < stop:
            end = min(stop, self._begins[which + 1])
            if end > start:
                yield which, start, end
            start, which = end, which + 1

    def _fill(self, out: Array, which: int, start: int) -> None:
        """Fill an array with a set's rows from `start` on, in the cheapest way there is."""
        part = self.parts[which]
        if (part.whole and len(out) < part.rows) or self._residents.is_kept((which,)):
            kept = self._whole((which,)).numpy()
            out[...] = kept[start : start + len(out)]
        else:
            self._read_into(out, part, start)

    def _read_into(self, out: Array, part: Part, start: int) -> None:
        if self._casts:
            self._cast_into(out, part, start)
        else:
            part.read_into(out, start)

    def _cast_into(self, out: Array, part: Part, start: int) -> None:
        stored = np.empty(out.shape, part.dtype)
        part.read_into(stored, start)
        with np.errstate(invalid="ignore", over="ignore"):
            out[...] = stored
        if self._exact and not np.array_equal(out, stored):
            odd = stored[out != stored]
            raise DataError(
                part.path,
                found=f"{odd.flat[0]!s} among the {part.dtype} values",
                expected=f"values that {self.dtype} holds, as they are cast to it",
                remedy="Give a dtype that holds them.",
            )

    # ------------------------------------------------------------------ rows out of order

    def _everything(self) -> torch.Tensor | None:
        """Give the whole of a small column; None where it is not small, or cannot be read whole."""
        if self._kept_whole is None and self._small:
            try:
                self._kept_whole = self._whole(self._all)
            except DataError:
                self._small = False  # the error is the bad set's, and belongs to the batches that need it
        return self._kept_whole

    def _whole(self, sets: tuple[int, ...]) -> torch.Tensor:
        """Give some sets' values, one after another; read once and kept."""
        return self._residents.get(sets, lambda: self._read_whole(sets))

    def _read_whole(self, sets: tuple[int, ...]) -> torch.Tensor:
        rows = sum([self.sizes[which] for which in sets])
        out = self._pool.take((rows, *self.shape), self._torch_dtype)
        view, at = out.numpy(), 0
        for which in sets:
            size = self.sizes[which]
            self._read_into(view[at : at + size], self.parts[which], 0)
            at += size
        return out

    def _pick_from_standing(self, view: Array, rows: RowIds) -> bool:
        """Copy large rows one by one, where all their sets stand in memory as they are stored; False elsewhere."""
        if self._casts or self._bytes < LARGE:
            return False
        which = np.searchsorted(self._starts, rows, side="right") - 1
        sets, standing = which.tolist(), {}
        for each in set(sets):
            standing[each] = values = self.parts[each].standing()
            if values is None:
                return False
        for place, (each, row) in enumerate(zip(sets, (rows - self._starts[which]).tolist(), strict=True)):
            view[place] = standing[each][row]
        return True

    def _read_stretches(self, rows: RowIds, take: Take, stretches: Stretches) -> torch.Tensor:
        """Read rows of which the first lie in stretches; those behind, which fill a batch up, are from anywhere."""
        first = stretches[0]
        if first.stop - first.start == len(rows) and first.stop < len(first.rows):
            return self._piece(first)
        out = take((len(rows), *self.shape), self._torch_dtype)
        view, at = out.numpy(), 0
        for one in stretches:
            stop = at + one.stop - one.start
            view[at:stop] = self._piece(one).numpy()
            at = stop
        if at < len(rows):
            self._gather(view[at:], rows[at:])
        return out

    def _piece(self, one: Stretch) -> torch.Tensor:
        return self._stretches.give(one.name, one.start, one.stop, lambda: self._read_each(one.rows))

    def _read_each(self, rows: RowIds) -> torch.Tensor:
        """Read rows, each once, to their places: set by set, as straight copies read faster than scattered ones."""
        out = self._pool.take((len(rows), *self.shape), self._torch_dtype)
        view = out.numpy()
        for which, places, local in self._by_set(rows):
            values = self._values_of(which)
            view[places] = values if len(local) == len(values) else values[local]
        return out

    def _values_of(self, which: int) -> Array:
        """Give a set's values to copy from at once."""
        if self._residents.is_kept((which,)):
            return self._whole((which,)).numpy()
        standing = None if self._casts else self.parts[which].standing()
        return self._read_whole((which,)).numpy() if standing is None else standing

    def _gather(self, view: Array, rows: RowIds) -> None:
        """Read rows from anywhere; each set is visited once, its rows in ascending order."""
        for which, places, local in self._by_set(rows):
            self._pick(view, places, which, local)

    def _by_set(self, rows: RowIds) -> Iterator[tuple[int, RowIds, RowIds]]:
        """Part rows by set: (set, their places among `rows`, their numbers in the set in ascending order)."""
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        which = np.searchsorted(self._starts, ascending, side="right") - 1
        cuts = np.flatnonzero(np.diff(which)) + 1
        for places, wanted, part in zip(
            np.split(order, cuts), np.split(ascending, cuts), which[np.r_[0, cuts]].tolist(), strict=True
        ):
            yield part, places, wanted - self._starts[part]

    def _pick(self, view: Array, places: RowIds, which: int, local: RowIds) -> None:
        if is_run(local) and is_run(places):
            self._fill(view[int(places[0]) : int(places[-1]) + 1], which, int(local[0]))
        elif self.parts[which].whole or self._casts or self._residents.is_kept((which,)):
            view[places] = self._whole((which,)).numpy()[local]
        else:
            self.parts[which].pick_into(view, places, local)


def _refuse_other(part: Part, first: Part) -> None:
    if (part.shape, part.dtype) != (first.shape, first.dtype):
        raise DataError(
            part.path,
            found=f"rows of {spell(part.shape, part.dtype)}",
            expected=f"rows of {spell(first.shape, first.dtype)}, as in {first.path.name}",
            remedy="Write all sets with one dtype and one shape beyond the first axis.",
        )
