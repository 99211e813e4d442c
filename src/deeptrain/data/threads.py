"""Background threads that read batches: jobs in a queue, given up when nobody wants them any more."""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from deeptrain.data.batch import Batch
    from deeptrain.data.feed import Position


class Job:
    """Some batches that follow each other, to be read by a thread.

    Attributes:
        first: The first one's position.
        last: The last one's, in the same epoch.
        wanted: Whether somebody still waits for them; looked at before each batch.
    """

    def __init__(self, read: Callable[[int, int], Batch], first: Position, last: Position) -> None:
        self.first, self.last = first, last
        self.wanted = True
        self._read = read
        self._found: Future[list[Batch | BaseException | None]] = Future()

    @property
    def count(self) -> int:
        """How many batches there are."""
        return self.last.batch - self.first.batch + 1

    def run(self, queue: _Queue) -> None:
        """Read; an error stands in the place of its batch, None in that of one that nobody wants any more."""
        indices = range(self.first.batch, self.last.batch + 1)
        self._found.set_result([self._read_one(queue, index) for index in indices])

    def _read_one(self, queue: _Queue, index: int) -> Batch | BaseException | None:
        try:
            return self._read(self.first.epoch, index) if self.wanted and queue.open else None
        except BaseException as error:  # noqa: BLE001 - it is raised where its batch is due
            return error

    def results(self) -> list[Batch | BaseException | None]:
        """Wait for what was read."""
        return self._found.result()


class _Queue:
    """Jobs for some threads, until it is shut."""

    def __init__(self) -> None:
        self.jobs: SimpleQueue[Job | None] = SimpleQueue()
        self.open = True

    def shut(self, threads: int) -> None:
        self.open = False
        for _ in range(threads):
            self.jobs.put(None)


class Threads:
    """Threads that do jobs in their order.

    They hold nothing but the queue, so that a loader that was dropped takes them along. Where the interpreter ends, what is
    queued is not read any more.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self._queue = _Queue()
        for number in range(count):
            name = f"deeptrain-prefetch-{number}"
            threading.Thread(target=_do, args=(self._queue,), name=name, daemon=_at_exit is None).start()
        self.end = weakref.finalize(self, self._queue.shut, count)
        _running.add(self)

    def submit(self, job: Job) -> None:
        """Have a job done after those before it."""
        self._queue.jobs.put(job)


def _do(queue: _Queue) -> None:
    while (job := queue.jobs.get()) is not None:
        job.run(queue)
        del job  # or its batches would live until the next one comes


_running: weakref.WeakSet[Threads] = weakref.WeakSet()


def _end_all() -> None:
    for threads in list(_running):
        threads.end()


# An interpreter that ends waits for its threads before it calls what `atexit` was given: a thread that waits for jobs must
# be told before. As daemons they would be stopped in the middle of torch's code, which ends the process by a signal. The
# hook has no public name; `concurrent.futures` stands on it.
_at_exit: Callable[[Callable[[], None]], None] | None = getattr(threading, "_register_atexit", None)
if _at_exit is not None:
    _at_exit(_end_all)
