"""`Watcher`: looks into the mailbox while a trainer rests at a prompt and nobody types, so that a command needs no `fit()`.

It is a thread that lives between two cells of a notebook, or while a plain prompt waits for the next statement and the
trainer does not run. It is told to end, and waited for, before a cell begins, before the trainer runs, before a process
is forked, and when the run is closed. What it does it does under `trainer.interrupts.resting`, without which no trainer
begins to run. A script has none: its next safe point is near.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

from deeptrain.control.interrupt import is_interactive

if TYPE_CHECKING:
    from collections.abc import Callable

    from deeptrain.trainer import Trainer

EVERY = 0.1  # seconds between two looks


class _Watch:
    """One thread's life."""

    def __init__(self, trainer: Callable[[], Trainer | None]) -> None:
        self.trainer = trainer
        self.end, self.ended = threading.Event(), threading.Event()

    def run(self) -> None:
        try:
            while not self.end.wait(EVERY):
                trainer = self.trainer()
                if trainer is None or trainer.run.mailbox is None:
                    return
                if trainer.run.mailbox.waiting() and _nobody_types():
                    self._take(trainer)
                del trainer  # it may go while nobody looks
        finally:
            self.ended.set()

    def _take(self, trainer: Trainer) -> None:
        with trainer.interrupts.resting:
            if trainer.interrupts.running or self.end.is_set():
                return
            try:
                trainer.commands.take(trainer)
            except Exception as error:  # noqa: BLE001 - it has nobody else to go to
                trainer.display.say(f"{trainer.run.path}: a command could not be carried out: {error}")


class Watcher:
    """The watcher of one trainer, which it does not keep alive."""

    def __init__(self) -> None:
        self._trainer: Callable[[], Trainer | None] = _nothing
        self._watch: _Watch | None = None
        self._wanted = False  # outside a notebook: the trainer rests

    def rest(self, trainer: Trainer) -> None:
        """The trainer rests: watch, where a person sits at a prompt. In a notebook that begins with the cell's end."""
        if trainer.run.mailbox is None or not is_interactive() or not _can_end():
            return
        self._trainer = weakref.ref(trainer)
        trainer.run.closing = self.wake
        _known.add(self)
        if _follow_cells():
            return
        self._wanted = True
        self.begin()

    def wake(self) -> None:
        """The trainer is to run: watch no more."""
        self._wanted = False
        self.stop()

    def begin(self, *, after_cell: bool = False) -> None:
        """Start the thread, if it is wanted and there is none."""
        trainer = self._trainer()
        if self._watch is not None and not self._watch.ended.is_set():
            return
        if trainer is None or trainer.run.mailbox is None or not (self._wanted or after_cell):
            return
        self._watch = watch = _Watch(self._trainer)
        threading.Thread(target=watch.run, name="deeptrain-watcher", daemon=False).start()

    def stop(self) -> None:
        """End the thread, and wait for it."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.end.set()
            if threading.current_thread().name != "deeptrain-watcher":
                watch.ended.wait()


def _nothing() -> None:
    return None


_known: weakref.WeakSet[Watcher] = weakref.WeakSet()
_stopped: list[Watcher] = []
_followed: weakref.WeakSet[Any] = weakref.WeakSet()
# An interpreter that ends waits for its threads: they must be told before. See `data.threads`.
_at_exit: Callable[[Callable[[], None]], None] | None = getattr(threading, "_register_atexit", None)


def _can_end() -> bool:
    return _at_exit is not None and threading.main_thread().is_alive()


def _stop_all(*_: object) -> None:
    for watcher in list(_known):
        watcher.stop()


def _begin_all(*_: object) -> None:
    for watcher in list(_known):
        watcher.begin(after_cell=True)


def _follow_cells() -> bool:
    """In IPython, have the watchers live between cells; whether it is IPython."""
    module: Any = sys.modules.get("IPython")
    shell = None if module is None else module.get_ipython()
    if shell is None:
        return False
    if shell not in _followed:
        _followed.add(shell)
        shell.events.register("pre_run_cell", _stop_all)
        shell.events.register("post_run_cell", _begin_all)
    return True


def _nobody_types() -> bool:
    """Whether no statement of the user's is being executed: in IPython watchers live between cells alone.

    At a plain prompt that waits the main thread has no Python frame, or one of the prompt's own.
    """
    if _followed:
        return True
    frame = sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 - documented for this
    is_prompt = frame is None
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith("<") and not name.startswith("<frozen"):
            return False
        is_prompt = is_prompt or "_pyrepl" in name
        frame = frame.f_back
    return is_prompt


def _before_fork() -> None:
    """A process is not forked beside a thread of ours."""
    for watcher in list(_known):
        if watcher._watch is not None:  # noqa: SLF001 - the class's own module
            _stopped.append(watcher)
            watcher.stop()


def _after_fork() -> None:
    while _stopped:
        _stopped.pop().begin(after_cell=True)


def _in_child() -> None:
    _stopped.clear()
    _known.clear()


if _at_exit is not None:
    _at_exit(_stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
