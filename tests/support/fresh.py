"""Fresh processes that cost milliseconds: a server with torch imported and warm forks them."""

import multiprocessing
import os
import traceback
from pathlib import Path

import torch

# The server is a process of its own and looks for what it preloads on this path.
os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["tests.support.warm"])


def _run(pipe, fn, args, kwargs):
    torch.set_num_threads(1)
    try:
        pipe.send(("ok", fn(*args, **kwargs)))
    except BaseException:
        pipe.send(("error", traceback.format_exc()))


def start(fn, *args, **kwargs):
    """Start a function in a fresh process; gives the process and the pipe that its result will come from."""
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(theirs, fn, args, kwargs))
    process.start()
    theirs.close()
    return process, ours


def run(fn, *args, **kwargs):
    """Run a function in a fresh process and give what it returned."""
    process, pipe = start(fn, *args, **kwargs)
    try:
        kind, value = pipe.recv()
    finally:
        process.join()
    assert kind == "ok", value
    return value
