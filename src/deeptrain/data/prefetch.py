"""`Prefetch`: reads the batches to come in background threads, as many as fit into so many bytes.

What is read ahead is a cache and no more: the cursor alone says what comes next. A batch stays here until the cursor
has moved past it, so whatever interrupts the loop loses nothing, and a cursor that jumps just begins anew.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING, Any

from deeptrain.data.batch import map_tensors
from deeptrain.data.feed import Position
from deeptrain.data.forks import renew_in_children
from deeptrain.data.threads import Job, Threads
from deeptrain.data.together import Together

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from deeptrain.data.batch import Batch

JOB_BYTES = 1 << 20  # a job reads at least so much: handing one over costs some 50 us
SLOW = 1e-3  # seconds for a batch, from which on threads are worth it however little the loop does meanwhile,
MEMORY = 1e9  # unless so many bytes come in a second: that is a copy in memory, which threads only push out of caches
NEAR = 1 << 23  # bytes read ahead of what is read fast: more would only push it out of the processor's caches
MOST_IN_JOB = 32
SMOOTH = 8
MOST_AHEAD = 256  # batches: of small ones more hides nothing more, and an edit throws them all away


class Prefetch:
    """Batches read ahead of a cursor.

    Args:
        read: Reads a batch by epoch and index; called in several threads at once.
        read_together: Reads a batch and perhaps some behind it at once, where that is cheaper than one by one; called
            where the loop reads by itself.
        batches_in: Counts the batches of an epoch.
        most: How many bytes may lie ready.
        threads: How many threads read.
    """

    def __init__(
        self,
        read: Callable[[int, int], Batch],
        batches_in: Callable[[int], int],
        *,
        most: int,
        threads: int,
        read_together: Callable[[int, int], list[Batch]] | None = None,
    ) -> None:
        self._read, self._batches_in = read, batches_in
        self._read_together = read_together
        self._here: Together | None = None  # what the loop read by itself
        self._most, self._threads = most, threads
        self._pool: Threads | None = None
        self._jobs: deque[Job] = deque()
        self._batch_bytes = 0
        self._took = self._between = (
            0.0  # seconds to read a batch, and between two that are asked for; smoothed
        )
        self._left, self._read_last = (
            perf_counter(),
            1,
        )  # when the last read was done, and of how many batches
        renew_in_children(self)

    def renew(self) -> None:
        """Begin anew in a child process, where the threads did not come along."""
        self._pool = None
        self._jobs.clear()

    def get(self, epoch: int, index: int) -> Batch:
        """Give a batch, and see to it that those after it are read.

        Raises:
            BaseException: Whatever reading it raised, with the traceback of the thread that read.
        """
        here = self._here
        if here is not None and (found := here.take(epoch, index)) is not None:
            return found
        # One long pause, as for a validation, says little: it counts for a doubling at most.
        pause = min((perf_counter() - self._left) / self._read_last, 2 * self._between + self._took)
        self._between += (pause - self._between) / SMOOTH
        self._read_last = 1
        try:
            if self._batch_bytes and not self._jobs and not self._is_worth_it():
                return self._read_here(epoch, index)
            return self._give(Position(epoch, index))
        finally:
            self._left = perf_counter()

    def _read_here(self, epoch: int, index: int) -> Batch:
        """Read a batch here and now, and with it some of those behind it, where that is cheaper."""
        here = self._here
        if self._read_together is None or (here is not None and (epoch, index) <= here.last):
            return self._timed(epoch, index)  # one of them, asked for again
        begin = perf_counter()
        batches = self._read_together(epoch, index)
        self._read_last = len(batches)
        self._took += ((perf_counter() - begin) / len(batches) - self._took) / SMOOTH
        self._here = here = Together(epoch, index, batches)
        return here.take(epoch, index) or batches[0]

    def _give(self, position: Position) -> Batch:
        jobs = self._jobs
        while jobs and jobs[0].last < position:
            jobs.popleft()
        if not jobs or position < jobs[0].first:
            return self._begin(position)
        if position == jobs[0].first:
            self._read_on()
        results, place = jobs[0].results(), position.batch - jobs[0].first.batch
        # Given out once: who asks again may have changed it in place, or met an error, and wants it read again.
        found, results[place] = results[place], None
        if isinstance(found, BaseException):
            raise found
        return self._timed(*position[:2]) if found is None else found

    def _begin(self, position: Position) -> Batch:
        """Read a batch here and now, learn from it how many fit, and perhaps have those after it read."""
        self.clear()
        batch = self._timed(position.epoch, position.batch)
        self._batch_bytes = max(1, nbytes(batch))
        if self._is_worth_it():
            self._submit(self._following(position))
            self._read_on()
        return batch

    def _is_worth_it(self) -> bool:
        """Whether handing reads to threads gains more than it costs.

        Reading is hidden behind what the loop does between two batches. Where that is less than a read takes, as in a
        loop that only looks at the data, and reads are fast, the loop is faster by itself.
        """
        return self._is_slow() or self._between > self._took

    def _is_slow(self) -> bool:
        """Whether batches come from a disk, or are worked out, rather than out of memory."""
        return self._took > SLOW and self._took * MEMORY > self._batch_bytes

    def _read_on(self) -> None:
        if not self._is_worth_it():
            return  # what is under way is used up, and then the loop reads by itself
        ahead = sum(job.count for job in self._jobs)
        most = self._most if self._is_slow() else min(self._most, NEAR)
        fit = min(most // self._batch_bytes, MOST_AHEAD)
        while ahead + self._in_one_job() <= fit:
            job = self._submit(self._following(self._jobs[-1].last))
            ahead += job.count

    def _timed(self, epoch: int, index: int) -> Batch:
        begin = perf_counter()
        batch = self._read(epoch, index)
        self._took += (perf_counter() - begin - self._took) / SMOOTH
        return batch

    def _in_one_job(self) -> int:
        return min(MOST_IN_JOB, max(1, JOB_BYTES // self._batch_bytes))

    def _following(self, position: Position) -> Position:
        epoch, index, _ = position
        return Position(epoch, index + 1) if index + 1 < self._batches_in(epoch) else Position(epoch + 1, 0)

    def _submit(self, first: Position) -> Job:
        stop = min(first.batch + self._in_one_job(), self._batches_in(first.epoch))
        if self._pool is None:
            self._pool = Threads(self._threads)
        job = Job(self._timed, first, Position(first.epoch, stop - 1))
        self._jobs.append(job)
        self._pool.submit(job)
        return job

    def clear(self) -> None:
        """Forget what was read ahead."""
        self._here = None
        for job in self._jobs:
            job.wanted = False
        self._jobs.clear()

    def close(self) -> None:
        """Forget what was read ahead, and end the threads once they are through with a batch."""
        self.clear()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.end()


def nbytes(batch: Batch) -> int:
    """Count the bytes of a batch's tensors."""
    total = 0

    def add(tensor: torch.Tensor) -> None:
        nonlocal total
        total += tensor.nbytes

    parts: Any = (batch.inputs, batch.targets, batch.class_labels)
    map_tensors(parts, add)
    return total
