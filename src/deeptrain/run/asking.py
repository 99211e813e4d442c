"""Asking the process that trains a run for something, from another process; see `Mailbox` for how it gets there."""

from __future__ import annotations

import os
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from deeptrain.checkpoint.files import TEMPORARY, sync_descriptor, sync_directory, write_all
from deeptrain.control.mailbox import (
    MOST_BYTES,
    NAME,
    SUPPORTED,
    NoCommandError,
    decode,
    encode,
    require_own_directory,
)
from deeptrain.run.directory import is_held

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

LOOK = 0.02  # seconds between two looks for the answer
HOLDER = 0.5  # seconds between two looks whether a process still trains
GRACE = 10.0  # seconds that are waited beyond the limit for a command that was taken


class NobodyTrainsError(RuntimeError):
    """No process trains the run, so nothing was asked of it."""


class UnansweredError(RuntimeError):
    """There was no answer in time; the message says what became of the command."""


class Answer(NamedTuple):
    """What became of a command.

    Attributes:
        applied: Whether it was carried out.
        at: After which iteration; None where that is not known.
        text: Why not, or what else is to be said.
    """

    applied: bool
    at: int | None
    text: str

    def __str__(self) -> str:
        if not self.applied:
            return f"rejected: {self.text}"
        return f"applied at iteration {self.at}" + (f": {self.text}" if self.text else "")


def ask(run: Path, content: dict[str, Any], *, timeout: float = 60.0) -> Answer:
    """Ask for something, and wait for the answer.

    A command that nobody has taken when the time is over, or when the process that trains has ended, is taken back: it is
    never carried out later.

    Args:
        run: The run's directory.
        content: The verb and what it takes, see `parse_order`.
        timeout: For how many seconds.

    Raises:
        NobodyTrainsError: No process trains the run.
        UnansweredError: There was no answer in time.
        OSError: The run is another user's, or its directory cannot be written.

    Example:
        `ask(Path("runs/M1__mnist"), {"verb": "checkpoint", "tag": "before surgery"})`
    """
    inbox = run / NAME
    _require_somebody(run, inbox)
    with _Letter(inbox, encode(content)) as letter:
        return _wait(run, letter, timeout)


def _require_somebody(run: Path, inbox: Path) -> None:
    if not SUPPORTED:
        raise UnansweredError(
            "commands to another process need file locks, which Windows has not in this form"
        )
    if not is_held(run):
        raise NobodyTrainsError(f"{run}: no process trains this run: start its script")
    if not inbox.is_dir():
        raise UnansweredError(
            f"{run}: the process that trains this run takes no commands (there is no {inbox})"
        )
    require_own_directory(inbox)


def _wait(run: Path, letter: _Letter, timeout: float) -> Answer:
    until, look = time.monotonic() + timeout, 0.0
    while (answer := letter.answer()) is None:
        now = time.monotonic()
        if now >= look:
            look = now + HOLDER
            if not is_held(run) and letter.take_back():
                raise NobodyTrainsError(
                    f"{run}: the process that trained this run has ended: nothing was done"
                )
        if now >= until and letter.take_back():
            raise UnansweredError(
                f"{run}: the run came to no point in {timeout:g} s where this could be done: it was taken back, and nothing "
                "will be done"
            )
        if now >= until + GRACE:
            raise UnansweredError(
                f"{run}: the command was taken and not answered, so the process that took it may have died: where the journal "
                f"has it ({letter.identity}), it is made, also by the run's next start; else it is not"
            )
        time.sleep(LOOK)
    return answer


class _Letter:
    """A command on its way. Its file is locked for as long as this is open, which says that somebody waits.

    Whatever ends the waiting takes it back, if it was not taken.
    """

    def __init__(self, inbox: Path, data: bytes) -> None:
        import fcntl  # noqa: PLC0415 - not on Windows

        self.identity = secrets.token_hex(16)
        self._inbox, self._place = inbox, inbox / f"{self.identity}.command"
        temporary = inbox / f"{TEMPORARY}{self.identity}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(temporary, flags, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            write_all(self._descriptor, data)
            sync_descriptor(self._descriptor)
            temporary.rename(self._place)
            sync_directory(inbox)
        except BaseException:
            temporary.unlink(missing_ok=True)
            self.take_back()
            os.close(self._descriptor)
            raise

    def answer(self) -> Answer | None:
        """What became of it; None where that is not known yet."""
        place = self._inbox / f"{self.identity}.answer"
        try:
            with place.open("rb") as file:
                content = decode(file.read(MOST_BYTES))
        except (FileNotFoundError, NoCommandError):
            return None
        place.unlink(missing_ok=True)
        return Answer(bool(content.get("applied")), content.get("at"), str(content.get("text", "")))

    def take_back(self) -> bool:
        """Have it not be carried out; whether that came in time."""
        try:
            self._place.unlink()
        except FileNotFoundError:
            return False
        return True

    def __enter__(self) -> _Letter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self.take_back()
        os.close(self._descriptor)
