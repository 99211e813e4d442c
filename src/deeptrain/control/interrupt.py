"""Signals and requests to stop, turned into pauses at safe points.

While a trainer runs in the main thread, the first Ctrl-C asks for a pause at the next safe point. A second
one aborts the computation, by an exception out of the signal handler, and only inside a region that the
trainer marked as abortable because it can be rolled back: never in a commit. SIGTERM and SIGUSR1 do the same.

The exception is a `KeyboardInterrupt`, so that nothing after `fit()` runs on a half-trained model. Uncaught in
a script it ends the process by the signal itself, as shells and schedulers expect; in a notebook or at a
prompt it is one line, and the next `fit()` goes on.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import signal
import sys
import threading
import warnings
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType

T = TypeVar("T")

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))


class Interrupted(KeyboardInterrupt):
    """A run was stopped before what was asked of it was done. Its state is whole; `fit()` goes on.

    Attributes:
        signal: The number of the signal that asked for it, or None for a pause requested by other means.
        reason: Who asked, in words.
        where: Where the run stands, in words.
        told: Whether it was said already, so that nothing is printed where nobody catches it.
    """

    told = False

    def __init__(self, reason: str, where: str = "", signal: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.where, self.signal = reason, where, signal

    def __str__(self) -> str:
        return f"{self.reason}: {self.where}" if self.where else self.reason

    def _render_traceback_(self) -> list[str]:
        """What IPython and Jupyter show in place of a traceback."""
        return [f"Interrupted: {self}"]


def is_interactive() -> bool:
    """Whether a person sits at a prompt or a notebook, who can call `fit()` again."""
    if hasattr(sys, "ps1") or sys.flags.interactive or sys.flags.inspect:
        return True
    ipython = sys.modules.get("IPython")
    return ipython is not None and ipython.get_ipython() is not None


class Interrupts:
    """The pause requests of one trainer, and its signal handlers while it runs.

    Attributes:
        abortable: True only inside a region that the trainer can roll back. The handler of a second signal
            raises there, once, and nowhere else.
        aborted: Whether an abort was raised and not yet answered; user code may have swallowed it.
        requested: Why a pause was asked for, or None.
        signal: The signal that asked for it, or None.
        thread: The thread that the trainer runs in, or ran in last; at first the one that made it.
        resting: Held by whoever changes something while the trainer rests, in whichever thread; it begins to run only
            once that is through.
    """

    def __init__(self) -> None:
        self.abortable = False
        self.aborted = False
        self.requested: str | None = None
        self.signal: int | None = None
        self.thread = threading.get_ident()
        self.resting = threading.RLock()
        self._running = False
        self._previous: dict[int, Any] = {}

    @property
    def running(self) -> bool:
        """Whether the trainer runs."""
        return self._running

    def request(self, reason: str) -> bool:
        """Ask for a pause at the next safe point; from any thread.

        Returns:
            False where nothing is running that could pause.
        """
        if not self._running:
            return False
        if self.requested is None:
            self.requested = reason
        return True

    def __enter__(self) -> Interrupts:
        if self._running:
            raise RuntimeError(
                "the trainer is running already: fit() was called from inside a handler or a thread"
            )
        self.requested = self.signal = None
        self.abortable = self.aborted = False
        self.thread = threading.get_ident()
        if threading.current_thread() is not threading.main_thread():
            _say_once_no_signals()
            self._running = True
            self._wait_for_the_rest()
            return self
        # SIGINT first: its handler of before could raise in here, and ours cannot.
        for number in SIGNALS:
            if _replaceable(number):
                self._previous[number] = signal.signal(number, self._handle)
        # Not earlier: an exception that leaves this method must leave nothing behind.
        self._running = True
        _active.append(self)
        self._wait_for_the_rest()
        return self

    def _wait_for_the_rest(self) -> None:
        """Another thread that found the trainer at rest is let come to its end; every later one finds it running."""
        with self.resting:
            pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running = False
        if self in _active:
            _active.remove(self)
        # SIGINT last, for the same reason.
        for number in reversed(SIGNALS):
            if number in self._previous:
                signal.signal(number, self._previous.pop(number))
        if error is None and self.signal is not None:
            # It came after the last safe point. What was asked for is done, and yet a Ctrl-C must not be lost.
            raise self.exception("the run had come to the end of what was asked for")
        if self.signal is not None and error is not None and not isinstance(error, KeyboardInterrupt):
            raise self.exception(f"{type(error).__name__} stopped it first") from error

    def abortably(self, work: Callable[[], T], undo: Callable[[BaseException], None]) -> T:
        """Do work that a second signal may abort, and undo it where it does not come to its end.

        Whatever the handler raises, it raises inside this block, and at most once. User code may have swallowed
        it; then the work is undone all the same.
        """
        try:
            self.abortable = True
            result = work()
            self.abortable = False
            if self.aborted:
                raise self.exception("the computation was aborted and rolled back")  # noqa: TRY301
        except BaseException as error:
            self.abortable = self.aborted = False
            undo(error)
            raise
        return result

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        first, self.signal = self.signal is None, number
        if self.requested is None or first:
            self.requested = f"stopped by {signal.Signals(number).name}"
        if first:
            _notice(number)
        elif self.abortable:
            self.abortable, self.aborted = False, True
            raise self.exception("the computation was aborted and rolled back")

    def leave_child(self) -> None:
        """In a child process that was forked: put the handlers back as they were, and ignore Ctrl-C."""
        for number, previous in self._previous.items():
            signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else previous)
        self._previous.clear()

    def exception(self, where: str) -> Interrupted:
        """The exception that tells of the present request, which is thereby answered."""
        reason, number = self.requested or "a pause was requested", self.signal
        self.requested = self.signal = None
        return Interrupted(reason, where, number)


# Trainers of this process that have their handlers installed.
_active: list[Interrupts] = []
_mask: list[set[Any]] = []


def _before_fork() -> None:
    """Hold signals back while a process is forked, so that one for the child finds the child's own handlers."""
    if _active:
        _mask.append(signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS))


def _after_fork() -> None:
    if _mask:
        signal.pthread_sigmask(signal.SIG_SETMASK, _mask.pop())


def _in_child() -> None:
    """A child that is forked while a trainer runs ends by SIGTERM as it would elsewhere, so that pools can end theirs.

    Ctrl-C reaches every process of a terminal; the trainer decides what it means, and may go on needing its workers.
    """
    for interrupts in _active:
        interrupts.leave_child()
    _active.clear()
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)


def _replaceable(number: int) -> bool:
    """Whether a handler may be replaced: not one set outside Python, nor where the signal is ignored (nohup)."""
    return signal.getsignal(number) not in (None, signal.SIG_IGN)


def _notice(number: int) -> None:
    """Say that the signal was seen. Written past Python's buffers, which may be in use right now."""
    if number == signal.SIGINT and not is_interactive():
        text = "\nPausing at the next safe point. Ctrl-C again aborts the computation at once.\n"
        with contextlib.suppress(OSError):
            os.write(2, text.encode())


_said: set[str] = set()


def _say_once_no_signals() -> None:
    if "thread" not in _said:
        _said.add("thread")
        warnings.warn(
            "the trainer runs outside the main thread, where Python delivers no signals: Ctrl-C and SIGTERM do "
            "not pause it; call trainer.pause() from another thread instead",
            stacklevel=2,
        )


class _Ending:
    """How the process ends after an uncaught `Interrupted`: by the signal, once everything else is done."""

    signal: int | None = None
    hooked = False


def end_by_signal_if_uncaught() -> None:
    """Prepare that an `Interrupted` which nobody catches is shown as one line and ends a script by its signal.

    CPython does so for `KeyboardInterrupt` itself, but not for its subclasses, so the hook is ours.
    """
    if _Ending.hooked:
        return
    _Ending.hooked = True
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, Interrupted):
            before(kind, error, trace)
            return
        if error.__cause__ is not None:
            before(type(error.__cause__), error.__cause__, error.__cause__.__traceback__)
        if not error.told:
            sys.stderr.write(f"Interrupted: {error}\n")
        if not is_interactive():
            _Ending.signal = error.signal

    sys.excepthook = hook


@atexit.register
def _end() -> None:
    if _Ending.signal is not None:
        # Death by a signal does not flush what the script has not closed.
        for thing in gc.get_objects():
            if issubclass(type(thing), io.IOBase):
                with contextlib.suppress(OSError, ValueError):
                    thing.flush()
        signal.signal(_Ending.signal, signal.SIG_DFL)
        os.kill(os.getpid(), _Ending.signal)
