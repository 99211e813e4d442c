"""HDF5: contiguous datasets read as they lie in the file, others by the library; links out of the file are refused."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from deeptrain.data.errors import DataError
from deeptrain.data.formats.checks import check_shape, native, nbytes, needed, unreadable
from deeptrain.data.formats.chunked import RegularPart, check_chunk, whole_if_small
from deeptrain.data.formats.raw import RawPart
from deeptrain.data.formats.registry import Format, Hints

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deeptrain.data.formats.base import Array, Part

WHAT = "HDF5 file"
DEEPEST = 16  # groups within groups; a group may hold itself
FAULTS = (
    OSError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    ArithmeticError,
    NotImplementedError,
)


class Hdf5Format(Format):
    """Datasets by their paths in the file."""

    def entries(self, path: Path, hints: Hints) -> dict[str, Part]:  # noqa: ARG002 - each dataset has a header
        """Read what the file says of its datasets."""
        library = needed("h5py", "hdf5")
        try:
            with library.File(path, "r", locking="best-effort") as file:
                handle = Handle(path)
                return {
                    name: _part(path, handle, name, found)
                    for name, found in _walk(path, library, file, "", 0)
                }
        except DataError:
            raise
        except FAULTS as error:
            raise unreadable(path, WHAT, error) from error


def _walk(path: Path, library: Any, group: Any, prefix: str, depth: int) -> Iterator[tuple[str, Any]]:
    for key in group:
        name = f"{prefix}{key}"
        link = group.get(key, getlink=True)
        if not isinstance(link, library.HardLink | library.SoftLink):
            raise _outside(path, f"{name}, a link to {getattr(link, 'filename', 'elsewhere')}")
        value = group[key]
        if isinstance(value, library.Dataset):
            yield name, value
        elif isinstance(value, library.Group):
            if depth >= DEEPEST:
                raise ValueError(f"groups within groups deeper than {DEEPEST} at {name}")
            yield from _walk(path, library, value, f"{name}/", depth + 1)


def _outside(path: Path, what: str) -> DataError:
    return DataError(
        path,
        found=f"{what}, which is not followed",
        expected="all values in this one file",
        remedy="Copy them into it (h5repack, or group.copy).",
    )


def _part(path: Path, handle: Handle, name: str, dataset: Any) -> Part:
    if dataset.external or dataset.is_virtual:
        raise _outside(path, f"the dataset {name} with values in other files")
    dtype = dataset.dtype
    native(path, dtype)
    if dataset.shape is None:
        check_shape(path, ())
    check_shape(path, dataset.shape)
    offset = None if dataset.chunks or dataset.compression else dataset.id.get_offset()
    if offset is not None:
        return RawPart(path, dataset.shape, dtype, offset)
    return whole_if_small(Hdf5Part(path, handle, name, dataset))


class Handle:
    """A file that each process opens for itself: the library's state does not survive a fork."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened: tuple[int, Any] | None = None
        self._forked: list[Any] = []  # never closed here: they belong to the parent's library
        self._lock = threading.Lock()
        self._locker = os.getpid()

    def dataset(self, name: str) -> tuple[Any, Any]:
        """Give the file, opened if need be, and a dataset of it, which can be read for as long as the file is held."""
        process = os.getpid()
        if self._locker != process:  # another thread may have held the lock when this process was forked off
            self._lock, self._locker = threading.Lock(), process
        with self._lock:
            if self._opened is not None and self._opened[0] != process:
                self._forked.append(self._opened)
                self._opened = None
            if self._opened is None:
                library = needed("h5py", "hdf5")
                self._opened = process, library.File(self.path, "r", locking="best-effort")
            return self._opened[1], self._opened[1][name]

    def close(self) -> None:
        """Let the file go, which closes with its last reader; the next read opens it again."""
        if self._opened is not None and self._opened[0] == os.getpid():
            self._opened = None


class Hdf5Part(RegularPart):
    """A dataset that the library reads: in chunks, compressed, compact, or without values of its own."""

    def __init__(self, path: Path, handle: Handle, name: str, dataset: Any) -> None:
        self.path, self.dtype = path, native(path, dataset.dtype)
        self.rows, self.shape = dataset.shape[0], dataset.shape[1:]
        self.chunk_rows = dataset.chunks[0] if dataset.chunks else self.rows
        if dataset.chunks:
            check_chunk(path, nbytes(dataset.chunks, self.dtype))
            check_chunk(path, nbytes((self.chunk_rows, *self.shape), self.dtype))
        self._handle, self.entry = handle, name

    def _load(self, out: Array, start: int) -> None:
        try:
            file, dataset = self._handle.dataset(self.entry)
            dataset.read_direct(out, np.s_[start : start + len(out)])
            del file  # not before: another thread may have let go of it
        except FAULTS as error:
            raise unreadable(self.path, WHAT, error) from error

    def close(self) -> None:
        """Close the file."""
        super().close()
        self._handle.close()
