"""`.npz`: an archive of `.npy` files. Stored ones are read as they lie in the archive, packed ones are unpacked."""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, ClassVar

import numpy as np

from deeptrain.data.errors import DataError
from deeptrain.data.formats.base import Array, Part
from deeptrain.data.formats.checks import check_ratio, check_shape, native, nbytes, unreadable
from deeptrain.data.formats.npy import Header, read_header
from deeptrain.data.formats.packed import read_stream
from deeptrain.data.formats.raw import RawPart
from deeptrain.data.formats.registry import Format, Hints

if TYPE_CHECKING:
    from pathlib import Path

WHAT = "archive of .npy files"
RATIO = 1032  # the most that deflate makes of one byte
LOCAL = struct.Struct(
    "<4s22xHH"
)  # of a member's own header: magic, and the lengths of its name and of what follows
ENCRYPTED = 1
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
FAULTS = (
    OSError,
    ValueError,
    KeyError,
    IndexError,
    EOFError,
    RuntimeError,
    ArithmeticError,
    struct.error,
    zlib.error,
)


class NpzFormat(Format):
    """Arrays in a file that `numpy.savez` or `numpy.savez_compressed` wrote."""

    def entries(self, path: Path, hints: Hints) -> dict[str, Part]:  # noqa: ARG002 - each array has a header
        """Read the archive's directory and each array's header."""
        try:
            with zipfile.ZipFile(path) as archive, path.open("rb") as file:
                members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
                return {
                    member.filename.removesuffix(".npy"): _part(path, archive, file, member)
                    for member in members
                }
        except DataError:
            raise
        except (*FAULTS, zipfile.BadZipFile) as error:
            raise unreadable(path, WHAT, error) from error


def _part(path: Path, archive: zipfile.ZipFile, file: IO[bytes], member: zipfile.ZipInfo) -> Part:
    if member.compress_type not in METHODS or member.flag_bits & ENCRYPTED:
        raise DataError(
            path,
            found=f"{member.filename} compressed by method {member.compress_type} or encrypted",
            expected="arrays that are stored or deflated, in the clear",
            remedy="Write them with numpy.savez or numpy.savez_compressed.",
        )
    with archive.open(member) as stream:
        header = read_header(path, stream)
    if member.compress_type != zipfile.ZIP_STORED:
        return ZippedPart(path, member.filename, header, member.file_size)
    if header.offset + nbytes(header.shape, header.stored) > member.file_size:
        raise _wrong_size(path, member.filename, header, member.file_size)
    file.seek(member.header_offset)
    magic, name, extra = LOCAL.unpack(file.read(LOCAL.size))
    if magic != b"PK\x03\x04":
        raise ValueError(f"{member.filename} does not begin where the archive's directory says")
    begin = member.header_offset + LOCAL.size + name + extra
    return RawPart(path, header.shape, header.stored, begin + header.offset, fortran=header.fortran)


class ZippedPart(Part):
    """A deflated array; its checksum is compared when it is read to its end."""

    whole: ClassVar[bool] = True

    def __init__(self, path: Path, name: str, header: Header, size: int) -> None:
        self.path, self.dtype = path, native(path, header.stored)
        check_shape(path, header.shape)
        if header.offset + nbytes(header.shape, header.stored) != size:
            raise _wrong_size(path, name, header, size)
        check_ratio(path, size, RATIO)
        self.rows, self.shape = header.shape[0], header.shape[1:]
        self.entry, self._header = name, header

    def read_into(self, out: Array, start: int) -> None:
        """Unpack the rows before, and those wanted."""
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.entry) as stream:
                assert isinstance(stream, zipfile.ZipExtFile)
                read_stream(self.path, stream, self._header, out, start)
        except DataError:
            raise
        except (*FAULTS, zipfile.BadZipFile) as error:
            raise unreadable(self.path, WHAT, error) from error


def _wrong_size(path: Path, name: str, header: Header, size: int) -> DataError:
    needed = header.offset + int(np.prod(header.shape, dtype=object)) * header.stored.itemsize
    return DataError(
        path,
        found=f"{name} with {size} bytes",
        expected=f"{needed} bytes for {header.shape} of {header.stored}",
        remedy="The file is damaged: write or copy it again.",
    )
