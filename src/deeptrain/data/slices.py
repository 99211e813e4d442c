"""`Slices`: rows that are read together and handed out piece by piece, without a copy."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from deeptrain.data.batch import aligned
from deeptrain.data.forks import renew_in_children
from deeptrain.data.residents import Residents

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    import torch

SETS = 16  # as many may be open at once: under "batches" every set of a group is
MOST_IN_SET = 1 << 24  # bytes; of a larger set a piece is read by itself


class Slices:
    """Pieces of stretches of rows, each read whole when its first piece is asked for, and let go with its last one.

    A piece shares memory with the whole, and somebody may change it in place. So no row is handed out twice: who asks
    again for rows that were given is given those of another reading.

    Args:
        most: How many bytes of them may be open at once.
        count: How many may be.
    """

    def __init__(self, most: int, count: int = SETS) -> None:
        self._count = count
        self._open = Residents(most, count=count)
        self._given: dict[Hashable, tuple[torch.Tensor, bytearray]] = {}
        self._lock = threading.Lock()
        renew_in_children(self)

    def renew(self) -> None:
        """Begin anew in a child process: a thread of the parent may have been in the middle of giving."""
        self._lock = threading.Lock()
        self._given = {}

    def give(self, name: Hashable, start: int, stop: int, read: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Give the rows `start` to `stop - 1` of a stretch; aligned, and with a count of in-place changes of its own.

        Args:
            name: The stretch.
            start: The first row.
            stop: One after the last.
            read: Reads the stretch whole.
        """
        while (whole := self._take(name, start, stop)) is None:
            self._open.get(name, lambda: self._begin(name, read))
        # `data` has a count of changes of its own: those of one batch are not those of its neighbours.
        piece = whole.data[start:stop]
        return piece if start == 0 else aligned(piece)

    def _begin(self, name: Hashable, read: Callable[[], torch.Tensor]) -> torch.Tensor:
        whole = read()
        with self._lock:
            self._given[name] = (whole, bytearray(len(whole)))
            while len(self._given) > 2 * self._count:  # of those that were let go before their last piece
                del self._given[next(iter(self._given))]
        return whole

    def _take(self, name: Hashable, start: int, stop: int) -> torch.Tensor | None:
        """Mark rows as given and give the whole; None where some were, or where that is not known: then it is let go."""
        with self._lock:
            whole, given = self._given.get(name, (None, bytearray()))
            if 1 in given[start:stop]:
                whole = None
            else:
                given[start:stop] = b"\1" * (stop - start)
            if whole is None or 0 not in given:
                self._given.pop(name, None)
                self._open.drop(name)
            return whole

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._given.clear()
            self._open.clear()
