"""`Running`: keeps an iterator over consecutive batches going for as long as it is asked for one after another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakMethod

from deeptrain.data.feed import Position

if TYPE_CHECKING:
    from collections.abc import Callable


class Closable(Protocol):
    """An iterator that holds something to be let go of, such as worker processes."""

    def __next__(self) -> Any:
        """Give the next batch."""

    def close(self) -> None:
        """Let go."""


class Running:
    """Batches by position, out of an iterator that reads ahead.

    It follows a cursor that moves on batch by batch. Asked for any other position, it ends the iterator and opens one
    there. After an error likewise: the batch may be asked for again. It does not notice that the order was changed;
    whoever changes it calls `close`.

    Args:
        start: The owner's method that opens an iterator over the rest of a position's epoch, beginning with its batch.
            It is held weakly: an owner that nobody else refers to goes at once, and its worker processes with it.
    """

    def __init__(self, start: Callable[[Position], Closable]) -> None:
        self._start = WeakMethod(start)
        self._running: tuple[Closable, Position] | None = None

    def take(self, position: Position) -> Any:
        """Give the batch at a position.

        Raises:
            RuntimeError: The user's code raised StopIteration, which would look like the end of the epoch.
        """
        # Taken out while it runs: whatever ends this early leaves no iterator behind that has moved past the cursor,
        # or that ended with its exception and would now look like the end of an epoch.
        running, self._running = self._running, None
        if running is not None and running[1] != position:
            running[0].close()
            running = None
        iterator = self._open(position) if running is None else running[0]
        try:
            data = next(iterator)
        except StopIteration as error:
            iterator.close()
            raise RuntimeError(
                f"the data set or its collate function raised StopIteration in {position}; expected a batch"
            ) from error
        except BaseException:
            iterator.close()
            raise
        self._running = (iterator, Position(position.epoch, position.batch + 1))
        return data

    def _open(self, position: Position) -> Closable:
        start = self._start()
        assert start is not None, "its owner is gone"
        return start(position)

    @property
    def iterator(self) -> Closable | None:
        """What runs now."""
        return None if self._running is None else self._running[0]

    def close(self) -> None:
        """End the iterator; the next batch opens another one."""
        running, self._running = self._running, None
        if running is not None:
            running[0].close()
