"""`Slices`: sets that are read whole and handed out piece by piece, without a copy."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from deeptrain.data.batch import aligned
from deeptrain.data.forks import renew_in_children
from deeptrain.data.residents import Residents

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

SETS = 16  # as many may be open at once: under "batches" every set of a group is
MOST_IN_SET = 1 << 24  # bytes; of a larger set a piece is read by itself


class Slices:
    """Pieces of sets, each set read whole when its first piece is asked for, and let go with its last one.

    A piece shares memory with the set, and somebody may change it in place. So no row is handed out twice: who asks
    again for rows that were given is given those of another reading.

    Args:
        read: Reads a set whole, by its index.
        most: How many bytes of sets may be open at once.
    """

    def __init__(self, read: Callable[[int], torch.Tensor], most: int) -> None:
        self._read = read
        self._open = Residents(most, count=SETS)
        self._given: dict[int, tuple[torch.Tensor, bytearray]] = {}
        self._lock = threading.Lock()
        renew_in_children(self)

    def renew(self) -> None:
        """Begin anew in a child process: a thread of the parent may have been in the middle of giving."""
        self._lock = threading.Lock()
        self._given = {}

    def give(self, which: int, start: int, stop: int) -> torch.Tensor:
        """Give the rows `start` to `stop - 1` of a set; aligned, and with a count of in-place changes of its own."""
        while True:
            whole = self._open.get((which,), lambda: self._begin(which))
            if self._take(which, whole, start, stop):
                # `data` has a count of changes of its own: those of one batch are not those of its neighbours.
                piece = whole.data[start:stop]
                return piece if start == 0 else aligned(piece)

    def _begin(self, which: int) -> torch.Tensor:
        whole = self._read(which)
        with self._lock:
            self._given[which] = (whole, bytearray(len(whole)))
            while len(self._given) > 2 * SETS:  # of sets that were let go before their last piece
                del self._given[next(iter(self._given))]
        return whole

    def _take(self, which: int, whole: torch.Tensor, start: int, stop: int) -> bool:
        """Mark rows as given; False where some were, or where that is not known, and then the set is let go."""
        with self._lock:
            known, given = self._given.get(which, (None, bytearray()))
            fresh = known is whole and 1 not in given[start:stop]
            if fresh:
                given[start:stop] = b"\1" * (stop - start)
            if not fresh or 0 not in given:
                self._given.pop(which, None)
                self._open.drop((which,))
            return fresh

    def clear(self) -> None:
        """Let go of all sets."""
        with self._lock:
            self._given.clear()
            self._open.clear()
