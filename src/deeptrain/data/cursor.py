"""`CursorFeed`: the cursor that the loaders here have in common, the batch held for it, and its pieces."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from deeptrain.data.batch import Batch, edits_of
from deeptrain.data.feed import Position
from deeptrain.data.order import out_of_range
from deeptrain.data.seeded import seed_streams, streams_put_back
from deeptrain.state.hashing import mix

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from deeptrain.data.preprocess import Phase as PhaseName
    from deeptrain.data.preprocess import Preprocessor
    from deeptrain.step.base import Outcome

VERSION = 1


class CursorFeed(ABC):
    """The part of a feed that counts: position, the held batch and its pieces, and the state.

    The cursor is one value, replaced in one step, and what is held bears the cursor that it was read for; so an
    interrupt between any two instructions leaves either the old position or the new one.

    Args:
        preprocess: Makes the iterations' pieces of each batch; None feeds it as it is.

    Attributes:
        phase: What the feed is used for: "train", or "val", where a preprocessor may do otherwise.
        passed: How many batches the cursor was last moved past: the one that was fed, and those around it that have no
            piece.
        save_skip: Paths of its state that `trainer.save` leaves out, as `("edits",)`; none unless they are set.
        load_skip: Those that `trainer.load` leaves as they are, as `("cursor",)`.
    """

    save_skip: Sequence[str] = ()
    load_skip: Sequence[str] = ()
    changeable: ClassVar[tuple[str, ...]] = ()

    def __init__(self, preprocess: Preprocessor | None = None) -> None:
        self.phase: PhaseName = "train"
        self.preprocess = preprocess
        self._position = Position(0, 0)
        self.passed = 1
        self._held: _Held | None = None
        self._behind: _Held | None = None  # a batch behind the one at the cursor
        self._piece: _Held | None = None
        # Which batch is fed at a cursor, and which one after it, where they are not the cursor's and the one behind it.
        self._fed: tuple[tuple[int, int], int] | None = None
        self._next: tuple[Position, int] | None = None

    @abstractmethod
    def _batches_in(self, epoch: int) -> int:
        """Count the batches of an epoch."""

    @abstractmethod
    def _read(self, epoch: int, batch: int) -> Batch:
        """Read a batch that exists, without effect on any random stream."""

    def _read_alone(self, epoch: int, batch: int) -> Batch:
        """Read any batch without effect on what is read ahead of the cursor."""
        return self._read(epoch, batch)

    @property
    @abstractmethod
    def rows_total(self) -> int:
        """Rows of the source."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Describe source and order in plain values; what a run's fingerprint is made of."""

    @abstractmethod
    def adopt(self, settings: Mapping[str, Any]) -> None:
        """Take the changeable settings from recorded ones."""

    def _batches_until(self, epoch: int) -> int:
        """Count the batches of all epochs before one."""
        return epoch * self._batches_in(0)

    def _seed(self) -> int:
        """The seed of what a preprocessor draws."""
        return 0

    def _row_shape(self) -> tuple[int, ...] | None:
        """One row's shape, where all inputs have one."""
        return None

    @property
    def position(self) -> Position:
        """What is next; always a batch that exists."""
        return self._position

    @property
    def batches(self) -> int:
        """Batches in the cursor's epoch."""
        return self._batches_in(self._position.epoch)

    def iterations(self, epochs: int) -> int | None:
        """Count the pieces of so many epochs from the first on; None where only the outcomes tell."""
        if self.preprocess is None:
            return self._batches_until(epochs)
        total, shape = 0, self._row_shape()
        for epoch in range(epochs):
            pieces = self.preprocess.pieces_in_total(shape, epoch)
            if pieces is None:
                return None
            total += pieces * self._batches_in(epoch)
        return total

    def fetch(self) -> Batch:
        """Give the piece at the cursor, read once and then held until the cursor moves.

        If somebody changed the held tensors in place, they are read again: each call gives the batch as it is stored.
        """
        if self.preprocess is None:
            position, held = self._position, self._held
            if held is None or held.position is not position or not held.is_unchanged():
                found = self._read(position.epoch, position.batch)
                self._held = held = _Held(position, found, edits_of(found))
            return held.batch
        position, held = self._position, self._piece
        if held is not None and held.position is position and held.is_unchanged():
            return held.batch
        batch = self._fed_at(position)
        piece = self._make_piece(self._at(position.epoch, batch), position._replace(batch=batch))
        self._piece = _Held(position, piece, edits_of(piece))
        return piece

    def whole(self) -> Batch:
        """Give the batch at the cursor, before a preprocessor makes pieces of it."""
        return self._at(self._position.epoch, self._position.batch)

    def _at(self, epoch: int, batch: int) -> Batch:
        """Give a batch at the cursor or soon behind it; read once, and then held until the cursor moves."""
        for held in (self._held, self._behind):
            if held is not None and held.position[:2] == (epoch, batch) and held.is_unchanged():
                return held.batch
        found, position = self._read(epoch, batch), self._position
        if position[:2] == (epoch, batch):
            self._held = _Held(position, found, edits_of(found))
        else:
            self._behind = _Held(Position(epoch, batch), found, edits_of(found))
        return found

    def _fed_at(self, position: Position) -> int:
        """Say which batch is fed at a cursor: its own, or the first one behind it that has a piece.

        Raises:
            ValueError: There is none in this epoch.
        """
        epoch, batch, _ = position
        if self.preprocess is None or not self.preprocess.may_be_empty:
            return batch
        if self._fed is None or self._fed[0] != position[:2]:
            first = self._first_with_pieces(epoch, batch)
            if first == self._batches_in(epoch):
                raise ValueError(
                    f"{type(self.preprocess).__name__} makes no piece of any batch from batch {batch} of epoch {epoch} to the "
                    f"epoch's end, so that there is nothing to feed: make it keep more of the data, or give it other data"
                )
            self._fed = position[:2], first
        return self._fed[1]

    def _known_fed(self) -> int:
        """Say which batch is fed at the cursor, as far as that was looked for."""
        fed = self._fed
        return self._position.batch if fed is None or fed[0] != self._position[:2] else fed[1]

    def _first_with_pieces(self, epoch: int, batch: int) -> int:
        """Find the first batch from one on that has a piece; one after the epoch's last if there is none."""
        assert self.preprocess is not None
        stop = self._batches_in(epoch)
        while batch < stop and self.preprocess.count(self._at(epoch, batch), self.phase) == 0:
            batch += 1
        return batch

    def _make_piece(self, batch: Batch, position: Position) -> Batch:
        assert self.preprocess is not None
        if not self.preprocess.random:
            return self.preprocess.piece(batch, position.iteration, self.phase)
        with streams_put_back():
            seed_streams(mix(self._seed(), "preprocess", self.phase, *position))
            return self.preprocess.piece(batch, position.iteration, self.phase)

    def through(self, fn: Callable[[Batch], Outcome]) -> list[tuple[Batch, Outcome]]:
        """Put the batch at the cursor through a function, piece by piece, from the first on; the cursor stays.

        Unlike `fetch`, this does not pass over a batch without pieces: nothing is given for it.
        """
        if self.preprocess is None:
            batch = self.fetch()
            return [(batch, fn(batch))]
        found: list[tuple[Batch, Outcome]] = []
        (epoch, index, _), whole = self._position, self.whole()
        if self.preprocess.may_be_empty and self.preprocess.count(whole, self.phase) == 0:
            return found
        while True:
            piece = self._make_piece(whole, Position(epoch, index, len(found)))
            found.append((piece, fn(piece)))
            if self.preprocess.is_done(whole, len(found), found[-1][1], self.phase):
                return found

    def ends_batch(self, outcome: Outcome | None) -> bool:
        """Say whether the piece at the cursor is the last one of its batch.

        Args:
            outcome: What came of it, by which a preprocessor may decide.
        """
        if self.preprocess is None:
            return True
        position = self._position
        batch = self._fed_at(position)
        whole = self._at(position.epoch, batch)
        if not self.preprocess.is_done(whole, position.iteration + 1, outcome, self.phase):
            return False
        if self.preprocess.may_be_empty:  # looked at here, as nothing is to be read while the cursor moves
            self._next = position, self._first_with_pieces(position.epoch, batch + 1)
        return True

    def advance(self, *, whole: bool = True) -> bool:
        """Move past the batch at the cursor, and those behind it that `ends_batch` found to have no piece.

        Args:
            whole: False moves to the batch's next piece.

        Returns:
            True if that ended the epoch; the cursor then stands at the start of the next one.
        """
        position = self._position
        epoch, batch, iteration = position
        if not whole:
            self._position = Position(epoch, batch, iteration + 1)
            return False
        following = batch + 1
        if self._fed is not None:  # batches without pieces may be around
            looked = self._next
            following = self._known_fed() + 1 if looked is None or looked[0] is not position else looked[1]
        ended = following >= self._batches_in(epoch)
        self.passed = following - batch
        self._position = Position(epoch + 1, 0) if ended else Position(epoch, following)
        self._held, self._behind, self._piece = self._behind, None, None
        return ended

    def seek(self, *, epoch: int, batch: int = 0) -> None:
        """Move the cursor; nothing is read or walked through.

        Raises:
            IndexError: There is no such batch.
        """
        epoch, batch = operator.index(epoch), operator.index(batch)
        if epoch < 0 or not 0 <= batch < self._batches_in(epoch):
            raise IndexError(out_of_range(epoch, batch, self._batches_in(max(epoch, 0))))
        self._position = Position(epoch, batch)
        self._held = self._behind = self._piece = self._fed = self._next = None

    def batch(self, epoch: int, batch: int, iteration: int = 0) -> Batch:
        """Read any batch, or of a preprocessor's pieces any one; the cursor stays where it is.

        Raises:
            IndexError: There is no such batch.
        """
        return self._piece_of(self._read_alone(epoch, batch), iteration)

    def _piece_of(self, whole: Batch, iteration: int) -> Batch:
        if self.preprocess is None:
            return whole
        return self._make_piece(whole, Position(whole.epoch, whole.index, iteration))

    def fed(self, epoch: int, batch: int, iteration: int) -> Batch:
        """Give the piece that was fed last once more, whatever became of its place in the order."""
        return self.batch(epoch, batch, iteration)

    def mark(self) -> Any:
        """Note how the order is edited and where the cursor stands; nothing, where neither can be undone."""
        return None

    def back_to(self, mark: Any) -> None:
        """Undo what edits and moves there were since `mark`."""
        del mark

    def state_dict(self) -> dict[str, Any]:
        """Give the cursor of consumed batches, and the settings under which it has its meaning."""
        state = {
            "version": VERSION,
            "cursor": dict(self._position._asdict()),
            "settings": self.settings(),
        }
        return state if self.preprocess is None else state | {"preprocess": self.preprocess.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a recorded cursor.

        Args:
            state: What `state_dict` gave, of a loader over the same source. Within an epoch the settings must be the
                same too; at an epoch's start others are taken as they now are.

        Raises:
            ValueError: The state is of another version, source or order; the differences are named.
        """
        position = self._checked(state)
        try:
            self.seek(epoch=position.epoch, batch=position.batch)
        except IndexError as error:
            raise ValueError(f"{type(self).__name__} state does not fit: {error}") from error
        self._position = position
        if self.preprocess is not None:
            self.preprocess.load_state_dict(state.get("preprocess", {}))

    def close(self) -> None:
        """Let go of the held batch."""
        self._held = self._behind = self._piece = None

    def _checked(self, state: Mapping[str, Any]) -> Position:
        name = type(self).__name__
        if state.get("version") != VERSION:
            raise ValueError(
                f"{name} state has version {state.get('version')!r}, this deeptrain reads {VERSION}; "
                f"load it with the deeptrain that wrote it"
            )
        try:
            position = Position(*(int(state["cursor"][name]) for name in Position._fields))
            recorded = dict(state["settings"])
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{name} state is incomplete: expected settings and a cursor of epoch, batch, iteration"
            ) from error
        present = self.settings()
        _refuse(
            f"{name} state is of another source",
            differences(recorded.pop("source", {}), present.pop("source"), "source."),
            "load it over the data that it was saved with",
        )
        if position.batch or position.iteration:
            _refuse(
                f"{name} state is of another order, and its cursor stands at batch {position.batch} of an epoch",
                differences(recorded, present),
                "give the loader the recorded ones (resume='keep' does, adopt(state['settings']) for a loader alone); "
                "from there on loader.set_batch_size(n) cuts other batches. At an epoch's start others are taken as they are",
            )
        return position


class _Held(NamedTuple):
    """What was read for a position, and how many in-place changes its tensors had seen by then."""

    position: Position
    batch: Batch
    edits: int

    def is_unchanged(self) -> bool:
        return self.edits == edits_of(self.batch)


def differences(recorded: Mapping[str, Any], present: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the entries in which two dicts of plain values differ, in words."""
    missing = object()
    return [
        f"{prefix}{key}: recorded {_shown(recorded, key)}, found {_shown(present, key)}"
        for key in dict.fromkeys((*recorded, *present))
        if recorded.get(key, missing) != present.get(key, missing)
    ]


def _shown(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "nothing"


def _refuse(what: str, found: list[str], remedy: str) -> None:
    if found:
        raise ValueError(f"{what}: {'; '.join(found)}; {remedy}")
