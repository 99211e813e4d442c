"""Reading ahead: the same batches, in bounded memory, with errors where they belong."""

import gc
import os
import subprocess
import sys
import threading
import traceback

import numpy as np
import pytest
import torch

from deeptrain.data import Batch
from deeptrain.data.prefetch import MOST_IN_JOB, Prefetch, nbytes

BATCHES = 9


class Reads:
    """Reads batches of 4 KB, and knows which."""

    def __init__(self, fail=(), rows=1024):
        self.asked, self.fail, self.rows = [], set(fail), rows
        self.lock = threading.Lock()

    def __call__(self, epoch, index):
        with self.lock:
            self.asked.append((epoch, index))
        if (epoch, index) in self.fail:
            raise OSError(f"the disk at {epoch}, {index}")
        return Batch(torch.full((self.rows,), index), None, epoch, index, np.arange(self.rows))


class Eager(Prefetch):
    """Reads ahead whether that is worth it or not, so that tests do not depend on the clock."""

    def _is_worth_it(self):
        return True


def make(reads, most=1 << 20, threads=2, kind=Eager):
    return kind(reads, lambda epoch: BATCHES + epoch % 2, most=most, threads=threads)


def walk(ahead, epochs=2):
    return [
        (batch.epoch, batch.index, int(batch.inputs[0]))
        for epoch in range(epochs)
        for index in range(BATCHES + epoch % 2)
        for batch in [ahead.get(epoch, index)]
    ]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("most", [1, 1 << 14, 1 << 24])
@pytest.mark.parametrize("kind", [Prefetch, Eager])
def test_gives_each_batch(threads, most, kind):
    ahead = make(Reads(), most, threads, kind)
    expected = [(e, i, i) for e in range(3) for i in range(BATCHES + e % 2)]
    assert walk(ahead, 3) == expected
    ahead.close()


def test_asked_for_again_it_gives_the_same_and_from_elsewhere_it_begins_anew():
    reads = Reads()
    ahead = make(reads)
    ahead.get(0, 0)
    first = ahead.get(0, 1)
    first.inputs.zero_()  # who asks again wants it as it is stored
    assert ahead.get(0, 1).inputs[0] == 1
    assert ahead.get(0, 2).index == 2
    assert ahead.get(3, 4).index == 4
    assert ahead.get(0, 1).index == 1
    ahead.close()


def test_it_stays_within_its_bytes():
    reads = Reads(rows=1 << 16)  # half a megabyte of int64
    size = nbytes(reads(0, 0))
    ahead = make(reads, most=3 * size + 1)
    ahead.get(0, 0)
    assert sum(job.count for job in ahead._jobs) <= 3
    ahead.get(0, 1)
    ahead.get(0, 2)
    assert sum(job.count for job in ahead._jobs) <= 4
    ahead.close()


def test_an_error_surfaces_at_its_batch_with_its_own_traceback():
    reads = Reads(fail=[(0, 5)])
    ahead = make(reads)
    for index in range(5):
        assert ahead.get(0, index).index == index
    with pytest.raises(OSError, match="the disk at 0, 5") as raised:
        ahead.get(0, 5)
    assert "__call__" in "".join(traceback.format_tb(raised.value.__traceback__))
    reads.fail.clear()
    assert ahead.get(0, 5).index == 5
    assert ahead.get(0, 6).index == 6
    ahead.close()


def test_small_batches_share_a_job():
    reads = Reads(rows=4)
    ahead = make(reads)
    ahead.get(0, 0)
    assert ahead._jobs[0].count == min(MOST_IN_JOB, BATCHES - 1)
    ahead.close()


def test_reads_ahead_where_there_is_something_to_hide_behind():
    ahead = make(Reads(), kind=Prefetch)
    ahead._took, ahead._between = 1e-5, 1e-4
    assert ahead._is_worth_it()
    ahead._took, ahead._between = 1e-4, 1e-5  # a loop that only looks at fast data
    assert not ahead._is_worth_it()
    ahead._took = 1.0  # a slow disk
    assert ahead._is_worth_it()


def test_a_forked_child_reads_by_itself():
    ahead = make(Reads())
    ahead.get(0, 0)
    ahead.get(0, 1)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if ahead.get(0, 2).index == 2 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert ahead.get(0, 2).index == 2
    ahead.close()


def test_a_reader_that_was_dropped_takes_its_threads_along():
    ahead = make(Reads())
    ahead.get(0, 0)
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("deeptrain-prefetch")]
    assert threads
    del ahead
    for thread in threads * 100:  # they may be reading still, and hold the reader for as long
        gc.collect()
        thread.join(0.1)
    assert not any(thread.is_alive() for thread in threads)


def test_what_nobody_wants_is_not_read():
    gate, begun = threading.Event(), threading.Event()

    class Slow(Reads):
        def __call__(self, epoch, index):
            batch = super().__call__(epoch, index)
            if index == 2:
                begun.set()
                gate.wait(10)
            return batch

    reads = Slow()
    ahead = make(reads, threads=1)
    ahead.get(0, 0)
    begun.wait(10)
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("deeptrain-prefetch")]
    ahead.close()
    gate.set()
    for thread in threads:
        thread.join(10)
    assert max(index for _, index in reads.asked) <= 3


def test_an_interpreter_that_ends_reads_no_further():
    """Nor does a thread that is in the middle of a read end the process by a signal."""
    script = """
import time, numpy as np, torch
from deeptrain.data import Batch
from deeptrain.data.prefetch import Prefetch
asked = []
def read(epoch, index):
    asked.append(index)
    if index:
        time.sleep(0.2)
    return Batch(torch.zeros(1 << 20), None, epoch, index, np.arange(1))
ahead = Prefetch(read, lambda epoch: 1000, most=1 << 30, threads=2)
ahead._is_worth_it = lambda: True
ahead.get(0, 0)
import atexit
atexit.register(lambda: print(len(asked)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 10


class Clock:
    """A clock that stands still between what is told."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("deeptrain.data.prefetch.perf_counter", lambda: self.now)


def timed(clock, seconds, rows=1 << 16):
    def read(epoch, index):
        clock.now += seconds
        return Batch(torch.zeros(rows), None, epoch, index, np.arange(rows))

    return Prefetch(read, lambda _: 10**6, most=1 << 26, threads=1)


def test_one_long_pause_does_not_start_threads(monkeypatch):
    """A validation between two epochs says nothing about what the loop does between two batches."""
    clock = Clock(monkeypatch)
    ahead = timed(clock, seconds=100e-6)
    for index in range(100):
        clock.now += 1000.0 if index == 50 else 5e-6
        ahead.get(0, index)
        assert ahead._pool is None
    for index in range(100, 120):  # a loop that works between its batches gets them from threads soon
        clock.now += 1e-3
        ahead.get(0, index)
    assert ahead._pool is not None
    ahead.close()


@pytest.mark.parametrize(("seconds", "slow"), [(3e-3, False), (30e-3, True)])
def test_a_large_batch_out_of_memory_is_not_taken_for_a_slow_disk(monkeypatch, seconds, slow):
    clock = Clock(monkeypatch)
    ahead = timed(clock, seconds, rows=1 << 20)  # 4 MB
    for index in range(20):
        ahead.get(0, index)
    assert (ahead._pool is not None) == slow
    ahead.close()
