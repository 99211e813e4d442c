"""Files that survive a crash: what is written is on the disk before its name appears.

A failed fsync is never tried again: after one, a file system may count pages as written that are not. What
was being written is given up, and whoever wants it writes a new file.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from os import PathLike

TEMPORARY = ".tmp-"
BINARY = getattr(os, "O_BINARY", 0)  # Windows would change line ends
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY
_MOST = 1 << 26  # bytes in one call: macOS refuses 2 GiB and more
_MARGIN = 1 << 20  # bytes beyond the files' own, for directories and the file system's records


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or found. The message names the path."""


def sync_descriptor(descriptor: int) -> None:
    """Wait until a file's bytes are on the disk.

    On macOS fsync only hands them to the drive; there `F_FULLFSYNC` is asked for, where the file system has it.
    """
    if sys.platform == "darwin":
        import fcntl  # noqa: PLC0415 - not on Windows

        with suppress(OSError):  # a file system without it; fsync then says whether the write itself failed
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def sync_file(path: Path) -> None:
    """Wait until a file that somebody else wrote is on the disk."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        sync_descriptor(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Wait until a directory's entries are on the disk. Windows has no way to, and needs none for a rename."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        sync_descriptor(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_file(path: Path) -> Iterator[int]:
    """A new file's descriptor, to write to; closed at the end of the block.

    All of it goes through functions of `os` that are looked up when they are called, so that a test can make each fail.

    Raises:
        FileExistsError: It is there already.
    """
    descriptor = os.open(path, _NEW, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def file_end(path: Path) -> Iterator[int]:
    """The descriptor of a file that is there, to append to; else as `new_file`.

    Raises:
        FileNotFoundError: It is not there.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | BINARY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | bytearray | memoryview) -> None:
    """Write bytes; a call that wrote a part of them is followed by one with the rest.

    Raises:
        OSError: They could not be written, or a call wrote nothing.
    """
    left = memoryview(data)
    while left:
        count = os.write(descriptor, left[:_MOST])
        if count <= 0:
            raise OSError(f"os.write wrote {count} of {len(left)} bytes, expected at least one")
        left = left[count:]


def write_bytes(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on the disk.

    Raises:
        FileExistsError: It is there already.
    """
    with new_file(path) as descriptor:
        write_all(descriptor, data)
        sync_descriptor(descriptor)


def drop_cache(path: Path) -> None:
    """Have the system forget a file that is on the disk, so that the next reading asks the device for it.

    What is then read back whole proves that the file system and the device return what was given to them, though the
    device may return it from a cache of its own. Where the system has no such call (macOS, Windows), or does
    not follow it (a file system in memory; pages that another process has mapped; some network and overlay file
    systems), the reading proves less: that the bytes reached the system's memory under the right names, while
    fsync's word is all there is for the disk.
    """
    if not hasattr(os, "posix_fadvise"):
        return
    with suppress(OSError):  # advice: what cannot be dropped is read from memory
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def begin_writing(descriptor: int, start: int, size: int) -> None:
    """Have the system begin to bring a part of a file to the disk, while more of it is being written.

    Advice, where there is such a call. It is fsync that waits, and that tells of errors, also of those met here.
    """
    if hasattr(os, "posix_fadvise"):
        with suppress(
            OSError
        ):  # for pages that still have to be written, Linux takes this for a wish to begin
            os.posix_fadvise(descriptor, start, size, os.POSIX_FADV_DONTNEED)


def begin_reading(descriptor: int, start: int, size: int) -> None:
    """Have the system begin to bring a part of a file into memory, while what is before it is being looked at."""
    if hasattr(os, "posix_fadvise"):
        with suppress(OSError):
            os.posix_fadvise(descriptor, start, size, os.POSIX_FADV_WILLNEED)


def temporary_beside(path: Path) -> Path:
    """A name in the same directory, and so on the same file system, that nothing has yet."""
    return path.with_name(f"{TEMPORARY}{path.name}-{secrets.token_hex(4)}")


def write_json(path: str | PathLike[str], obj: Any) -> None:
    """Write a JSON file in one step: whoever reads it finds all of the old one or all of the new one.

    Args:
        path: Where; its directory must be there.
        obj: What `json.dumps` takes.

    Raises:
        OSError: It could not be written; the old file, if there was one, is as it was.
    """
    text = json.dumps(obj, indent=1, ensure_ascii=False) + "\n"
    replace_bytes(Path(path), text.encode("utf-8", "backslashreplace"))


def replace_bytes(path: Path, data: bytes) -> None:
    """Put a file's new content in place of the old in one step. Raises as `write_json`."""
    temporary = temporary_beside(path)
    try:
        write_bytes(temporary, data)
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def make_directory(path: Path) -> None:
    """Make a directory and those above it, and wait until their entries are on the disk."""
    missing = [place for place in (path, *path.parents) if not place.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for place in missing:
        sync_directory(place.parent)


def require_space(path: Path, size: int) -> None:
    """See that a directory's file system has room.

    Raises:
        CheckpointError: It has not; the message says how much is needed and how much there is.
    """
    free = shutil.disk_usage(path).free
    if free < size + _MARGIN:
        raise CheckpointError(
            f"{path}: {_mega(size + _MARGIN)} are needed for a checkpoint and {_mega(free)} are available: "
            "free some space, keep fewer checkpoints (Checkpoints(keep=...)), or use another disk"
        )


def _mega(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
