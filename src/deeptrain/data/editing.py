"""The part of a `BatchLoader` by which its order is looked at and edited."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from deeptrain.data.cursor import CursorFeed
from deeptrain.data.edits import BatchSize, Exclude, Repeat, Skip

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from deeptrain.data.batch import Batch, RowIds, SetTable
    from deeptrain.data.edits import Edit
    from deeptrain.data.feed import Position
    from deeptrain.data.plan import Plan
    from deeptrain.data.preprocess import Preprocessor


class Fed(NamedTuple):
    """The batch that was fed last, where its place in the order is another batch's by now.

    Attributes:
        epoch: Its epoch.
        batch: Its place in that epoch, as the order then was.
        rows: Its rows.
        padded: How many of them fill it up.
    """

    epoch: int
    batch: int
    rows: RowIds
    padded: int


class EditedFeed(CursorFeed):
    """A cursor over an order that can be edited from the cursor on.

    Args:
        preprocess: As for `CursorFeed`.
        table: The source's sets.
        plan: The order.

    Attributes:
        steered: Set by who keeps a record of edits: given the loader and an edit, it makes the edit, or says that it did not.
    """

    def __init__(self, preprocess: Preprocessor | None, table: SetTable, plan: Plan) -> None:
        super().__init__(preprocess)
        self._table, self._plan = table, plan
        self._last: tuple[int, int] | None = None  # the epoch and index of the batch that was fed last
        self._replaced: Fed | None = None
        self.steered: Callable[[Any, Edit], bool] | None = None

    @abstractmethod
    def _forget(self) -> None:
        """Let go of what was read ahead."""

    @abstractmethod
    def _read_rows(self, epoch: int, batch: int, rows: RowIds, padded: int) -> Batch:
        """Read any rows as the batch of a place."""

    def batches_of(self, epoch: int) -> int:
        """Batches in any epoch, by the order as it is edited now; 0 before the first."""
        return self._plan.batches(epoch) if epoch >= 0 else 0

    def rows(self, epoch: int, batch: int) -> RowIds:
        """Give the source's row ids of any batch: int64 of shape `(size,)`; nothing is read.

        Raises:
            IndexError: There is no such batch.
        """
        return self._plan.rows(epoch, batch)

    @property
    def edits(self) -> list[dict[str, Any]]:
        """The edits of the order, as plain values, in the order in which they were made."""
        return self._plan.edits

    def skip(self, *, sets: Sequence[str] = (), rows: Sequence[int] = (), batches: int | None = None) -> None:
        """Pass over what is still to come of some sets or rows in this epoch, or over the next batches.

        Raises:
            KeyError: There is no set of that name.
            ValueError: Nothing is named, or nothing would be left.
        """
        self._edit(Skip(sets=self._indices(sets), rows=_ids(rows), batches=batches))

    def exclude(self, *, sets: Sequence[str] = (), rows: Sequence[int] = ()) -> None:
        """Leave some sets or rows out from here on, in this epoch and all later ones.

        Raises:
            KeyError: There is no set of that name.
            ValueError: Nothing is named, or nothing would be left.
        """
        self._edit(Exclude(sets=self._indices(sets), rows=_ids(rows)))

    def repeat(
        self, *, sets: Sequence[str] = (), rows: Sequence[int] = (), batches: int | None = None
    ) -> None:
        """Give some sets or rows, or the last batches once more; then the order goes on where it was.

        Raises:
            KeyError: There is no set of that name.
            ValueError: Nothing is named, or so many batches were not served in this epoch.
        """
        self._edit(Repeat(sets=self._indices(sets), rows=_ids(rows), batches=batches))

    def set_batch_size(self, batch_size: int) -> None:
        """Cut the batches from here on in another size, in this epoch and all later ones.

        Raises:
            ValueError: It is below 1.
        """
        self._edit(BatchSize(batch_size))

    def _edit(self, edit: Edit) -> None:
        """Make an edit, or have the run make it that the loader feeds, so that it is part of its record."""
        if self.steered is None or not self.steered(self, edit):
            self.prepared(edit)()

    def prepared(self, edit: Edit, epoch: int | None = None) -> Callable[[], None]:
        """See that an edit can be made, and give what makes it.

        Args:
            edit: What is to be other.
            epoch: From which later epoch's beginning on; by default from the cursor on.

        Raises:
            ValueError: It cannot; nothing was changed.
        """
        if epoch is not None and epoch != self.position.epoch:
            return self._prepared_later(edit, epoch)
        epoch, batch, iteration = self.position
        if self.phase == "val":
            raise ValueError(
                "the order of a validation's loader is not to be edited, as each pass is to see the same rows: validate on "
                "other sets, dt.Files(path, sets=...)"
            )
        if iteration:
            raise ValueError(
                f"the order cannot be edited between two pieces of batch {batch}: {iteration} of them are done; "
                f"go on to the batch's end first"
            )
        # A cursor that was moved back before an edit: what was edited behind it is to come no more.
        before = self._plan.until(epoch, batch)
        if before is not self._plan:
            warnings.warn(
                f"the edits that were made behind batch {batch} of epoch {epoch} are dropped: the order is edited anew there",
                stacklevel=3,
            )
        plan = before.edited(epoch, batch, edit)
        if plan.batches(epoch) <= batch:
            raise ValueError(
                f"the edit would leave no batch of epoch {epoch} behind batch {batch}: leave at least one, or go on to the "
                f"next epoch first"
            )

        def make() -> None:
            self._replaced = self._replaced_by_edit(epoch, batch)
            self._follow(plan, epoch, batch)

        return make

    def _prepared_later(self, edit: Edit, epoch: int) -> Callable[[], None]:
        if epoch < self.position.epoch:
            raise ValueError(
                f"the order cannot be edited in epoch {epoch}: the cursor is in epoch {self.position.epoch}"
            )
        plan = self._plan.until(epoch, 0).edited(epoch, 0, edit)

        def make() -> None:
            position = self._position
            self._follow(plan, position.epoch, position.batch)
            self._position = position

        return make

    def _replaced_by_edit(self, epoch: int, batch: int) -> Fed | None:
        """Note the batch that was fed last where an edit comes before it: a cursor was moved back first.

        Handlers may still have to be told of that batch, in a process that goes on from a saved state.
        """
        if self._replaced is not None or self._last is None or self._last < (epoch, batch):
            return self._replaced
        return Fed(*self._last, self._plan.rows(*self._last), self._plan.padded(*self._last))

    def mark(self) -> tuple[Plan, Position, Fed | None]:
        """Note how the order is edited and where the cursor stands."""
        return self._plan, self._position, self._replaced

    def back_to(self, mark: tuple[Plan, Position, Fed | None]) -> None:
        """Undo what edits and moves there were since `mark`."""
        plan, position, self._replaced = mark
        if plan is not self._plan:
            self._follow(plan, position.epoch, position.batch)
        self._position = position

    def _follow(self, plan: Plan, epoch: int, batch: int) -> None:
        """Go by another plan from a position on; what was read ahead under the old one is forgotten."""
        self._plan = plan
        self._forget()
        self.seek(epoch=epoch, batch=batch)

    def advance(self, *, whole: bool = True) -> bool:
        """Move past the batch at the cursor, or past its present piece alone. See `CursorFeed.advance`."""
        self._last, self._replaced = self._position[:2], None
        if self._fed is not None:
            self._last = self._position.epoch, self._known_fed()
        return super().advance(whole=whole)

    def fed(self, epoch: int, batch: int, iteration: int) -> Batch:
        """Give the piece that was fed last once more, whatever became of its place in the order."""
        self._last, replaced = (epoch, batch), self._replaced
        if replaced is None or replaced[:2] != (epoch, batch):
            return self.batch(epoch, batch, iteration)
        return self._piece_of(self._read_rows(*replaced), iteration)

    def state_dict(self) -> dict[str, Any]:
        """Give the cursor, the settings under which it has its meaning, and the edits."""
        state = super().state_dict() | {"edits": self._plan.edits}
        return state if self._replaced is None else state | {"replaced": self._replaced._asdict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a recorded cursor. See `CursorFeed.load_state_dict`."""
        super().load_state_dict(state)
        replaced = state.get("replaced")
        self._last, self._replaced = None, None if replaced is None else Fed(**replaced)

    def _indices(self, sets: Sequence[str]) -> tuple[int, ...]:
        return tuple(self._table.index(name) for name in ([sets] if isinstance(sets, str) else sets))

    def _batches_in(self, epoch: int) -> int:
        return self._plan.batches(epoch)

    def _batches_until(self, epoch: int) -> int:
        # Epochs differ in length only where they were edited, and from there on.
        edited = {place for known in self._plan.edited_epochs for place in (known, known + 1)}
        marks = [0, *sorted(place for place in edited if 0 < place < epoch), epoch]
        return sum((stop - start) * self._plan.batches(start) for start, stop in pairwise(marks))


def _ids(rows: Any) -> Any:
    """Give row numbers as they can be checked: tensors as arrays, and masks refused."""
    found = rows.numpy() if isinstance(rows, torch.Tensor) else rows
    if getattr(found, "dtype", None) == np.bool_ or (
        isinstance(found, list | tuple) and True in map(_is_bool, found)
    ):
        raise TypeError("rows: found booleans, expected row numbers: give np.flatnonzero(mask)")
    return found


def _is_bool(value: object) -> bool:
    return isinstance(value, bool | np.bool_)
