"""`Residents`: sets that are in memory whole, for the batches to come; read once, however many threads ask."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeAlias

from deeptrain.data.forks import renew_in_children

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    import torch

Key: TypeAlias = "Hashable"


class Residents:
    """Values by the sets that they are of. Those asked for longest ago go first when there are too many bytes.

    Args:
        most: How many bytes may stay, beside those that are to be kept for good.
        count: How many values may stay.
    """

    def __init__(self, most: int, count: int = 1 << 30) -> None:
        self._most = most
        self._count = count
        self._held: dict[Key, Future[torch.Tensor]] = {}
        self._sizes: dict[
            Key, int
        ] = {}  # bytes of what is read and may go, from the oldest use to the newest
        self._newest: tuple[Key, torch.Tensor] | None = None  # asked for again and again: no lock, no future
        self._kept: set[Key] = set()
        self._lock = threading.Lock()
        renew_in_children(self)

    def renew(self) -> None:
        """Begin anew in a child process: what threads of the parent were reading will not come here."""
        self._lock = threading.Lock()
        self._held = {key: future for key, future in self._held.items() if future.done()}

    def keep(self, keys: set[Key]) -> None:
        """Never let these go again."""
        self._kept |= keys

    def is_kept(self, key: Key) -> bool:
        """Whether these are to be kept for good."""
        return key in self._kept

    def get(self, key: Key, read: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Give what is held under a key, or read it; a second thread waits for the one that reads.

        Raises:
            BaseException: Whatever `read` raised in this thread; another one that waited then reads by itself.
        """
        newest = self._newest
        if newest is not None and newest[0] == key:
            return newest[1]
        value = self._get(key, read)
        self._newest = (key, value)
        return value

    def _get(self, key: Key, read: Callable[[], torch.Tensor]) -> torch.Tensor:
        while True:
            mine: Future[torch.Tensor] = Future()
            future = mine
            try:
                with self._lock:
                    future = self._held.get(key, mine)
                    self._held[key] = future
                    if key in self._sizes:
                        self._sizes[key] = self._sizes.pop(key)  # at the end: the newest
                if future is mine:
                    value = read()
                    mine.set_result(value)
                    self._count_in(key, value.nbytes)
                return future.result()
            except BaseException as error:
                # A signal may raise anywhere in here. Whatever happened, nobody is to wait for a read that ended.
                self._abandon(key, mine, error)
                if future is mine or not future.done() or future.exception() is not error:
                    raise

    def _abandon(self, key: Key, mine: Future[torch.Tensor], error: BaseException) -> None:
        with self._lock:
            held = self._held.get(key)
            failed = held is not None and held.done() and held.exception() is error
            counted = key in self._sizes or key in self._kept
            if held is mine or failed or (held is not None and held.done() and not counted):
                del self._held[key]
        if not mine.done():
            mine.set_exception(error)

    def _count_in(self, key: Key, size: int) -> None:
        """Count what was read, and let go of what is too much."""
        with self._lock:
            if key not in self._kept and key in self._held:
                self._sizes[key] = size
            # The newest stays whatever its size: somebody is about to use it.
            while len(self._sizes) > 1 and self._is_too_much():
                oldest = next(iter(self._sizes))
                self._held.pop(oldest, None)
                self._sizes.pop(oldest, None)

    def _is_too_much(self) -> bool:
        return len(self._sizes) > self._count or sum(self._sizes.values()) > self._most

    def drop(self, key: Key) -> None:
        """Let go of what is held under a key; one that is being read now stays until its readers have it."""
        with self._lock:
            held = self._held.get(key)
            if held is not None and held.done():
                del self._held[key]
                self._sizes.pop(key, None)
            if self._newest is not None and self._newest[0] == key:
                self._newest = None

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self._held.clear()
            self._sizes.clear()
            self._newest = None
