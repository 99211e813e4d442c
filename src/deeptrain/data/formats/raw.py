"""Values that lie in a file as they are in memory: read straight into the batch's memory, at the file's speed."""

from __future__ import annotations

import contextlib
import mmap
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from deeptrain.data.errors import DataError
from deeptrain.data.formats.base import Array, Part
from deeptrain.data.formats.checks import check_shape, native, nbytes, unreadable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from deeptrain.data.batch import RowIds

MOST_OPEN = 96  # files; each may take two descriptors, and a process often has 256
MOST_MAPS = 4096  # a process may have some 65,000
MOST_STANDING = 1 << 30  # bytes of a file that is mapped whole
FEW = 2  # rows that are read one by one: for more, a map is cheaper


class _Opened:
    """A file descriptor, and a map of the file if one was asked for; both go when nobody uses them any more."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(
            path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        )
        self.map: mmap.mmap | None = None

    def mapped(self) -> mmap.mmap:
        if self.map is None:
            self.map = mmap.mmap(self.descriptor, 0, access=mmap.ACCESS_READ)
        return self.map

    def __del__(self) -> None:
        # Not in a `close`: another thread may be reading while this one is taken out of the table.
        with contextlib.suppress(AttributeError, OSError):
            os.close(self.descriptor)


# By the id of what opened it: a table of paths would keep serving a file that was replaced. No lock: a dict's own
# steps are whole, the worst of a race is a file opened twice, and a lock held across a fork would never be freed.
_OPENED: dict[int, _Opened] = {}


# Whole files in maps of their own, by the id of what reads them.
_STANDING: dict[int, tuple[Any, Array]] = {}


class OpenFile:
    """A file that is opened when it is first read; of those that were read, the newest `MOST_OPEN` stay open.

    A read names its place in the file, so threads and forked processes may read at once.

    Args:
        path: The file.
        known: How many of its bytes were read already, such as a header.
    """

    def __init__(self, path: Path, known: int = 0) -> None:
        self.path = path
        self._name = str(path)
        self._done = known  # bytes that were read

    def fill(self, out: Array, offset: int) -> None:
        """Fill a contiguous array with the file's bytes from an offset on.

        Raises:
            DataError: The file ends before.
        """
        values = out.reshape(-1).view(np.uint8)
        standing = self.standing(offset + len(values))
        if standing is not None:
            values[...] = standing[offset : offset + len(values)]
            return
        self._done += len(values)
        view = values.data
        opened = self._opened()
        try:
            while view:
                count = os.preadv(opened.descriptor, [view], offset)
                if count == 0:
                    raise self._short(offset + len(view))
                view, offset = view[count:], offset + count
        except OSError as error:
            raise unreadable(self.path, "data", error) from error

    def map(self, dtype: np.dtype[Any], count: int, offset: int) -> Array:
        """Map values, read-only; the pages come in as they are touched.

        Raises:
            DataError: The file ends before the last value.
        """
        opened = self._opened()
        end = offset + count * dtype.itemsize
        # Touching a page of a map beyond the file's end would kill the process.
        if os.fstat(opened.descriptor).st_size < end:
            raise self._short(end)
        try:
            return np.frombuffer(opened.mapped(), dtype, count, offset)
        except (OSError, ValueError) as error:
            raise unreadable(self.path, "data", error) from error

    def standing(self, end: int) -> Array | None:
        """Give the file as it stands in memory, once as many bytes were read as it has; None before.

        A second reading copies out of a standing map at up to twice the speed of a read call. A first one would be
        slower, for the page faults.
        """
        standing = _STANDING.get(id(self))
        if standing is None and self._done < end:
            return None
        try:
            found = os.stat(self._name)  # noqa: PTH116 - twice as fast as the path's own, and for each read
        except OSError as error:
            raise unreadable(self.path, "data", error) from error
        if found.st_size < end:  # touching a page of a map beyond the file's end would kill the process
            raise self._short(end)
        key = (found.st_ino, found.st_mtime_ns, found.st_size)
        if standing is None or standing[0] != key:
            if self._done < found.st_size or found.st_size > MOST_STANDING:
                return None
            standing = self._stand(key)
        return None if standing is None else standing[1]

    def _stand(self, key: tuple[int, int, int]) -> tuple[Any, Array] | None:
        try:
            # Unlike Python's, torch's map holds no file descriptor, of which a process has few.
            storage = torch.UntypedStorage.from_file(str(self.path), shared=False, nbytes=key[2])
        except (RuntimeError, OSError):  # no room in the address space: reading works as before
            return None
        array: Array = torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage).numpy()  # type: ignore[arg-type]
        _STANDING[id(self)] = standing = (key, array)
        while len(_STANDING) > MOST_MAPS:
            with contextlib.suppress(KeyError, RuntimeError, StopIteration):
                _STANDING.pop(next(iter(_STANDING)))
        return standing

    def close(self) -> None:
        """Let the file go; the next read opens it again."""
        _OPENED.pop(id(self), None)
        _STANDING.pop(id(self), None)

    def __del__(self) -> None:
        self.close()

    def _opened(self) -> _Opened:
        key = id(self)
        opened = _OPENED.pop(key, None)
        if opened is None:
            try:
                opened = _Opened(self.path)
            except OSError as error:
                raise unreadable(self.path, "data", error) from error
        _OPENED[key] = opened  # at the end: the newest
        while len(_OPENED) > MOST_OPEN:
            with contextlib.suppress(KeyError, RuntimeError, StopIteration):
                _OPENED.pop(next(iter(_OPENED)))
        return opened

    def _short(self, needed: int) -> DataError:
        size = self.path.stat().st_size if self.path.exists() else 0
        return DataError(
            self.path,
            found=f"a file of {size} bytes: it was cut off after its header was read",
            expected=f"at least {needed} bytes, as then",
            remedy="Put the data back, then go on.",
        )


class RawPart(Part):
    """An array that lies in a file as it is, uncompressed, from an offset on.

    Args:
        path: The file.
        shape: The whole array's shape, rows first.
        stored: The dtype in the file, of either byte order.
        offset: Where the values begin, in bytes.
        fortran: Whether it is stored column by column.

    Raises:
        DataError: There are no rows, torch has no such dtype, or the file is too short.
    """

    def __init__(
        self, path: Path, shape: Sequence[int], stored: np.dtype[Any], offset: int, *, fortran: bool = False
    ) -> None:
        self.path = path
        self.dtype = native(path, stored)
        check_shape(path, shape)
        self.rows, self.shape = int(shape[0]), tuple(map(int, shape[1:]))
        self._stored, self.offset, self._fortran = stored, offset, fortran and len(shape) > 1
        self._row_bytes = nbytes(self.shape, stored)
        self._file = OpenFile(path, known=offset)
        self._view: tuple[Array, Array | None] | None = None
        size, needed = path.stat().st_size, offset + nbytes(shape, stored)
        if size < needed:
            raise DataError(
                path,
                found=f"{size} bytes: the file is cut off",
                expected=f"{needed} bytes for {tuple(shape)} of {stored}",
                remedy="Write or copy it again.",
            )

    def joined_axes(self) -> RawPart | None:
        """Give the same values with the first two axes as one; None where they are not stored in that order."""
        if self._fortran:
            return None
        shape = (self.rows * self.shape[0], *self.shape[1:])
        return RawPart(self.path, shape, self._stored, self.offset)

    def read_into(self, out: Array, start: int) -> None:
        """Read into `out` without a copy on the way, where the file has this machine's byte order, row by row."""
        if self._fortran or not hasattr(os, "preadv"):
            out[...] = self._values()[start : start + len(out)]
            return
        self._file.fill(out, self.offset + start * self._row_bytes)
        if self._stored != self.dtype:
            out.byteswap(inplace=True)

    def pick_into(self, out: Array, places: RowIds, rows: RowIds) -> None:
        """Pick rows out of a map of the file; a few are read one by one."""
        if len(rows) <= FEW and not self._fortran:
            super().pick_into(out, places, rows)
            return
        first, n = int(places[0]), len(places)
        values = self._values()
        straight = (
            self._stored == self.dtype and values.flags.aligned
        )  # else `take` would copy the whole map first
        if straight and np.array_equal(places, np.arange(first, first + n)):
            # "clip" because "raise" makes a copy, and the rows are known to be there.
            np.take(values, rows, axis=0, out=out[first : first + n], mode="clip")
        else:
            out[places] = values[rows]

    def standing(self) -> Array | None:
        """Give the rows as they stand in memory once the file was read; see `Part`."""
        if self._fortran or self._stored != self.dtype:
            return None
        end = self.offset + self.rows * self._row_bytes
        found = self._file.standing(end)
        if found is None:
            return None
        if self._view is None or self._view[0] is not found:
            values = found[self.offset : end].view(self.dtype) if self._is_aligned() else None
            self._view = (found, None if values is None else values.reshape((self.rows, *self.shape)))
        return self._view[1]

    def _is_aligned(self) -> bool:
        return self.offset % self.dtype.itemsize == 0

    def close(self) -> None:
        """Let the file and its map go."""
        self._view = None
        self._file.close()

    def _values(self) -> Array:
        count = self.rows * (self._row_bytes // self._stored.itemsize)
        flat = self._file.map(self._stored, count, self.offset)
        return flat.reshape((self.rows, *self.shape), order="F" if self._fortran else "C")
