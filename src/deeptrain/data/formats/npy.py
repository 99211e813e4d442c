"""`.npy`: the header, read without executing anything, and the values as they lie in the file."""

from __future__ import annotations

import ast
import re
import struct
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from deeptrain.data.errors import DataError
from deeptrain.data.formats.checks import said
from deeptrain.data.formats.raw import RawPart
from deeptrain.data.formats.registry import Format, Hints, format_of

if TYPE_CHECKING:
    from pathlib import Path

    from deeptrain.data.formats.base import Part

MAGIC = b"\x93NUMPY"
LZ4_MAGIC = b"\x04\x22\x4d\x18"
LENGTHS = {
    b"\x01\x00": "<H",
    b"\x02\x00": "<I",
}  # how the header's length is written, by the format's version
MOST_TEXT = 1 << 16
LONG = re.compile(r"(?<=\d)L(?=[,)])")  # how Python 2 wrote large integers
DESCR = re.compile(r"[<>|=]?[biufcOSUVmM]\d*(\[\w+\])?")  # one plain dtype; records are described by lists
KEYS = {"descr", "fortran_order", "shape"}


@dataclass(frozen=True, slots=True)
class Header:
    """What a `.npy` header says.

    Attributes:
        shape: The whole array's shape.
        stored: The dtype in the file, of either byte order.
        fortran: Whether it is stored column by column.
        offset: Where the values begin, in bytes from the header's start.
    """

    shape: tuple[int, ...]
    stored: np.dtype[Any]
    fortran: bool
    offset: int


class NpyFormat(Format):
    """One array in a file that `numpy.save` wrote."""

    def entries(self, path: Path, hints: Hints) -> dict[str, Part]:
        """Read the header; a file of this name may also be an LZ4 frame, as DeepTrain 0.x wrote them."""
        try:
            with path.open("rb") as file:
                if file.read(len(LZ4_MAGIC)) == LZ4_MAGIC:
                    return format_of(".lz4").entries(path, hints)
                file.seek(0)
                header = read_header(path, file)
        except OSError as error:
            raise _no_header(path, said(error, path)) from error
        return {"": RawPart(path, header.shape, header.stored, header.offset, fortran=header.fortran)}


def read_header(path: Path, file: IO[bytes]) -> Header:
    """Read a `.npy` header, from a file or from what is unpacked of one; leaves it at the first value.

    Raises:
        DataError: There is none, or it is garbled.
    """
    start = file.read(len(MAGIC) + 2)
    form = LENGTHS.get(start[len(MAGIC) :])
    if not start.startswith(MAGIC) or form is None:
        raise _no_header(path, f"it begins with {start!r}")
    size = struct.calcsize(form)
    length = int.from_bytes(file.read(size), "little")
    text = file.read(min(length, MOST_TEXT))
    if len(text) < length or length > MOST_TEXT:
        raise _no_header(path, f"{len(text)} bytes of a header that says it has {length}")
    try:
        values = ast.literal_eval(LONG.sub("", text.decode("latin1")))
        descr = values["descr"]
        stored = np.dtype(descr) if isinstance(descr, str) and DESCR.fullmatch(descr) else None
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as error:
        raise _no_header(path, said(error, path)) from error
    if stored is None or not _is_header(values):
        raise _no_header(path, f"{values}"[:MOST_TEXT])
    return Header(values["shape"], stored, values["fortran_order"], len(start) + size + length)


def _is_header(values: Any) -> bool:
    return (
        isinstance(values, dict)
        and values.keys() == KEYS
        and isinstance(values["fortran_order"], bool)
        and isinstance(values["shape"], tuple)
        and all(type(length) is int and length >= 0 for length in values["shape"])
    )


def _no_header(path: Path, why: str) -> DataError:
    return DataError(
        path,
        found=f"no readable .npy header ({why[:200]})",
        expected="a file written by numpy.save (pickled objects are not read)",
        remedy="Write it again with numpy.save(path, array).",
    )
