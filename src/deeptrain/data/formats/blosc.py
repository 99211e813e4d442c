"""Blosc2: n-dimensional arrays (`.b2nd`), tensors (`.bl2`), and frames around a `.npy` file or around bare values."""

from __future__ import annotations

import io
import math
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar

import numpy as np

from deeptrain.data.errors import DataError
from deeptrain.data.formats.checks import check_shape, native, nbytes, needed, unreadable
from deeptrain.data.formats.chunked import RegularPart, check_chunk, whole_if_small
from deeptrain.data.formats.npy import Header
from deeptrain.data.formats.packed import PackedFormat, PackedPart

if TYPE_CHECKING:
    from deeptrain.data.formats.base import Array, Part
    from deeptrain.data.formats.registry import Hints

WHAT = "Blosc2 frame"
ARRAY = "b2nd"  # the one kind of metadata that is known here; others may hold expressions and code, which are not run
TENSOR = "__pack_tensor__"
TUPLE = "__tuple__"
FAULTS = (
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    OSError,
    SyntaxError,
    ArithmeticError,
    SystemError,
)


class Blosc2Format(PackedFormat):
    """Whatever a Blosc2 file holds, told by its metadata."""

    what: ClassVar[str] = WHAT
    ratio: ClassVar[int] = 1 << 15

    def entries(self, path: Path, hints: Hints) -> dict[str, Part]:
        """Read the frame's header and metadata; of a frame around a `.npy` file its beginning too."""
        if not path.is_file():
            raise unreadable(path, WHAT, ValueError("it is no file"))
        try:
            frame = open_frame(path)
            if not hasattr(frame, "schunk"):
                tensor = _tensor(path, frame)
                return (
                    super().entries(path, hints) if tensor is None else {"": PackedPart(path, self, tensor)}
                )
            return {"": whole_if_small(Blosc2Part(path, frame))}
        except DataError:
            raise
        except FAULTS as error:
            raise unreadable(path, WHAT, error) from error

    def stream(self, file: IO[bytes]) -> io.RawIOBase:
        """Unpack a frame chunk by chunk."""
        return _Chunks(open_frame(Path(file.name)))

    def size(self, path: Path) -> int:
        """Ask the frame's header."""
        return int(open_frame(path).nbytes)


def open_frame(path: Path) -> Any:
    """Open a frame as what it is stored as; what it might stand for (an expression, a proxy) is refused.

    Raises:
        DataError: It is something that would have to be evaluated.
        OSError: It is no frame.
    """
    blosc2 = needed("blosc2", "compression")
    try:
        # Not `blosc2.open`: that one also makes remote arrays, expressions and stores out of a file's metadata.
        frame = blosc2.blosc2_ext.open(str(path), "r", 0)
        names = set(getattr(frame, "schunk", frame).meta.keys())
    except FAULTS as error:
        raise OSError(str(error)) from error
    if not names <= {ARRAY}:
        raise DataError(
            path,
            found=f"a Blosc2 object of another kind ({', '.join(sorted(map(str, names - {ARRAY})))}), which is not evaluated",
            expected="an array or a frame of values",
            remedy="Compute it and save the result with blosc2.asarray(values, urlpath=...).",
        )
    return frame


def _tensor(path: Path, frame: Any) -> Header | None:
    """Give shape and dtype of what `blosc2.save_tensor` wrote; None for another frame."""
    if TENSOR not in list(frame.vlmeta):
        return None
    raw = frame.vlmeta.get_vlmeta(TENSOR)  # not `vlmeta[...]`, which can make objects
    library, shape, dtype = _untagged(needed("msgpack", "compression").unpackb(raw, strict_map_key=False))
    if library not in ("numpy", "torch"):
        raise ValueError(f"a tensor of {library}")
    header = Header(tuple(map(int, _untagged(shape))), np.dtype(str(dtype)), fortran=False, offset=0)
    if min(header.shape, default=0) < 0 or nbytes(header.shape, header.stored) != frame.nbytes:
        raise ValueError(f"{frame.nbytes} bytes for {header.shape} of {header.stored}")
    check_chunk(path, frame.chunksize)
    return header


def _untagged(values: list[Any]) -> list[Any]:
    """Drop the mark by which the library tells tuples from lists."""
    return values[1:] if values[:1] == [TUPLE] else values


class _Chunks(io.RawIOBase):
    """Reads a frame's bytes, chunk after chunk."""

    def __init__(self, frame: Any) -> None:
        self._frame, self._next = frame, 0
        self._chunk = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        view = memoryview(buffer).cast("B")
        while not self._chunk and self._next < self._frame.nchunks:
            self._chunk, self._next = self._unpack(), self._next + 1
        count = min(len(view), len(self._chunk))
        view[:count], self._chunk = self._chunk[:count], self._chunk[count:]
        return count

    def _unpack(self) -> memoryview:
        try:
            return memoryview(self._frame.decompress_chunk(self._next))
        except FAULTS as error:
            raise OSError(str(error)) from error


class Blosc2Part(RegularPart):
    """An n-dimensional array, unpacked by its chunks."""

    def __init__(self, path: Path, frame: Any) -> None:
        self.path, self.dtype = path, native(path, np.dtype(frame.dtype))
        shape = tuple(map(int, frame.shape))
        check_shape(path, shape)
        self.rows, self.shape, self.chunk_rows = shape[0], shape[1:], max(1, int(frame.chunks[0]))
        check_chunk(path, nbytes((self.chunk_rows, *self.shape), self.dtype))
        check_chunk(path, nbytes(tuple(map(int, frame.chunks)), self.dtype))
        chunks = math.prod(
            -(-length // max(1, int(size))) for length, size in zip(shape, frame.chunks, strict=True)
        )
        if chunks != frame.schunk.nchunks:
            raise ValueError(f"{frame.schunk.nchunks} chunks, where its shape needs {chunks}")
        self._frame: Any = None
        # A frame's own state is not made for two threads.
        self._lock = threading.Lock()

    def _load(self, out: Array, start: int) -> None:
        try:
            with self._lock:
                if self._frame is None:
                    self._frame = open_frame(self.path)
                for at in range(0, len(out), self.chunk_rows):
                    stop = min(at + self.chunk_rows, len(out))
                    out[at:stop] = self._frame[start + at : start + stop]
        except FAULTS as error:
            raise unreadable(self.path, WHAT, error) from error

    def close(self) -> None:
        """Let the frame go."""
        super().close()
        self._frame = None
