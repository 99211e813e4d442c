"""Standing memory for batches: lent out, and lent again only once nobody holds it any more.

Fresh memory of the size of a batch costs a page fault for every 4 KB, which is several times what reading a file
from the page cache costs. So buffers are used again. Who keeps a batch (an event, a list in a callback, autograd)
keeps its memory: a buffer is taken back only when torch counts no holder of its storage beside this pool.
"""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, TypeAlias

import torch

from deeptrain.data.forks import renew_in_children

if TYPE_CHECKING:
    from collections.abc import Callable

    Take: TypeAlias = Callable[[tuple[int, ...], torch.dtype], torch.Tensor]

# Not in torch's documentation, though its CUDA graphs stand on it. Without it every buffer is a fresh one.
_holders: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)  # noqa: SLF001
FREE = 1  # the pool's own hold
SMALL = 1 << 14  # bytes; below this the allocator is faster than looking for a buffer
HANDS = (
    4  # that refer to a free storage while it is looked at: the pool, two variables, the count's own argument
)
NEWEST, OLDEST = 2, 6  # how many standing buffers are looked at
STEPS = 8  # sizes of standing memory between two powers of 2, so that nearly equal ones share it


class Buffers:
    """Gives tensors over memory that is used again.

    Args:
        pin: Whether to give page-locked memory, from which an accelerator copies while the loop goes on. torch's own
            pinned allocator then does what this pool does, and waits for copies under way too.
        most: How many bytes to keep standing.

    Attributes:
        pin: As given.

    Example:
        >>> take = Buffers().take
        >>> take((4, 2), torch.float32).shape
        torch.Size([4, 2])
    """

    def __init__(self, *, pin: bool = False, most: int = 1 << 30) -> None:
        self.pin = pin
        self._most = most
        self._standing: dict[int, list[torch.UntypedStorage]] = {}
        self._bytes = 0
        self._lock = threading.Lock()
        renew_in_children(self)

    def renew(self) -> None:
        """Begin anew in a child process: a thread of the parent may have been in the middle of lending."""
        self._lock = threading.Lock()
        self._standing, self._bytes = {}, 0

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Give a contiguous tensor of any content; its memory starts at a multiple of 64 bytes."""
        if self.pin:
            return torch.empty(shape, dtype=dtype, device="cpu", pin_memory=True)
        size = dtype.itemsize
        for length in shape:
            size *= length
        if size < SMALL or _holders is None:
            return fresh(shape, dtype)
        # Until the tensor counts as a holder, or another thread would be given the same memory.
        with self._lock:
            tensor: torch.Tensor = torch.empty(0, dtype=dtype, device="cpu")
            tensor.set_(self._storage(_rounded(size)), 0, shape)  # type: ignore[call-overload]
            return tensor

    def pinned(self, tensor: torch.Tensor) -> torch.Tensor:
        """Give the tensor in page-locked memory: itself, or a copy."""
        return tensor if tensor.is_pinned() else self.take(tuple(tensor.shape), tensor.dtype).copy_(tensor)

    def _storage(self, size: int) -> torch.UntypedStorage:
        storage: torch.UntypedStorage
        standing = self._standing.setdefault(size, [])
        if len(standing) == NEWEST and _is_free(standing[0]):  # what a loop that keeps one batch comes to
            standing.reverse()
            return standing[1]
        # First those lent last, which may still be in the processor's caches; then those lent longest ago.
        count = len(standing)
        for place in (*range(count - 1, max(count - NEWEST, 0) - 1, -1), *range(min(OLDEST, count - NEWEST))):
            storage = standing[place]
            if _is_free(storage):
                standing.append(standing.pop(place))
                return storage
        storage = torch.empty(size, dtype=torch.uint8, device="cpu").untyped_storage()
        if self._make_room(size):
            standing.append(storage)
            self._bytes += size
        return storage

    def _make_room(self, size: int) -> bool:
        """Forget buffers of other sizes, first those of the size that was asked for longest ago."""
        for other in list(self._standing):
            if self._bytes + size <= self._most:
                break
            if other != size:
                self._bytes -= other * len(self._standing.pop(other))
        return self._bytes + size <= self._most

    def clear(self) -> None:
        """Let go of all memory that nobody holds."""
        with self._lock:
            self._standing.clear()
            self._bytes = 0


def _is_free(storage: torch.UntypedStorage) -> bool:
    # torch counts tensors; who keeps the storage itself holds the very object that the pool does; and one that was sent to
    # another process has a hold there which is not counted here.
    assert _holders is not None
    free = _holders(storage._cdata) == FREE and sys.getrefcount(storage) <= HANDS  # noqa: SLF001
    return free and not storage.is_shared()


def _rounded(size: int) -> int:
    step = max(1, (1 << (size - 1).bit_length()) // (2 * STEPS))
    return -(-size // step) * step


def fresh(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Give a tensor of any content over memory of its own; what `Buffers.take` does, without a pool."""
    return torch.empty(shape, dtype=dtype, device="cpu")
