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
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import PathLike

TEMPORARY = ".tmp-"
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


def write_bytes(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on the disk.

    Raises:
        FileExistsError: It is there already.
    """
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        sync_descriptor(file.fileno())


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
