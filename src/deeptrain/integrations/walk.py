"""`Walk`: an epoch of something that only goes forward, looked at one batch ahead and under seeds of its own."""

from __future__ import annotations

import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from deeptrain.data.batch import aligned, map_tensors
from deeptrain.data.feed import Position
from deeptrain.data.seeded import seed_streams, streams_put_back
from deeptrain.data.workers import shut_down
from deeptrain.state.hashing import mix
from deeptrain.state.leaves import LeafError, tensor_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

GLIMPSE = 1024  # numbers of a row that tell one batch from another
_END = object()


class Mark(NamedTuple):
    """A place to go on from.

    Attributes:
        position: Epoch and batch of what comes there.
        rows: How many rows of the epoch come before.
        state: The state that the iterable must be put to; None where it has none.
        check: What `glimpse` found in the batch that came there; None where that is not known.
    """

    position: Position
    rows: int = 0
    state: Any = None
    check: int | None = None


class Pulled(NamedTuple):
    """A batch, and the place behind it.

    Attributes:
        data: What the iterable gave, its tensors aligned.
        mark: The place at which it came.
        after: The place behind it.
    """

    data: Any
    mark: Mark
    after: Mark


class Walk:
    """Batches of one epoch, one after another.

    Each is pulled under streams that are seeded for it, and put back afterwards: random numbers depend on the batch's
    place alone, and not on where the walk began.

    Args:
        iterator: Gives the epoch's batches from the mark on.
        mark: Where the walk begins.
        seed: What the streams are seeded from, together with epoch and batch.
        snapshot: Gives the iterable's state, in which what was pulled counts as consumed.
    """

    def __init__(self, iterator: Iterator[Any], mark: Mark, seed: int, snapshot: Callable[[], Any]) -> None:
        self._iterator = iterator
        self._mark = mark
        self._seed = seed
        self._snapshot = snapshot
        self._ahead: Pulled | None = None
        self._error: Exception | None = None

    @property
    def position(self) -> Position:
        """What `take` gives next."""
        return self._mark.position

    @property
    def mark(self) -> Mark:
        """The place of what comes next: at an epoch's end, which is known once it was looked for, the next epoch's."""
        if self._ahead is None:
            return self._mark
        return self._ahead.after if self._ahead.data is _END else self._ahead.mark

    def take(self) -> Pulled:
        """Give the next batch.

        Raises:
            IndexError: There is none.
            Exception: Whatever the iterable raises; the walk has then come to its end.
        """
        error, self._error = self._error, None
        if error is not None:
            raise error
        pulled = self._ahead or self._pull()
        if pulled.data is _END:
            epoch, batch, _ = self.position
            raise IndexError(f"no batch {batch} in epoch {epoch}: it ended after {batch} batches")
        self._ahead, self._mark = None, pulled.after
        return pulled

    def is_over(self) -> bool:
        """Look whether another batch comes. An exception is kept, and surfaces where that batch is taken."""
        if self._ahead is None and self._error is None:
            try:
                self._ahead = self._pull()
            except Exception as error:  # noqa: BLE001 - it belongs to the next batch and not to this one
                self._error = error
        return self._ahead is not None and self._ahead.data is _END

    def close(self) -> None:
        """End worker processes, and let a generator clean up."""
        shut_down(self._iterator)
        close = getattr(self._iterator, "close", None)
        if callable(close):
            with streams_put_back():
                close()

    def _pull(self) -> Pulled:
        (epoch, batch, _), rows = self._mark.position, self._mark.rows
        with aside(self._seed, "batch", epoch, batch):
            data = next(self._iterator, _END)
            state = self._snapshot()
        if data is _END:
            return Pulled(_END, self._mark, Mark(Position(epoch + 1, 0), 0, state))
        data = map_tensors(data, aligned)
        after = Mark(Position(epoch, batch + 1), rows + count_rows(data), state)
        return Pulled(data, self._mark._replace(check=glimpse(data)), after)


@contextmanager
def aside(seed: int, *key: int | str) -> Iterator[None]:
    """Run a block under streams seeded from a key, and put them back."""
    with streams_put_back():
        seed_streams(mix(seed, *key))
        yield


def count_rows(data: Any) -> int:
    """How many rows a batch has: the length of its first tensor's first axis, else its own length, else 1."""
    found: list[int] = []
    map_tensors(data, lambda tensor: found.append(len(tensor)) if tensor.dim() else None)
    return found[0] if found else len(data) if hasattr(data, "__len__") else 1


def glimpse(data: Any) -> int:
    """Sum up the first and last row of each tensor, to notice that another batch came than before."""
    found = 0

    def add(tensor: torch.Tensor) -> None:
        nonlocal found
        found = zlib.crc32(f"{tensor.dtype}{list(tensor.shape)}".encode(), found)
        if tensor.numel():
            rows = (tensor[0], tensor[-1]) if tensor.dim() else (tensor,)
            for row in rows:
                found = zlib.crc32(tensor_bytes(row.reshape(-1)[:GLIMPSE]), found)

    try:
        map_tensors(data, add)
    except (LeafError, RuntimeError, NotImplementedError):
        return 0  # layouts without plain bytes, as sparse ones
    return found
