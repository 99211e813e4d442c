"""The background writer: one job at a time in a thread, whose result or error is fetched at a safe point.

The thread lives as long as its job. So nothing has to be told to end: a process that ends waits for the write under
way, as Python does for every thread that is no daemon, and between writes there is no thread to wait for or to fork beside.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Generic, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class _Flight(Generic[T]):
    """A job, and what came of it once `done` is set."""

    def __init__(self, job: Callable[[], T]) -> None:
        self._job: Callable[[], T] | None = job
        self._claim = threading.Lock()
        self.done = threading.Event()
        self.result: T | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        """Do the job, unless somebody has it already."""
        job = self._job
        if job is None or not self._claim.acquire(blocking=False):
            return
        try:
            self.result = job()
        except BaseException as error:  # noqa: BLE001 - it is raised where the results are fetched
            self.error = error
        finally:
            self._job = None  # with what it holds: a staged state
            self.done.set()

    def give_up(self) -> bool:
        """Let nobody begin; whether nobody had begun."""
        return self._claim.acquire(blocking=False)


class Writer(Generic[T]):
    """Does jobs in a thread, one at a time.

    It is used by one thread. In a process that was forked off it has nothing in flight and nothing to fetch: the thread
    stayed with the parent.

    Example:
        >>> writer = Writer()
        >>> writer.submit(lambda: "written")
        >>> writer.wait()
        >>> writer.take()
        ['written']
    """

    def __init__(self) -> None:
        self._flights: list[_Flight[T]] = []
        self._process = os.getpid()
        self._closed = False

    def submit(self, job: Callable[[], T]) -> None:
        """Have a job done. Where there can be no thread, as in an interpreter that is ending, it is done at once.

        Args:
            job: What it returns, or raises, is fetched with `take`.

        Raises:
            RuntimeError: One is in flight, or the writer is closed.
        """
        if self._closed:
            raise RuntimeError("this writer is closed: make another one")
        if self.busy:
            raise RuntimeError("a job is in flight: wait() until it is done, or leave this one out")
        flight = _Flight(job)
        try:
            self._flights.append(flight)
            _start(flight)
        except BaseException:  # a Ctrl-C, before the thread began or after
            if flight.give_up():
                self._flights = [other for other in self._flights if other is not flight]
            raise

    @property
    def busy(self) -> bool:
        """Whether a job is in flight."""
        return any(not flight.done.is_set() for flight in self._here())

    def wait(self) -> None:
        """Wait until nothing is in flight. An interrupt ends the waiting and not the job; call it again."""
        # Not by joining the thread: in Python 3.11 an interrupt there has it counted as ended while it still runs.
        for flight in self._here():
            flight.done.wait()

    def take(self) -> list[T]:
        """Fetch what has been done since the last call, without waiting.

        Returns:
            The results, in the order of the jobs; none where nothing was done.

        Raises:
            BaseException: What a job raised, with its traceback, once; the results are there at the next call.
        """
        done = [flight for flight in self._here() if flight.done.is_set()]
        for flight in done:
            if flight.error is not None:
                self._flights.remove(flight)
                raise flight.error
        self._flights = [flight for flight in self._flights if flight not in done]
        return [cast("T", flight.result) for flight in done]

    def close(self) -> list[T]:
        """Wait for the job in flight, take no further one, and fetch as `take` does, also its error."""
        self.wait()
        self._closed = True
        return self.take()

    def _here(self) -> list[_Flight[T]]:
        """The jobs of this process."""
        if self._process != os.getpid():
            self._flights, self._process = [], os.getpid()
        return self._flights


def _start(flight: _Flight[T]) -> None:
    if not threading.main_thread().is_alive():
        flight.run()  # Python has waited for its threads already: it would not wait for this one
        return
    try:
        threading.Thread(target=flight.run, name="deeptrain-writer", daemon=False).start()
    except RuntimeError:  # no thread to be had
        flight.run()
