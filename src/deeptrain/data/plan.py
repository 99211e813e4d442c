"""`Plan`: an order with the edits made to it, as a pure function of both."""

from __future__ import annotations

import copy
from bisect import bisect_right
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deeptrain.data.checks import at_least, whole
from deeptrain.data.course import Course
from deeptrain.data.edits import BatchSize, Edit, Exclude, Repeat, Skip, from_plain
from deeptrain.data.order import Order, Shuffle, out_of_range

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from deeptrain.data.batch import RowIds
    from deeptrain.data.blocks import Last, Stretch

SHOWN = 120  # characters of an edit in an error; it may name a million rows


class _Placed(NamedTuple):
    """An edit, and what came next when it was made."""

    epoch: int
    batch: int
    edit: Edit


class Plan:
    """Says which rows each batch of each epoch has; constant, as each edit makes a new plan.

    Access takes constant time (and the logarithm of the edits), memory is in proportion to the rows that edits name.
    The edits themselves are recorded by what they name; two plans of the same settings and edits are the same.

    Args:
        sizes: Row counts of the source's sets, in order; row ids count through them.
        batch_size: As for `Order`, like the further settings.
        shuffle: None, `"sets"`, `"batches"`, `"samples"`, `"global"` or True.
        seed: Any whole number.
        group: Sets in a group.
        last: `"keep"`, `"drop"` or `"pad"`.
        shuffle_sets: Whether the middle two modes shuffle the sets' order.
        limit_batches: An epoch is over after so many batches; None for all.
        overfit: Each epoch is the first so many batches of the first epoch; None for all.
        edits: What `edits` of another plan gave.

    Raises:
        ValueError: A setting or an edit is out of range.
        TypeError: A number is not whole.

    Example:
        >>> plan = Plan([6], batch_size=2).edited(0, 1, Skip(rows=[3]))
        >>> [plan.rows(0, batch).tolist() for batch in range(plan.batches(0))]
        [[0, 1], [2, 4], [5]]
    """

    def __init__(
        self,
        sizes: Sequence[int] | RowIds,
        *,
        batch_size: int,
        shuffle: Shuffle = None,
        seed: int = 0,
        group: int = 8,
        last: Last = "keep",
        shuffle_sets: bool = True,
        limit_batches: int | None = None,
        overfit: int | None = None,
        edits: Iterable[Mapping[str, Any]] = (),
    ) -> None:
        order = Order(sizes, batch_size, shuffle, seed, group=group, last=last, shuffle_sets=shuffle_sets)
        self._limits = {
            name: at_least(1, name, value)
            for name, value in (("limit_batches", limit_batches), ("overfit", overfit))
            if value is not None
        }
        self._most = min(self._limits.values(), default=None)
        self._orders: tuple[tuple[int, Order], ...] = (
            (0, order),
        )  # each with the first epoch that it is for
        self._courses: dict[int, Course] = {}  # the epochs that were edited after their beginning
        self._placed: tuple[_Placed, ...] = ()
        for plain in edits:
            self._add(_placed(plain))

    @property
    def rows_total(self) -> int:
        """Rows of the source."""
        return self._orders[0][1].rows_total

    @property
    def seed(self) -> int:
        """The order's seed."""
        return self._orders[0][1].seed

    @property
    def keeps_sets_together(self) -> bool:
        """Whether the batches of a set follow each other, or nearly so, and are not mixed with others' rows."""
        return self._orders[0][1].shuffle in {None, "sets", "batches"}

    @property
    def edited_epochs(self) -> set[int]:
        """The epochs in which edits were made."""
        return {placed.epoch for placed in self._placed}

    @property
    def edits(self) -> list[dict[str, Any]]:
        """The edits as plain values, in the order in which they were made: `epoch`, `batch` and `edit` of each."""
        return [
            {"epoch": epoch, "batch": batch, "edit": edit.as_plain()} for epoch, batch, edit in self._placed
        ]

    @property
    def is_limited(self) -> bool:
        """Whether an epoch is only a part of the data's."""
        return self._most is not None

    def is_edited(self, epoch: int) -> bool:
        """Whether an epoch was edited after its beginning."""
        return epoch in self._courses

    def settings(self) -> dict[str, Any]:
        """Give the settings that the plan was made with, without sizes and edits, as plain values."""
        order = self._orders[0][1]
        return {
            "batch_size": order.batch_size,
            "shuffle": order.shuffle,
            "seed": order.seed,
            "group": order.group,
            "last": order.last,
            "shuffle_sets": order.shuffle_sets,
            **self._limits,  # named only where they are set: a run of before there were any has the same settings
        }

    def batches(self, epoch: int) -> int:
        """Count the batches of an epoch; 0 where an edit at its beginning left none."""
        if not self._placed and self._most is None:  # asked in every iteration, and mostly nothing was edited
            return self._orders[0][1].batches
        course = self._courses.get(epoch)
        found = self._order(epoch).batches if course is None else course.batches
        return found if self._most is None else min(found, self._most)

    def batch_size(self, epoch: int, batch: int) -> int:
        """Give the batch size in force at a place; a batch there may have fewer rows."""
        course = self._courses.get(epoch)
        return self._order(epoch).batch_size if course is None else course.batch_size(batch)

    def rows(self, epoch: int, batch: int) -> RowIds:
        """Give the row ids of a batch, in order: int64 of shape `(size,)`; a fresh array.

        Raises:
            IndexError: There is no such batch.
        """
        course = self._course(epoch, batch)
        return self._order(epoch).rows(self._drawn(epoch), batch) if course is None else course.rows(batch)

    def padded(self, epoch: int, batch: int) -> int:
        """Count the rows at a batch's end that were added to fill it.

        Raises:
            IndexError: There is no such batch.
        """
        course = self._course(epoch, batch)
        return self._order(epoch).padded(epoch, batch) if course is None else course.padded(batch)

    def span(self, epoch: int, batch: int) -> tuple[int, int] | None:
        """Give a batch as a range of rows that follow each other in the source, where it is known to be one.

        Returns:
            The first row, and one after the last; None where the rows must be asked for.

        Raises:
            IndexError: There is no such batch.
        """
        return self.place(epoch, batch)[0]

    def place(self, epoch: int, batch: int) -> tuple[tuple[int, int] | None, int]:
        """Give what `span` and `padded` give, at once.

        Raises:
            IndexError: There is no such batch.
        """
        course = self._course(epoch, batch)
        if course is not None:
            return course.span(batch), course.padded(batch)
        order, epoch = self._order(epoch), self._drawn(epoch)
        positions, padded = order.span(epoch, batch), order.padded(epoch, batch)
        if padded or order.shuffle is not None:
            return None, padded
        return order.row_span(epoch, *positions), 0

    def run(self, epoch: int, batch: int, most: int) -> range:
        """Give the rows of a batch that is a part of a set, and of those behind it; see `Order.run`.

        Not for an epoch that was edited after its beginning.
        """
        return self._order(epoch).run(self._drawn(epoch), batch, most)

    def stretches(self, epoch: int, batch: int, most: int) -> tuple[Stretch, ...]:
        """Give the groups of sets that a batch draws from, under `"samples"`, so that each can be read whole.

        Args:
            epoch: From 0.
            batch: From 0.
            most: How many rows a group may have.

        Returns:
            The rows of each group that are still to be served, in their order, and which of them are the batch's, without
            those that pad it. Under other modes, for rows that an edit names, and where a group has more rows: `()`.

        Raises:
            IndexError: There is no such batch.
        """
        course = self._course(epoch, batch)
        if course is not None:
            return course.stretches(batch, most)
        return self._order(epoch).stretches(self._drawn(epoch), batch, most)

    def edited(self, epoch: int, batch: int, edit: Edit) -> Plan:
        """Give the plan with an edit; batches before the place stay as they are.

        At the beginning of an epoch that has no other edits, `Exclude` and `BatchSize` make the epoch's order anew;
        within an epoch its order stays, less what is dropped, and is cut anew.

        Args:
            epoch: The place: what comes next.
            batch: From 0 to the number of the epoch's batches.
            edit: `Skip`, `Exclude`, `Repeat` or `BatchSize`.

        Returns:
            The new plan. It may leave no batch at the place, and none of the epoch.

        Raises:
            IndexError: There is no such place.
            ValueError: The edit names what is not there, leaves no batch in later epochs, or comes before another one.
        """
        plan = copy.copy(self)
        plan._add(_Placed(whole("epoch", epoch), whole("batch", batch), edit))  # noqa: SLF001 - the new plan, before anybody sees it
        return plan

    def until(self, epoch: int, batch: int) -> Plan:
        """Give the plan with only those edits that were made at a place or before it."""
        if all((placed.epoch, placed.batch) <= (epoch, batch) for placed in self._placed):
            return self
        edits = [plain for plain in self.edits if (plain["epoch"], plain["batch"]) <= (epoch, batch)]
        return Plan(self._orders[0][1].sizes, **self.settings(), edits=edits)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        same_sizes = np.array_equal(self._orders[0][1].sizes, other._orders[0][1].sizes)
        return same_sizes and self.settings() == other.settings() and self._placed == other._placed

    __hash__ = None  # type: ignore[assignment]  # it is compared, and never a key

    def _order(self, epoch: int) -> Order:
        orders = self._orders
        if len(orders) == 1:  # several times for each batch, and mostly there is no other
            return orders[0][1]
        return orders[bisect_right(orders, epoch, key=itemgetter(0)) - 1][1]

    def _drawn(self, epoch: int) -> int:
        """Say which epoch's order an epoch has: its own, or always the first one's."""
        return 0 if "overfit" in self._limits and epoch > 0 else epoch

    def _course(self, epoch: int, batch: int) -> Course | None:
        course = self._courses.get(epoch) if self._courses else None
        if (course is not None or self._most is not None) and not 0 <= batch < self.batches(epoch):
            raise IndexError(out_of_range(epoch, batch, self.batches(epoch)))
        return course

    def _add(self, placed: _Placed) -> None:
        """Take an edit into a plan that nobody has seen yet; what it had is replaced and never changed."""
        self._check(placed)
        epoch, batch, edit = placed
        latest = self._orders[-1][1]
        later = _changed(latest, edit)
        if later is not latest and batch == 0 and epoch not in self._courses:
            self._orders = _from(self._orders, epoch, later)
        else:
            course = self._courses.get(epoch) or Course.of(self._order(epoch), self._drawn(epoch))
            self._courses = self._courses | {epoch: self._steered(course, placed)}
            if later is not latest:
                self._orders = _from(self._orders, epoch + 1, later)
        self._placed = (*self._placed, placed)

    def _check(self, placed: _Placed) -> None:
        epoch, batch, edit = placed
        if not isinstance(edit, Edit):
            raise TypeError(f"edit: found {edit!r}, expected a Skip, Exclude, Repeat or BatchSize")
        if not 0 <= batch <= self.batches(max(epoch, 0)) or epoch < 0:
            raise IndexError(out_of_range(epoch, batch, self.batches(max(epoch, 0))))
        if self._placed and (epoch, batch) < self._placed[-1][:2]:
            after = self._placed[-1]
            raise ValueError(
                f"{_shown(edit)}: found epoch {epoch}, batch {batch} as its place, which is before the last edit's (epoch "
                f"{after.epoch}, batch {after.batch}); go there first, or take until({epoch}, {batch}), which "
                f"leaves the later edits out"
            )

    def _steered(self, course: Course, placed: _Placed) -> Course:
        epoch, batch, edit = placed
        if isinstance(edit, BatchSize):
            return course.resized(batch, edit.n)
        if isinstance(edit, Repeat):
            return course.repeating(batch, self._repeated(epoch, batch, edit))
        if isinstance(edit, Skip) and edit.batches is not None:
            if edit.batches > course.batches - batch:
                raise ValueError(
                    f"Skip(batches={edit.batches}): expected at most {course.batches - batch}, the batches left in "
                    f"epoch {epoch}; skip those of the next epoch when it has begun"
                )
            return course.skipping(batch, edit.batches)
        return course.without(batch, _named(self._orders[0][1], edit))

    def _repeated(self, epoch: int, batch: int, edit: Repeat) -> RowIds:
        order = self._orders[-1][1]
        rows = _named(order, edit) if edit.batches is None else self._before(epoch, batch, edit.batches)
        rows = rows[~np.isin(rows, order.excluded)]
        if len(rows) == 0:
            raise ValueError(
                f"{_shown(edit)}: found no row in it that is not excluded, expected at least one"
            )
        return rows

    def _before(self, epoch: int, batch: int, count: int) -> RowIds:
        """Give the rows of the last batches before a place, without what padded them."""
        found: list[RowIds] = []
        while len(found) < count:
            if batch > 0:
                batch -= 1
                rows = self.rows(epoch, batch)
                found.append(rows[: len(rows) - self.padded(epoch, batch)])
            elif epoch > 0:
                epoch, batch = epoch - 1, self.batches(epoch - 1)
            else:
                raise ValueError(
                    f"Repeat(batches={count}): expected at most {len(found)}, as many as were served before"
                )
        return np.concatenate(found[::-1])


def _placed(plain: Mapping[str, Any]) -> _Placed:
    try:
        epoch, batch, edit = plain["epoch"], plain["batch"], plain["edit"]
    except (KeyError, TypeError) as error:
        raise ValueError(f"edits: found {plain!r}, expected an entry with epoch, batch and edit") from error
    return _Placed(at_least(0, "edits: epoch", epoch), at_least(0, "edits: batch", batch), from_plain(edit))


def _changed(order: Order, edit: Edit) -> Order:
    """Give the order of the epochs after an edit: the same one, if the edit is for its epoch alone."""
    size, excluded = None, None
    if isinstance(edit, BatchSize):
        size = edit.n
    elif isinstance(edit, Exclude):
        excluded = np.union1d(order.excluded, _named(order, edit))
    else:
        return order
    try:
        return order.replaced(batch_size=size, excluded=excluded)
    except ValueError as error:
        raise ValueError(f"{_shown(edit)}: the epochs that follow would have no batch: {error}") from error


def _from(orders: tuple[tuple[int, Order], ...], epoch: int, order: Order) -> tuple[tuple[int, Order], ...]:
    return (*(entry for entry in orders if entry[0] < epoch), (epoch, order))


def _named(order: Order, edit: Skip | Exclude | Repeat) -> RowIds:
    """Give the rows that an edit names: those of its sets, then its rows."""
    sets, rows = np.array(edit.sets, np.int64), np.array(edit.rows, np.int64)
    _refuse_beyond(edit, "set", sets, len(order.sizes))
    _refuse_beyond(edit, "row", rows, order.rows_total)
    stops = np.cumsum(order.sizes)
    return np.concatenate([*(np.arange(stops[i] - order.sizes[i], stops[i]) for i in sets), rows])


def _refuse_beyond(edit: Edit, what: str, numbers: RowIds, count: int) -> None:
    beyond = numbers[numbers >= count]
    if len(beyond):
        raise ValueError(
            f"{_shown(edit)}: found {what} {beyond[0]}, expected 0 to {count - 1}: there are {count} {what}s"
        )


def _shown(edit: Edit) -> str:
    text = repr(edit)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 4]}...)"
