"""Arrays compressed as one stream: zstd and LZ4 frames, around a `.npy` file or around bare values."""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from deeptrain.data.errors import DataError
from deeptrain.data.formats.base import Array, Part
from deeptrain.data.formats.checks import check_ratio, check_shape, native, nbytes, unreadable
from deeptrain.data.formats.npy import MAGIC, MOST_TEXT, Header, read_header
from deeptrain.data.formats.registry import Format, Hints

if TYPE_CHECKING:
    from pathlib import Path

SKIP = 1 << 20


class Stream(Protocol):
    """What is unpacked of a file, from its beginning on."""

    def read(self, size: int = -1, /) -> bytes | None:
        """Give some of the next bytes; none at the end."""

    def readinto(self, buffer: Any, /) -> int | None:
        """Fill some of a buffer; 0 at the end."""


class PackedFormat(Format):
    """One array in one compressed stream: with a `.npy` header, or bare, where `shape` and `dtype` are told.

    Attributes:
        what: What a whole file is called in a message.
        ratio: The most bytes that the codec makes of one.
    """

    what: ClassVar[str]
    ratio: ClassVar[int]

    def stream(self, file: IO[bytes]) -> io.RawIOBase:
        """Give a reader of what is unpacked; an error of the codec's own is turned into an `OSError`."""
        raise NotImplementedError

    def size(self, path: Path) -> int:
        """Give the unpacked size that a frame's own header claims, for values without one; 0 where it does not."""
        raise NotImplementedError

    def entries(self, path: Path, hints: Hints) -> dict[str, Part]:
        """Unpack the beginning, for the header."""
        try:
            with path.open("rb") as file, self.stream(file) as stream:
                head = _read(stream, MOST_TEXT)
                if head.startswith(MAGIC):
                    header = read_header(path, io.BytesIO(head))
                else:
                    header = bare(path, self.size(path) or _count(stream, len(head)), hints)
        except (OSError, EOFError) as error:
            raise unreadable(path, self.what, error) from error
        return {"": PackedPart(path, self, header)}


def _count(stream: Stream, count: int) -> int:
    while piece := _read(stream, SKIP):
        count += len(piece)
    return count


def bare(path: Path, size: int, hints: Hints) -> Header:
    """Make the header of values that have none, from what the user said of them.

    Args:
        path: The file.
        size: Bytes of the values.
        hints: The user's `shape` and `dtype`.

    Raises:
        DataError: Nothing was said, or the size does not fit.
    """
    if hints.shape is None or hints.dtype is None:
        raise DataError(
            path,
            found=f"{size} bytes of values without a .npy header",
            expected="a header, or to be told shape and dtype",
            remedy="Give one row's: Files(path, shape=(28, 28), dtype='float32').",
        )
    shape, dtype = hints.shape, hints.dtype
    if shape[:1] != (-1,) and nbytes(shape, dtype) == size:
        return Header(shape, dtype, fortran=False, offset=0)
    row = shape[1:] if shape[:1] == (-1,) else shape
    rows, rest = divmod(size, nbytes(row, dtype) or 1)
    if rest or not rows:
        raise wrong_size(path, size, f"a multiple of {nbytes(row, dtype)}, a row's in {row} of {dtype}")
    return Header((rows, *row), dtype, fortran=False, offset=0)


def wrong_size(path: Path, found: int, expected: str) -> DataError:
    """Make the error for values of another size than the header says."""
    return DataError(
        path,
        found=f"{found} unpacked bytes",
        expected=expected,
        remedy="Check shape and dtype; if they are right, the file is damaged: write or copy it again.",
    )


class PackedPart(Part):
    """An array that is unpacked from its beginning on.

    Raises:
        DataError: The header claims more than the file can hold, or what torch has no dtype for.
    """

    whole: ClassVar[bool] = True

    def __init__(self, path: Path, format: PackedFormat, header: Header) -> None:  # noqa: A002 - the field's word
        self.path, self.dtype = path, native(path, header.stored)
        check_shape(path, header.shape)
        check_ratio(path, nbytes(header.shape, header.stored), format.ratio)
        self.rows, self.shape = header.shape[0], header.shape[1:]
        self._format, self._header = format, header

    def read_into(self, out: Array, start: int) -> None:
        """Unpack the rows before, and those wanted straight into `out`."""
        try:
            with self.path.open("rb") as file, self._format.stream(file) as stream:
                read_stream(self.path, stream, self._header, out, start)
        except (OSError, EOFError) as error:
            raise unreadable(self.path, self._format.what, error) from error


def read_stream(path: Path, stream: Stream, header: Header, out: Array, start: int) -> None:
    """Fill `out` with rows out of a stream that holds an array; one read to its end must end there.

    Raises:
        DataError: There are fewer values than the header says, or more.
    """
    rows, shape = header.shape[0], header.shape[1:]
    plain = not header.fortran and header.stored == out.dtype
    if header.fortran:
        values = np.empty(header.shape[::-1], header.stored).T
        _fill(path, stream, header.offset, values.T)
        out[...] = values[start : start + len(out)]
    else:
        values = out if plain else np.empty(out.shape, header.stored)
        _fill(path, stream, header.offset + start * nbytes(shape, header.stored), values)
        if not plain:
            out[...] = values
    if (header.fortran or start + len(out) == rows) and stream.read(1):
        raise DataError(
            path,
            found="more values than the header says",
            expected=f"{rows} rows",
            remedy="The file is damaged: write or copy it again.",
        )


def _fill(path: Path, stream: Stream, skip: int, out: Array) -> None:
    while skip and (piece := stream.read(min(skip, SKIP))):
        skip -= len(piece)
    view = out.reshape(-1).view(np.uint8).data
    while view:
        count = stream.readinto(view)
        if not count:
            raise DataError(
                path,
                found=f"{len(view)} bytes too few: the file is cut off or damaged",
                expected="as many as its header says",
                remedy="Write or copy it again.",
            )
        view = view[count:]


def _read(stream: Stream, count: int) -> bytes:
    """Read so many bytes, or to the end."""
    pieces = []
    while count and (piece := stream.read(count)):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)
