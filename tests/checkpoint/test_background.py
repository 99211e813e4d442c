"""The background writer: one job in flight, its error raised once, and whole files whatever happens meanwhile."""

import os
import signal
import subprocess
import sys
import threading
import traceback
import warnings
import weakref

import pytest
import torch

from deeptrain.checkpoint import format as format_module
from deeptrain.checkpoint.background import Writer
from deeptrain.checkpoint.files import CheckpointError
from deeptrain.checkpoint.format import read_checkpoint, write_staged
from deeptrain.checkpoint.staging import Staging
from deeptrain.state.tree import digest

DEADLINE = 60  # seconds, beyond which a test fails instead of hanging


class Gate:
    """A job that says when it has begun and goes on when it is told."""

    def __init__(self, result=None):
        self.begun, self.open, self.result = threading.Event(), threading.Event(), result

    def __call__(self):
        self.begun.set()
        assert self.open.wait(DEADLINE)
        return self.result


@pytest.fixture
def writer():
    made = Writer()
    yield made
    made.close()


def ours():
    return [thread for thread in threading.enumerate() if thread.name == "deeptrain-writer"]


def test_results_come_in_the_order_of_the_jobs(writer):
    assert writer.take() == []
    writer.wait()
    for n in range(3):
        writer.submit(lambda n=n: n)
        writer.wait()
    assert writer.take() == [0, 1, 2]
    assert writer.take() == []


def test_a_job_runs_in_a_thread_and_the_caller_goes_on(writer):
    gate = Gate("done")
    assert not ours()
    writer.submit(gate)
    assert gate.begun.wait(DEADLINE)
    assert writer.busy
    assert writer.take() == []
    (thread,) = ours()
    assert not thread.daemon
    gate.open.set()
    writer.wait()
    assert not writer.busy
    assert writer.take() == ["done"]
    thread.join(DEADLINE)
    assert not ours()


def test_only_one_job_is_in_flight(writer):
    gate = Gate(1)
    writer.submit(gate)
    with pytest.raises(RuntimeError, match=r"in flight: wait\(\)"):
        writer.submit(lambda: 2)
    gate.open.set()
    writer.wait()
    writer.submit(lambda: 3)
    writer.wait()
    assert writer.take() == [1, 3]


class Broken(Exception):
    pass


def broken():
    raise Broken("the disk is on fire")


def test_an_error_is_raised_once_with_its_traceback_and_results_are_not_lost(writer):
    for job in (lambda: 1, broken, lambda: 2):
        writer.submit(job)
        writer.wait()
    with pytest.raises(Broken, match="on fire") as caught:
        writer.take()
    frames = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames[-1] == "broken"
    assert writer.take() == [1, 2]


def test_what_a_job_holds_goes_with_it(writer):
    held = Gate()
    held.open.set()
    gone = weakref.ref(held)
    writer.submit(held)
    writer.wait()
    del held
    for thread in ours():
        thread.join(DEADLINE)
    assert gone() is None


def test_closing_waits_and_raises_what_nobody_fetched():
    writer = Writer()
    gate = Gate("last")
    writer.submit(gate)
    threading.Timer(0, gate.open.set).start()
    assert writer.close() == ["last"]
    with pytest.raises(RuntimeError, match="closed"):
        writer.submit(lambda: 1)
    other = Writer()
    other.submit(broken)
    with pytest.raises(Broken):
        other.close()
    assert other.close() == []


def test_where_there_is_no_thread_to_be_had_the_job_is_done_at_once(writer, monkeypatch):
    def refuse(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    writer.submit(threading.get_ident)
    assert not writer.busy
    assert writer.take() == [threading.get_ident()]


# ---------------------------------------------------------------------- interrupts


def interrupt():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def test_an_interrupt_ends_the_waiting_and_not_the_job(writer, tmp_path):
    staged = Staging().stage({"w": torch.ones(1000)}, {"n": 1})
    gate = Gate()

    def job():
        gate()
        write_staged(tmp_path / "c", staged)

    writer.submit(job)
    assert gate.begun.wait(DEADLINE)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            threading.Timer(
                0.01, interrupt
            ).start()  # should it come before the waiting begins, it is raised all the same
            writer.wait()
        assert writer.busy
        assert all(thread.is_alive() for thread in ours())
    gate.open.set()
    writer.wait()
    writer.take()
    assert read_checkpoint(tmp_path / "c")[1] == {"n": 1}


@pytest.mark.parametrize("begun", [False, True])
def test_an_interrupt_while_a_thread_starts_leaves_the_job_whole_or_undone(writer, monkeypatch, begun):
    start, gate = threading.Thread.start, Gate("done")

    def interrupted(thread):
        if begun:
            start(thread)
            assert gate.begun.wait(DEADLINE)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(threading.Thread, "start", interrupted)
        writer.submit(gate)
    assert writer.busy is begun
    gate.open.set()
    writer.wait()
    assert writer.take() == (["done"] if begun else [])
    assert gate.begun.is_set() is begun


# ---------------------------------------------------------------------- forks and ends


def in_a_fork(act):
    """Whether something comes to its end, and without an error, in a forked child."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork beside a thread: that is what is tested
        child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(DEADLINE)  # a child that hangs is ended by a signal, and counts as failed
            act()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_child_forked_while_a_job_is_in_flight_has_none_and_writes_its_own(writer, tmp_path):
    staging, gate = Staging(), Gate("parent's")
    staged = staging.stage({"n": 1}, {})

    def job():
        with staged.content():  # the memory is held at the moment of the fork
            return gate()

    def child():
        assert not writer.busy
        writer.wait()
        assert writer.take() == []
        mine = staging.stage({"n": 2}, {})
        writer.submit(lambda: write_staged(tmp_path / "child", mine))
        assert writer.close() == [None]

    writer.submit(job)
    assert gate.begun.wait(DEADLINE)
    assert in_a_fork(child)
    assert writer.busy
    gate.open.set()
    writer.wait()
    assert writer.take() == ["parent's"]
    write_staged(tmp_path / "parent", staged)
    assert read_checkpoint(tmp_path / "parent")[0] == {"n": 1}
    assert read_checkpoint(tmp_path / "child")[0] == {"n": 2}


SCRIPT = """
import atexit, pathlib, sys, threading
import torch
from deeptrain.checkpoint import format
from deeptrain.checkpoint.background import Writer
from deeptrain.checkpoint.format import write_staged
from deeptrain.checkpoint.staging import Staging

place, ending, begun = pathlib.Path(sys.argv[1]), threading.Event(), threading.Event()
writer, staging, write_bytes = Writer(), Staging(), format.write_bytes

def slow(path, data):  # in the middle of the writing, wait until the main thread has ended
    begun.set()
    threading.main_thread().join()
    write_bytes(path, data)

def late():
    format.write_bytes = write_bytes
    staged = staging.stage({"n": 2}, {})
    writer.submit(lambda: write_staged(place / "late", staged))
    assert not writer.busy

atexit.register(late)
format.write_bytes = slow
staged = staging.stage({"w": torch.ones(1000)}, {})
writer.submit(lambda: write_staged(place / "early", staged))
begun.wait()
END
"""


@pytest.mark.parametrize("end", ["", "sys.exit(3)", "raise KeyboardInterrupt"])
def test_a_process_that_ends_waits_for_the_write_under_way(tmp_path, end):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("END", end), tmp_path], capture_output=True, timeout=DEADLINE
    )
    assert (done.returncode == 0) is (end == "")
    assert b"late" not in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["early", "late"]
    assert read_checkpoint(tmp_path / "early")[0]["w"].sum() == 1000
    assert read_checkpoint(tmp_path / "late")[0] == {"n": 2}  # given after the threads had been waited for


# ---------------------------------------------------------------------- with training going on


def test_training_goes_on_while_a_state_is_written(writer, tmp_path, monkeypatch):
    model = torch.nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    staging, gate, write = Staging(), Gate(), format_module.write_tensors

    def slow(path, tensors):
        gate()
        return write(path, tensors)

    def train():
        optimizer.zero_grad()
        model(torch.ones(4, 8)).sum().backward()
        optimizer.step()

    def tree():
        return {"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()}

    train()
    before = digest(tree())
    staged = staging.stage(tree(), {})
    monkeypatch.setattr(format_module, "write_tensors", slow)
    writer.submit(lambda: write_staged(tmp_path / "c", staged))
    assert gate.begun.wait(DEADLINE)
    for _ in range(3):
        train()
    gate.open.set()
    writer.wait()
    assert writer.take() == [None]
    assert digest(read_checkpoint(tmp_path / "c")[0]) == before != digest(tree())


def test_an_error_in_the_background_names_the_path_and_the_next_write_goes_well(
    writer, tmp_path, monkeypatch
):
    staging = Staging()
    staged = staging.stage({"w": torch.ones(10)}, {})

    def fail(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        writer.submit(lambda: write_staged(tmp_path / "c", staged))
        writer.wait()
    with pytest.raises(CheckpointError, match=r"c: the checkpoint could not be written: .*No space left"):
        writer.take()
    assert list(tmp_path.iterdir()) == []
    again = staging.stage({"w": torch.zeros(10)}, {})
    writer.submit(lambda: write_staged(tmp_path / "c", again))
    assert writer.close() == [None]
    assert read_checkpoint(tmp_path / "c")[0]["w"].sum() == 0
