"""A directory that appears whole under its name or not at all.

It is filled under another name beside its own, on the same file system, flushed to the disk, and renamed. What a killed
process leaves behind is found by that name, and by the kernel's lock that died with the process.
"""

from __future__ import annotations

import ctypes
import glob
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deeptrain.checkpoint.files import (
    TEMPORARY,
    make_directory,
    sync_directory,
    sync_file,
    temporary_beside,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

AWAY = ".away-"  # what begins the name of a directory that is being replaced, where two cannot be exchanged in one step
_AT_FDCWD = -100
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS alike


@contextmanager
def staged(path: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """Give a temporary directory to fill, which takes the path's place if the block ends well; else nothing is left.

    Args:
        path: The directory to make or to replace.
        check: Called with the path before and after; raises where it must not be replaced.
    """
    check(path)
    make_directory(path.parent)
    _remove_leftovers(path)
    temporary, lock = _locked_directory(path)
    try:
        yield temporary
        sync_all(temporary)
        check(path)
        _put_in_place(temporary, path)
        sync_directory(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # what was replaced, or what did not come to its end
        _unlock(lock)


def sync_all(directory: Path) -> None:
    """Wait until everything in a directory, and in those below it, is on the disk."""
    for place, _, names in os.walk(directory):
        for name in names:
            sync_file(Path(place, name))
        sync_directory(Path(place))


def _put_in_place(temporary: Path, path: Path) -> None:
    if not path.exists() or not any(path.iterdir()):
        temporary.rename(path)  # an empty directory gives way to it; one that is no longer empty does not
    elif not _exchanged(temporary, path):
        away = path.with_name(temporary.name.replace(TEMPORARY, AWAY, 1))
        path.rename(away)
        try:
            temporary.rename(path)
        except BaseException:
            away.rename(path)
            raise
        sync_directory(path.parent)
        shutil.rmtree(away)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two names in one step, if system and file system can."""
    system = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    one_bytes, other_bytes = os.fsencode(one.absolute()), os.fsencode(other.absolute())
    if sys.platform == "linux" and hasattr(system, "renameat2"):
        return not _called(system, "renameat2", _AT_FDCWD, one_bytes, _AT_FDCWD, other_bytes, _EXCHANGE)
    if sys.platform == "darwin" and hasattr(system, "renamex_np"):
        return not _called(system, "renamex_np", one_bytes, other_bytes, _EXCHANGE)
    return False


def _called(system: Any, name: str, *arguments: Any) -> int:
    return int(getattr(system, name)(*arguments))


def _locked_directory(path: Path) -> tuple[Path, int | None]:
    """Make a temporary directory and lock it: who finds it unlocked knows that its process is gone."""
    while True:
        temporary = temporary_beside(path)
        temporary.mkdir()
        lock = _locked(temporary, wait=True)
        if temporary.exists():
            return temporary, lock
        _unlock(lock)  # somebody took it for a leftover before it was locked


def _locked(directory: Path, *, wait: bool) -> int | None:
    """Lock a directory for this process; None where another one has it, where it is gone, and on Windows."""
    if os.name == "nt":
        return None
    import fcntl  # noqa: PLC0415 - not on Windows

    lock = None
    try:
        lock = os.open(directory, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        _unlock(lock)
        return None
    return lock


def _unlock(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def _remove_leftovers(path: Path) -> None:
    """Remove what killed processes left of their attempts to write the same directory."""
    for leftover in path.parent.glob(f"{TEMPORARY}{glob.escape(path.name)}-*"):
        lock = _locked(leftover, wait=False)
        if lock is not None:
            shutil.rmtree(leftover, ignore_errors=True)
            _unlock(lock)
