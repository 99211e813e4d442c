"""The mailbox of a run: commands from other processes, each a small file, and the answers to them.

runs/M3__mnist/inbox/    of the user alone (mode 0700), made by the process that trains
    ID.command           asked for, and not taken yet
    ID.SEQ.taken         taken: its line in the journal, if it has one, bears the number SEQ or a higher one
    ID.answer            what became of it, until who asked has read it
    refused/             what lay here and was no command

There are no sockets and no process ids, so that it works between containers that share the directory. Each step is one
`rename`: who asks takes a command back by removing its file, the process that trains takes it by giving it another
name, and only one of the two succeeds. Who asks keeps a lock (`flock`) on the file for as long as it waits; where
that is free, nobody waits any more, and the command is not carried out.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import time
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from deeptrain.checkpoint.files import TEMPORARY, new_file, sync_directory, write_all

if TYPE_CHECKING:
    from pathlib import Path

NAME = "inbox"
VERSION = 1  # of a command's and an answer's file
MOST_BYTES = 1 << 16  # of either
MOST_ENTRIES = 512  # of the directory that are looked at in one go
MOST_AT_ONCE = 32  # commands that are read in one go
MOST_REFUSED = 64  # files that are kept for people to look at; the others are removed
STALE = 3600.0  # seconds after which what somebody left behind is removed at a start
SUPPORTED = sys.platform != "win32"
_REFUSED = "refused"
_COMMAND = re.compile(r"([0-9a-f]{32})\.command")
_TAKEN = re.compile(r"([0-9a-f]{32})\.([0-9]{1,18})\.taken")
_KINDS = [
    (stat.S_ISLNK, "a link"), (stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a pipe"), (stat.S_ISSOCK, "a socket"),
    (lambda mode: not stat.S_ISREG(mode), "a device"),
]  # fmt: skip


class NoCommandError(ValueError):
    """What lies in a mailbox is no command; the message says why."""


class Sent(NamedTuple):
    """A command that somebody waits for.

    Attributes:
        id: Its own, random.
        content: What its file says, not looked at further.
    """

    id: str
    content: dict[str, Any]


class Refused(NamedTuple):
    """Something in the mailbox that is not carried out.

    Attributes:
        name: The file's name, as it can be shown.
        why: In words.
    """

    name: str
    why: str


class Mailbox:
    """The mailbox of a run, as the process that trains it sees it.

    Args:
        path: The directory; made where there is none, and closed to others.

    Raises:
        OSError: It is no directory of this user's, or cannot be made; the message names it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._left: set[str] = set()  # names of what could not even be moved out of the way
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        require_own_directory(path)
        path.chmod(0o700)
        self._tidy()

    # ------------------------------------------------------------------ looking

    def waiting(self) -> bool:
        """Whether there is anything to be read; cheap."""
        return any(True for _ in self._names())

    def read(self) -> tuple[list[Sent], list[Refused]]:
        """The commands that are waited for, oldest first, and what is none: that is moved out of the way."""
        sent: list[tuple[int, Sent]] = []
        refused: list[Refused] = []
        for name in islice(self._names(), MOST_AT_ONCE):
            try:
                sent.append(self._read(name))
            except FileNotFoundError:
                continue  # taken back
            except (NoCommandError, OSError) as error:
                refused.append(Refused(ascii(name)[1:-1][:80], str(error)))
                self._put_away(name)
        return [command for _, command in sorted(sent, key=lambda pair: pair[0])], refused

    def taken(self) -> list[tuple[str, int]]:
        """The commands that were taken and have no answer yet: id, and the least number of its line in the journal."""
        matches = [_TAKEN.fullmatch(place.name) for place in self.path.iterdir()]
        return [(match[1], int(match[2])) for match in matches if match is not None]

    def _names(self) -> list[str]:
        """Names of what is new here: no answers, nothing that was taken, nothing half-written."""
        try:
            with os.scandir(self.path) as entries:
                names = [entry.name for entry in islice(entries, MOST_ENTRIES)]
        except OSError:  # the run's directory was removed, which is noticed elsewhere
            return []
        return [name for name in names if self._is_new(name)]

    def _is_new(self, name: str) -> bool:
        known = name == _REFUSED or name.startswith(TEMPORARY) or name.endswith((".answer", ".taken"))
        return not known and name not in self._left

    def _read(self, name: str) -> tuple[int, Sent]:
        """A command, and when it was written.

        Raises:
            FileNotFoundError: It was taken back meanwhile.
            NoCommandError, OSError: It is none, or nobody waits for it.
        """
        match = _COMMAND.fullmatch(name)
        if match is None:
            raise NoCommandError("it has not the name of a command")
        data, is_waited_for, when = _contents(self.path / name)
        try:
            content = decode(data)
        except NoCommandError as error:
            self.answer(match[1], applied=False, text=str(error))
            raise
        if not is_waited_for:
            raise NoCommandError("who asked for it waits no longer")
        return when, Sent(match[1], content)

    # ------------------------------------------------------------------ taking and answering

    def take(self, identity: str, line: int) -> bool:
        """Take a command, so that it cannot be taken back any more; on the disk when this returns.

        Args:
            identity: The command's id.
            line: The number that the journal's next line will have, or a lower one.

        Returns:
            False where it was taken back before.
        """
        try:
            (self.path / f"{identity}.command").rename(self.path / f"{identity}.{line}.taken")
        except FileNotFoundError:
            return False
        sync_directory(self.path)
        return True

    def put_back(self, identity: str, line: int) -> bool:
        """Have a command that was taken by a process that died be as if it never was taken.

        Returns:
            False where nobody waits for it any more; then it is removed.
        """
        if not self.is_waited_for(identity, line):
            self.remove(identity, line)
            return False
        (self.path / f"{identity}.{line}.taken").rename(self.path / f"{identity}.command")
        return True

    def is_waited_for(self, identity: str, line: int) -> bool:
        """Whether somebody still waits for the answer to a command that was taken."""
        try:
            _, is_waited_for, _ = _contents(self.path / f"{identity}.{line}.taken")
        except (OSError, NoCommandError):
            return False
        return is_waited_for

    def answer(self, identity: str, *, applied: bool, text: str, at: int | None = None) -> None:
        """Write the answer to a command. Who asked removes it; no answer needs to outlive the machine."""
        content = {"version": VERSION, "applied": applied, "at": at, "text": text[: MOST_BYTES // 8]}
        temporary = self.path / f"{TEMPORARY}{identity}"
        temporary.unlink(missing_ok=True)
        try:
            with new_file(temporary) as descriptor:
                write_all(descriptor, json.dumps(content).encode())
            temporary.rename(self.path / f"{identity}.answer")
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def remove(self, identity: str, line: int) -> None:
        """Remove a command that has its answer."""
        (self.path / f"{identity}.{line}.taken").unlink(missing_ok=True)

    # ------------------------------------------------------------------ what is no command

    def _put_away(self, name: str) -> None:
        """Move something out of the way, or remove it where enough is kept already."""
        place, away = self.path / name, self.path / _REFUSED
        try:
            away.mkdir(mode=0o700, exist_ok=True)
            require_own_directory(away)
            if sum(1 for _ in away.iterdir()) < MOST_REFUSED:
                place.rename(away / f"{time.time_ns():x}-{name[:100]}")
            else:
                place.unlink()
        except OSError:
            self._left.add(name)

    def _tidy(self) -> None:
        """Remove what those who died long ago have left: files that were half-written, answers that nobody read."""
        for place in islice(self.path.iterdir(), MOST_ENTRIES):
            if place.name.startswith(TEMPORARY) or place.suffix == ".answer":
                with suppress(OSError):
                    if time.time() - place.lstat().st_mtime > STALE:
                        place.unlink()


def encode(content: dict[str, Any]) -> bytes:
    """A command's or an answer's bytes.

    Raises:
        ValueError: It is too long.
    """
    data = json.dumps({"version": VERSION, **content}).encode()
    if len(data) > MOST_BYTES:
        raise ValueError(f"found {len(data)} bytes of a command, expected {MOST_BYTES} at most")
    return data


def decode(data: bytes) -> dict[str, Any]:
    """What a file says.

    Raises:
        NoCommandError: It is no JSON object of a version that is known.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NoCommandError(f"it is no JSON: {error}") from error
    if not isinstance(content, dict):
        raise NoCommandError(f"expected a JSON object, found a {type(content).__name__}")
    if type(content.get("version")) is not int or content["version"] != VERSION:
        raise NoCommandError(
            f"it has version {content.get('version')!r:.40}, and this deeptrain reads {VERSION}: use the same deeptrain as "
            "the process that trains"
        )
    return content


def require_own_directory(path: Path) -> None:
    """See that a path is a directory, no link to one, and this user's.

    Raises:
        OSError: It is not; the message names it.
    """
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{path}: found {_kind(found.st_mode)}, expected a directory: remove it")
    if found.st_uid != os.geteuid():
        raise PermissionError(
            f"{path}: it belongs to user {found.st_uid} and this is user {os.geteuid()}: a run is steered by the user "
            "whose process trains it"
        )


def _contents(path: Path) -> tuple[bytes, bool, int]:
    """A command's bytes, whether who asked still waits, and when it was written.

    Raises:
        NoCommandError: It is no plain file of this user's, or too large.
    """
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise NoCommandError(f"it is {_kind(found.st_mode)} and no file")
    if found.st_uid != os.geteuid():
        raise NoCommandError(f"it belongs to user {found.st_uid}, and this is user {os.geteuid()}")
    if found.st_nlink != 1:
        raise NoCommandError(f"it has {found.st_nlink} names (hard links)")
    if found.st_size > MOST_BYTES:
        raise NoCommandError(f"it has {found.st_size} bytes, and {MOST_BYTES} are read at most")
    # To be written to, because some network file systems lock no file that is open to be read alone.
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not os.path.samestat(os.fstat(descriptor), found):
            raise NoCommandError("it became another file while it was looked at")
        return os.read(descriptor, MOST_BYTES), not is_free(descriptor), found.st_mtime_ns
    finally:
        os.close(descriptor)


def _kind(mode: int) -> str:
    return next((kind for is_kind, kind in _KINDS if is_kind(mode)), "a file")


def is_free(descriptor: int) -> bool:
    """Whether nobody holds a lock on a file."""
    import fcntl  # noqa: PLC0415 - not on Windows

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
