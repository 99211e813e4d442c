"""What a trainer asks of a loader (`Feed`), and the cursor that the loaders here have in common."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from deeptrain.data.batch import Batch, edits
from deeptrain.data.order import out_of_range

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = 1


class Position(NamedTuple):
    """What comes next: completed epochs, and completed batches of the present one."""

    epoch: int
    batch: int


@runtime_checkable
class Feed(Protocol):
    """A loader that a trainer can stop, move and continue: batches by position, and a cursor of consumed ones."""

    @property
    def position(self) -> Position:
        """Epoch and batch of what is next; always a batch that exists."""

    @property
    def batches(self) -> int:
        """Batches in the cursor's epoch."""

    @property
    def rows_total(self) -> int:
        """Rows of the source."""

    def fetch(self) -> Batch:
        """Give the batch at the cursor; repeatable, without effect on the cursor or on any random stream."""

    def advance(self) -> bool:
        """Move past the batch at the cursor; True if that ended the epoch."""

    def seek(self, *, epoch: int, batch: int = 0) -> None:
        """Move the cursor."""

    def batch(self, epoch: int, batch: int) -> Batch:
        """Give any batch, without effect on the cursor or on any random stream."""

    def state_dict(self) -> dict[str, Any]:
        """Give the cursor, and the settings under which it has its meaning."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take a cursor back; refuses one of another source or of other settings."""

    def settings(self) -> dict[str, Any]:
        """Describe source and order in plain values."""

    def adopt(self, settings: Mapping[str, Any]) -> None:
        """Take those settings from a record that can be changed."""

    def close(self) -> None:
        """Free what is held: batches, files, worker processes."""


class CursorFeed(ABC):
    """The part of a feed that counts: position, the held batch, and the state.

    The cursor is one value, replaced in one step, and the held batch bears the cursor that it was read for; so an
    interrupt between any two instructions leaves either the old position or the new one.
    """

    changeable: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        self._position = Position(0, 0)
        self._held: tuple[Position, Batch, int] | None = None

    @abstractmethod
    def _batches_in(self, epoch: int) -> int:
        """Count the batches of an epoch."""

    @abstractmethod
    def _read(self, epoch: int, batch: int) -> Batch:
        """Read a batch that exists, without effect on any random stream."""

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

    @property
    def position(self) -> Position:
        """Epoch and batch of what is next; always a batch that exists."""
        return self._position

    @property
    def batches(self) -> int:
        """Batches in the cursor's epoch."""
        return self._batches_in(self._position.epoch)

    def fetch(self) -> Batch:
        """Give the batch at the cursor, read once and then held until the cursor moves.

        If somebody changed the held tensors in place, they are read again: each call gives the batch as it is stored.
        """
        position, held = self._position, self._held
        if held is not None and held[0] is position and held[2] == _edits_of(held[1]):
            return held[1]
        batch = self._read(position.epoch, position.batch)
        self._held = (position, batch, _edits_of(batch))
        return batch

    def advance(self) -> bool:
        """Move past the batch at the cursor.

        Returns:
            True if that ended the epoch; the cursor then stands at the start of the next one.
        """
        epoch, batch = self._position
        ended = batch + 1 >= self._batches_in(epoch)
        self._position = Position(epoch + 1, 0) if ended else Position(epoch, batch + 1)
        self._held = None
        return ended

    def seek(self, *, epoch: int, batch: int = 0) -> None:
        """Move the cursor; nothing is read or walked through.

        Raises:
            IndexError: There is no such batch.
        """
        epoch, batch = operator.index(epoch), operator.index(batch)
        if epoch < 0 or not 0 <= batch < self._batches_in(epoch):
            raise IndexError(out_of_range(epoch, batch, self._batches_in(max(epoch, 0))))
        self._position, self._held = Position(epoch, batch), None

    def state_dict(self) -> dict[str, Any]:
        """Give the cursor of consumed batches, and the settings under which it has its meaning."""
        epoch, batch = self._position
        return {"version": VERSION, "cursor": {"epoch": epoch, "batch": batch}, "settings": self.settings()}

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

    def close(self) -> None:
        """Let go of the held batch."""
        self._held = None

    def _checked(self, state: Mapping[str, Any]) -> Position:
        name = type(self).__name__
        if state.get("version") != VERSION:
            raise ValueError(
                f"{name} state has version {state.get('version')!r}, this deeptrain reads {VERSION}; "
                f"load it with the deeptrain that wrote it"
            )
        try:
            position = Position(int(state["cursor"]["epoch"]), int(state["cursor"]["batch"]))
            recorded = dict(state["settings"])
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{name} state is incomplete: expected cursor.epoch, cursor.batch and settings"
            ) from error
        present = self.settings()
        _refuse(
            f"{name} state is of another source",
            differences(recorded.pop("source", {}), present.pop("source"), "source."),
            "load it over the data that it was saved with",
        )
        if position.batch:
            _refuse(
                f"{name} state is of another order, and its cursor stands at batch {position.batch} of an epoch",
                differences(recorded, present),
                "set these as recorded (adopt(state['settings']) does), or seek to an epoch's start",
            )
        return position


def _edits_of(batch: Batch) -> int:
    return edits(batch.inputs) + edits(batch.targets)


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
