"""`ForwardFeed`: a feed over what can only be gone through from a known place forward."""

from __future__ import annotations

import operator
import warnings
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from deeptrain.data.batch import Batch, SetTable
from deeptrain.data.cursor import CursorFeed
from deeptrain.data.dataset import inputs_and_targets
from deeptrain.data.feed import Position
from deeptrain.data.progress import progress_bar
from deeptrain.integrations.walk import Mark, Pulled, Walk

if TYPE_CHECKING:
    from collections.abc import Mapping

START = Position(0, 0)


class ForwardFeed(CursorFeed):
    """What stateful and plain iterables have in common: the cursor over a walk, and the places to go on from.

    Where an epoch ends is known by its end alone, so one batch is looked at ahead, when the one before it is fetched.

    Args:
        name: What is iterated over, for messages.
        seed: What the random streams are seeded from, with epoch and batch.
        length: The batches of an epoch that the iterable claims to have; None if it does not say.

    Attributes:
        astray: In words, that another batch came than before the run was stopped; None where that was not seen.
    """

    changeable: ClassVar[tuple[str, ...]] = ("seed",)
    remedy: ClassVar[str]

    def __init__(self, name: str, seed: int, length: int | None) -> None:
        super().__init__()
        self._name = name
        self._base_seed = operator.index(seed)
        self._length = length
        self._table = SetTable(("stream",), (0,))
        self._marks: dict[Position, Mark] = {}
        self._walk: Walk | None = None
        self._looked: tuple[Position, Mark] | None = None
        self._warned = False
        self.astray: str | None = None

    @abstractmethod
    def _nearest(self, position: Position) -> Mark:
        """Give the last known place that is not behind a position.

        Raises:
            IndexError: There is none.
        """

    @abstractmethod
    def _open(self, mark: Mark) -> Walk:
        """Begin a walk at a known place."""

    @property
    def rows_total(self) -> int:
        """Rows of the data; 0, as that is not known."""
        return 0

    def advance(self, *, whole: bool = True) -> bool:
        """Move past the batch at the cursor; it is fetched if it was not yet.

        Returns:
            True if that ended the epoch.
        """
        del whole  # a batch is one piece here
        position, looked = self._position, self._looked
        if looked is None or looked[0] != position:
            self._held = None
            self.fetch()
            looked = self._looked
            assert looked is not None
        following = looked[1]
        kept = {START, Position(position.epoch, 0), Position(following.position.epoch, 0), position}
        marks = {at: mark for at, mark in self._marks.items() if at in kept}
        self._marks = marks | {following.position: following}
        ended = following.position.epoch > position.epoch
        if ended and self._length != position.batch + 1:
            self._length = None  # what it claimed is not so
        self._position, self._held = following.position, None
        return ended

    def seek(self, *, epoch: int, batch: int = 0) -> None:
        """Move the cursor; the next fetch walks there. That there is no such batch is found out then.

        Raises:
            IndexError: There is no such place, or no known place before it.
        """
        position = Position(operator.index(epoch), operator.index(batch))
        if min(position) < 0:
            raise IndexError(
                f"no batch {position.batch} in epoch {position.epoch}: epochs and batches count from 0"
            )
        if self._walk is None or self._walk.position > position:
            self._nearest(position)
        self._position, self._held = position, None

    def batch(self, epoch: int, batch: int, iteration: int = 0) -> Batch:
        """Give any batch at or behind a known place, by walking there; the cursor stays, and is walked back to.

        Raises:
            IndexError: There is no such batch, or no known place before it.
        """
        del iteration  # a batch is one piece here
        if self._position == Position(epoch, batch):
            return self.fetch()
        return self._as_batch(self._take(Position(epoch, batch), look=False))

    def state_dict(self) -> dict[str, Any]:
        """Give cursor, settings and seed, the place at the cursor, and the one before it."""
        before = max((at for at in self._marks if at < self._position), default=None)
        return super().state_dict() | {
            "seed": self._base_seed,
            "here": _plain(self._mark_here()),
            "before": None if before is None else _plain(self._marks[before]),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a recorded cursor, under the recorded seed.

        Raises:
            ValueError: The state is of another version, source or order.
        """
        self.adopt(state)
        position = self._checked(state)
        try:
            marks = [_mark(saved) for saved in (state["here"], state["before"]) if saved is not None]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{type(self).__name__} state is incomplete: expected here and before"
            ) from error
        self.close()
        self._looked = None
        first = {START: self._marks[START]} if START in self._marks else {}
        self._marks = first | {mark.position: mark for mark in marks}
        self._position = position

    def adopt(self, settings: Mapping[str, Any]) -> None:
        """Take the recorded seed. Where it is another one, the cursor goes to its epoch's start."""
        seed = operator.index(settings.get("seed", self._base_seed))
        if seed != self._base_seed:
            self.close()
            self._base_seed = seed
            self._looked = None
            # Of the places those stay at which no random number had been drawn yet.
            starts = {at: mark for at, mark in self._marks.items() if at == Position(at.epoch, 0)}
            self._marks = {at: mark._replace(check=None) for at, mark in starts.items()}
            self._position = Position(self._position.epoch, 0)

    def close(self) -> None:
        """Let go of the held batch, and end the walk with its worker processes."""
        super().close()
        walk, self._walk = self._walk, None
        if walk is not None:
            walk.close()

    def _seed(self) -> int:
        return self._base_seed

    def _batches_until(self, epoch: int) -> Any:
        return None if self._length is None else epoch * self._length

    def _batches_in(self, epoch: int) -> Any:
        looked = self._looked
        if looked is not None and looked[0].epoch == epoch < looked[1].position.epoch:
            return looked[0].batch + 1
        return self._length

    def _mark_here(self) -> Mark:
        if self._position not in self._marks:
            self._walk = self._walk_to(self._position)
        return self._marks[self._position]

    def _read(self, epoch: int, batch: int) -> Batch:
        return self._as_batch(self._take(Position(epoch, batch), look=True))

    def _take(self, position: Position, *, look: bool) -> Pulled:
        walk = self._walk_to(position)
        self._walk = None  # taken out while it runs: whatever ends this early leaves nothing half-way behind
        try:
            pulled = walk.take()
            over = look and walk.is_over()
        except BaseException:
            walk.close()
            raise
        self._compare(pulled.mark)
        if look:
            self._looked = (position, walk.mark)
        if over:
            self._end(walk)
        else:
            self._walk = walk
        return pulled

    def _end(self, walk: Walk) -> None:
        """An epoch was walked to its end."""

    def _walk_to(self, position: Position) -> Walk:
        walk, self._walk = self._walk, None
        if walk is None or not self._is_on_the_way(walk, position):
            if walk is not None:
                walk.close()
            walk = self._open(self._nearest(position))
        if walk.position != position:
            walk = self._forward(walk, position)
        # Without what was found there: a state must not depend on whether that place was looked at.
        self._marks.setdefault(position, walk.mark._replace(check=None))
        return walk

    def _is_on_the_way(self, walk: Walk, position: Position) -> bool:
        return walk.position == position or self._nearest(position).position <= walk.position <= position

    def _forward(self, walk: Walk, position: Position) -> Walk:
        ahead = position.batch - (walk.position.batch if walk.position.epoch == position.epoch else 0)
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"{self._name} is walked through {ahead} batches to where it is to go on, which takes as long as they took to "
                f"load; {self.remedy}",
                stacklevel=2,
            )
        try:
            with progress_bar("walking to the position", ahead, "batches") as moved:
                while walk.position < position:
                    if walk.position.epoch < position.epoch and walk.is_over():
                        self._end(walk)
                        walk = self._open(walk.mark)
                    else:
                        walk.take()
                    moved(1)
        except BaseException:
            walk.close()
            raise
        return walk

    def _compare(self, found: Mark) -> None:
        recorded = self._marks.get(found.position)
        if recorded is not None and recorded.check not in (None, found.check):
            epoch, batch, _ = found.position
            self.astray = (
                f"{self._name} gave another batch {batch} in epoch {epoch} than before the run was stopped"
            )
            warnings.warn(
                f"{self.astray}: from here on "
                f"it has not the bits that it would have had. An epoch must depend on state_dict, set_epoch(epoch) and "
                f"the global random streams alone; what is drawn ahead of time or in worker processes begins anew there",
                stacklevel=2,
            )
            self._marks[found.position] = found

    def _as_batch(self, pulled: Pulled) -> Batch:
        (epoch, batch, _), start = pulled.mark.position, pulled.mark.rows
        rows = np.arange(start, max(pulled.after.rows, start + 1))
        return Batch(*inputs_and_targets(pulled.data), epoch, batch, rows, self._table)


def _plain(mark: Mark) -> dict[str, Any]:
    epoch, batch, _ = mark.position
    return {"epoch": epoch, "batch": batch, "rows": mark.rows, "check": mark.check, "state": mark.state}


def _mark(saved: Mapping[str, Any]) -> Mark:
    return Mark(Position(saved["epoch"], saved["batch"]), saved["rows"], saved["state"], saved["check"])
