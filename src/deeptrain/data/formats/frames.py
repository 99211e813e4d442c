"""The codecs of compressed streams: zstd and LZ4 frames, one or several in a file."""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING, Any, ClassVar

from deeptrain.data.formats.checks import needed
from deeptrain.data.formats.packed import PackedFormat

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PIECE = 1 << 20  # packed bytes that are unpacked at once
MOST_PIECE = 1 << 25  # bytes that may come of them
FRAME_HEADER = 32  # bytes, more than either codec's frame header has


class ZstdFormat(PackedFormat):
    """A zstd frame, or several."""

    what: ClassVar[str] = "zstd frame"
    ratio: ClassVar[int] = 1 << 15  # a block of 128 KiB in four bytes

    def stream(self, file: IO[bytes]) -> io.RawIOBase:
        """Unpack with zstandard, straight into the reader's memory."""
        zstandard = needed("zstandard", "compression")
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_size=PIECE, read_across_frames=True)
        return _Translated(reader, zstandard.ZstdError)

    def size(self, path: Path) -> int:
        """Read the frame's header."""
        zstandard = needed("zstandard", "compression")
        with path.open("rb") as file:
            try:
                return max(0, int(zstandard.frame_content_size(file.read(FRAME_HEADER))))
            except zstandard.ZstdError as error:
                raise OSError(str(error)) from error


class Lz4Format(PackedFormat):
    """An LZ4 frame, or several."""

    what: ClassVar[str] = "LZ4 frame"
    ratio: ClassVar[int] = 256

    def stream(self, file: IO[bytes]) -> io.RawIOBase:
        """Unpack with lz4, piece by piece."""
        return _Lz4Stream(file, needed("lz4.frame", "compression").LZ4FrameDecompressor)

    def size(self, path: Path) -> int:
        """Read the frame's header."""
        frame = needed("lz4.frame", "compression")
        with path.open("rb") as file:
            try:
                return int(frame.get_frame_info(file.read(FRAME_HEADER))["content_size"])
            except RuntimeError as error:
                raise OSError(str(error)) from error


class _Translated(io.RawIOBase):
    """A reader whose library's own errors are `OSError`s here."""

    def __init__(self, reader: IO[bytes], error: type[Exception]) -> None:
        self._reader, self._error = reader, error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        try:
            return self._reader.readinto(buffer)  # type: ignore[attr-defined, no-any-return]
        except self._error as error:
            raise OSError(str(error)) from error


class _Lz4Stream(io.RawIOBase):
    """Reads what is unpacked of LZ4 frames."""

    def __init__(self, file: IO[bytes], make: Callable[[], Any]) -> None:
        self._file, self._make, self._codec = file, make, make()
        self._rest: memoryview = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            if not self._rest and not self._unpack():
                break
            count = min(len(self._rest), len(view) - done)
            view[done : done + count], self._rest = self._rest[:count], self._rest[count:]
            done += count
        return done

    def _unpack(self) -> bool:
        """Unpack the next piece, of which nothing may come; False at the end."""
        codec = self._codec
        if codec.eof:
            piece = codec.unused_data or self._file.read(PIECE)
            if not piece:
                return False
            self._codec = codec = self._make()
        else:
            piece = self._file.read(PIECE) if codec.needs_input else b""
            if not piece and codec.needs_input:
                raise OSError("the frame is cut off")
        try:
            self._rest = memoryview(codec.decompress(piece, MOST_PIECE))
        except RuntimeError as error:
            raise OSError(str(error)) from error
        if not piece and not self._rest:
            raise OSError("nothing more comes of the frame")
        return True
