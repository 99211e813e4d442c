"""Reading a file from the device itself, past the system's cache, where the system can.

What comes from there proves that the device has it. It also costs half of the processor's time that reading through the
cache costs, which training beside it would miss, and drives nothing out of the cache that training wants there.
"""

from __future__ import annotations

import mmap
import os
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, BinaryIO

from deeptrain.checkpoint.files import BINARY, begin_reading

if TYPE_CHECKING:
    from pathlib import Path

_AT_ONCE = (
    1 << 22
)  # bytes: what stays in the processor's caches between reading and summing; whole sectors of any device
_AHEAD = (
    1 << 24
)  # bytes: how far behind what is summed the disk is asked to read, where the cache has to be used


class _Direct:
    """A file that is read past the cache, from its beginning on, one piece ahead of who asks.

    Raises:
        OSError: The file system cannot do that; some say so when the file is opened, some when it is read.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._size, self._next = size, 0
        self._buffers = [
            memoryview(mmap.mmap(-1, _AT_ONCE)) for _ in range(2)
        ]  # their memory begins at a page
        self._descriptor = os.open(path, os.O_RDONLY | BINARY | os.O_DIRECT)
        self._thread = ThreadPoolExecutor(1, "deeptrain-verify") if size > _AT_ONCE else None
        self._under_way: Future[int] | None = None

    def read(self) -> memoryview:
        """Give the next piece; the one before it is then no longer what it was."""
        future = self._under_way or self._begin()
        self._under_way = None
        piece = self._buffers[0][: future.result()]
        if len(piece) < min(_AT_ONCE, self._size - self._next):
            raise OSError("a read was cut short, and where it ended no other one can begin")
        self._next += len(piece)
        self._buffers.reverse()
        if self._next < self._size:
            self._under_way = self._begin()
        return piece

    def _begin(self) -> Future[int]:
        asked = self._descriptor, [self._buffers[0]], self._next
        if self._thread is not None:
            try:
                return self._thread.submit(os.preadv, *asked)
            except RuntimeError:  # an interpreter that is ending starts no thread
                self._thread = None
        here: Future[int] = Future()
        try:
            here.set_result(os.preadv(*asked))
        except OSError as error:
            here.set_exception(error)
        return here

    def close(self) -> None:
        """Let the file go."""
        if self._thread is not None:
            self._thread.shutdown()
        os.close(self._descriptor)


class Sums:
    """The checksums of consecutive parts of a file, from its beginning on.

    Args:
        path: The file.
        file: It, opened for reading, without a buffer.

    Raises:
        OSError: In each method, where the file cannot be read.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._read = 0
        self._left = memoryview(b"")  # of what was read and is not summed yet
        self._buffer: memoryview | None = None
        self._direct: _Direct | None = None
        if hasattr(os, "O_DIRECT"):  # Linux
            with suppress(OSError):
                self._direct = _Direct(path, self._size)

    def next(self, size: int) -> int | None:
        """Give the crc32 of the next so many bytes; None where the file ends before."""
        crc = 0
        while size:
            if not self._left and not self._fill():
                return None
            part = self._left[:size]
            crc = zlib.crc32(part, crc)
            self._left, size = self._left[len(part) :], size - len(part)
        return crc

    def _fill(self) -> bool:
        if self._read < self._size:
            self._left = self._read_on()
            self._read += len(self._left)
        return len(self._left) > 0

    def _read_on(self) -> memoryview:
        if self._direct is not None:
            with suppress(OSError):  # if it is the disk that failed, the other way says so
                return self._direct.read()
            self.close()
        if self._buffer is None:
            self._buffer = memoryview(bytearray(_AT_ONCE))
            self._file.seek(self._read)
        if self._read + _AHEAD < self._size:
            begin_reading(self._file.fileno(), self._read + _AHEAD, _AT_ONCE)
        return self._buffer[: self._file.readinto(self._buffer)]  # type: ignore[attr-defined]

    def close(self) -> None:
        """Let go of what was opened here."""
        direct, self._direct = self._direct, None
        if direct is not None:
            direct.close()
