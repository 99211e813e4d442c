"""A run's directory: its number, its name, and the lock that one process holds while it trains.

The lock is the kernel's (`flock`): it is free the moment that the process which holds it is gone, however it
went. A process id in a file would say nothing across containers. Children made by `fork`, such as a
`DataLoader`'s workers, close their copy at once, so that they do not hold on to a run whose trainer died.
On Windows the lock is `msvcrt.locking`, which also ends with its process.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
import weakref
from contextlib import suppress
from pathlib import Path

from deeptrain.checkpoint.files import make_directory, sync_directory
from deeptrain.preferences import UNSET, Unset, defaults

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_DIRECTORY = re.compile(r"M([1-9][0-9]*)(?:__(.+))?")
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_held: weakref.WeakSet[RunDirectory] = weakref.WeakSet()


class RunInUseError(RuntimeError):
    """Another process, or another trainer of this one, works on the run."""


class RunDirectory:
    """A run's place on disk, `runs/M3__mnist`.

    Attributes:
        path: The directory.
        number: The 3 of M3.
        name: "mnist", or None.

    Args:
        path: A run's directory that is there.

    Raises:
        ValueError: It has not the name of a run.
        FileNotFoundError: It is not there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        match = _DIRECTORY.fullmatch(self.path.name)
        if match is None:
            raise ValueError(f"{self.path}: a run's directory is named like M3 or M3__name")
        if not self.path.is_dir():
            raise FileNotFoundError(f"{self.path}: there is no such run")
        self.number, self.name = int(match[1]), match[2]
        self._descriptor: int | None = None

    @classmethod
    def create(cls, runs: str | os.PathLike[str], name: str | None = None) -> RunDirectory:
        """Make a new run under the next number that is free, also beside other processes that do the same.

        Args:
            runs: The directory of runs; it is made where it is missing.
            name: Letters, digits, dots, hyphens and underscores; None for a run without a name.

        Raises:
            ValueError: The name cannot be used.
            OSError: The directory cannot be written; the message names it.
        """
        check_name(name)
        runs = Path(runs)
        try:
            make_directory(runs)
            path = _claim(runs, name)
            sync_directory(runs)
        except OSError as error:
            raise type(error)(
                f"{runs}: no run can be made here ({error}): give a directory that can be written, "
                "Trainer(runs=...), or runs=None to write nothing"
            ) from error
        return cls(path)

    @staticmethod
    def find(runs: str | os.PathLike[str], name: str | None) -> list[Path]:
        """The runs of a name, newest (highest number) first; with None those that have no name."""
        check_name(name)
        found = [(number, path) for number, found, path in _known(Path(runs)) if found == name]
        return [path for _, path in sorted(found, reverse=True)]

    def lock(self) -> None:
        """Take the run for this process; no effect where this object holds it.

        Raises:
            RunInUseError: It is taken.
            OSError: The lock's file cannot be written; the message names it.
        """
        if self._descriptor is not None:
            return
        file = self.path / "lock"
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise type(error)(f"{file}: the run cannot be locked: {error}") from error
        try:
            free = _lock_soon(descriptor)
        except OSError as error:
            os.close(descriptor)
            raise type(error)(
                f"{file}: its file system has no locks ({error}): put runs/ on a local disk"
            ) from error
        if not free:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise RunInUseError(self._in_use(holder))
        _sign(descriptor)
        self._descriptor = descriptor
        _held.add(self)

    def release(self) -> None:
        """Let the run go; no effect where it is not held."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            _held.discard(self)
            os.close(descriptor)

    @property
    def locked(self) -> bool:
        """Whether this object holds the run."""
        return self._descriptor is not None

    def _in_use(self, holder: str) -> str:
        here = any(other.path.resolve() == self.path.resolve() for other in _held)
        who = "another trainer of this process" if here else f"another process{holder}"
        remedy = "close that one (trainer.close())" if here else "wait until it is done, or stop it"
        return f'{self.path}: the run is in use by {who}: {remedy}, or start a new run with resume="new"'


def check_name(name: str | None) -> None:
    """Refuse names that would not do as a part of a directory's name.

    Raises:
        ValueError: With the characters that may be used.
    """
    if name is not None and (not isinstance(name, str) or not _NAME.fullmatch(name)):
        raise ValueError(
            f"name={name!r}: a run's name is made of letters (a-z, A-Z), digits, '-', '_' and '.'"
        )


def _known(runs: Path) -> list[tuple[int, str | None, Path]]:
    if not runs.is_dir():
        return []
    found = [(_DIRECTORY.fullmatch(path.name), path) for path in runs.iterdir()]
    return [(int(match[1]), match[2], path) for match, path in found if match is not None]


def _claim(runs: Path, name: str | None) -> Path:
    """Make the directory. Whoever makes the number's marker has the number to itself, whatever the name."""
    number = max((number for number, *_ in _known(runs)), default=0) + 1
    while True:
        marker = runs / f".M{number}"
        try:
            marker.mkdir()
        except FileExistsError:
            number += 1
            continue
        try:
            if all(known != number for known, *_ in _known(runs)):
                path = runs / (f"M{number}" if name is None else f"M{number}__{name}")
                path.mkdir()
                return path
        finally:
            marker.rmdir()
        number += 1


def is_held(path: str | os.PathLike[str]) -> bool:
    """Whether a process holds a run.

    Args:
        path: The run's directory.
    """
    try:
        descriptor = os.open(Path(path) / "lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(descriptor, shared=True)
    finally:
        os.close(descriptor)


def directory_of_runs(runs: str | os.PathLike[str] | Unset = UNSET) -> Path:
    """Where runs are: by the environment's `DEEPTRAIN_RUNS`, else as a script says, else the user's default."""
    if "DEEPTRAIN_RUNS" in os.environ:  # before all else: so a script is run again in another place
        return Path(os.environ["DEEPTRAIN_RUNS"]).expanduser()
    return Path(defaults.runs if isinstance(runs, Unset) else runs)


def find_run(run: str | os.PathLike[str], runs: str | os.PathLike[str] | Unset = UNSET) -> Path:
    """A run by its directory, or by what it is called within the directory of runs.

    Args:
        run: A path, "M3", or a name, of which it is the newest run.
        runs: The directory of runs, see `directory_of_runs`.

    Raises:
        FileNotFoundError: There is none; the message says what was looked for, and which runs there are.
    """
    path = Path(run)
    if _DIRECTORY.fullmatch(path.resolve().name) and path.is_dir():
        return path
    place, text = directory_of_runs(runs), str(run)
    known = sorted(_known(place), reverse=True)
    for number, name, found in known:
        if text in {name, f"M{number}", found.name}:
            return found
    there = ", ".join(found.name for *_, found in known[:5]) or "none"
    raise FileNotFoundError(
        f"{text}: expected a run's directory, such as runs/M1__name, or a run's name; in {place} there are {there}"
    )


def _lock_soon(descriptor: int) -> bool:
    """Take the lock, or say that it is taken. Somebody may only be looking whether it is, for a moment."""
    for _ in range(10):
        if _try_lock(descriptor):
            return True
        time.sleep(0.005)
    return False


def _try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Take the lock, or say that it is taken."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _sign(descriptor: int) -> None:
    """Leave word of who holds the lock, for the message that another process shows. It decides nothing."""
    with suppress(OSError):
        os.ftruncate(descriptor, 1)
        os.lseek(descriptor, 1, os.SEEK_SET)  # Windows lets nobody else read the byte that is locked
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())


def _holder(descriptor: int) -> str:
    with suppress(OSError):
        os.lseek(descriptor, 1, os.SEEK_SET)
        text = os.read(descriptor, 200).decode(errors="replace").strip()
        return f" ({text})" if text else ""
    return ""


def _forget_in_child() -> None:
    """In a forked child: close the inherited descriptors. The parent's lock stays, as its own are open."""
    for directory in list(_held):
        if directory._descriptor is not None:  # noqa: SLF001 - the class's own module
            with suppress(OSError):
                os.close(directory._descriptor)  # noqa: SLF001
            directory._descriptor = None  # noqa: SLF001
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)
