"""Numbered `.npy` files: finding them, reading their headers without executing anything, and reading rows by map."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from deeptrain.data.source import spell

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from deeptrain.data.batch import RowIds

Array: TypeAlias = npt.NDArray[Any]

NUMBER = re.compile(r"^(.*?)(\d+)(\D*)$")  # the last run of digits, and what stands before it
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
MOST_MAPS = (
    4096  # a process may hold about 65,000 maps; a set beyond this many is mapped again when it is read
)
MOST_NAMED = 4


class DataError(ValueError):
    """Stored data is not as it should be; the message names the file, what was found, what was expected, and a remedy."""

    def __init__(self, path: Path, *, found: str, expected: str, remedy: str) -> None:
        super().__init__(f"{path}: found {found}; expected {expected}. {remedy}")


def joined(names: Iterable[object]) -> str:
    """List names, the first few of many."""
    texts = [str(name) for name in names]
    more = len(texts) - MOST_NAMED
    return ", ".join(texts[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


@dataclass(frozen=True, slots=True)
class Npy:
    """One `.npy` file's header, checked against the file's size.

    Attributes:
        path: The file.
        shape: The whole array's shape, rows first.
        stored: The dtype in the file, of either byte order.
        fortran: Whether it is stored column by column.
        offset: Where the values begin, in bytes.
    """

    path: Path
    shape: tuple[int, ...]
    stored: np.dtype[Any]
    fortran: bool
    offset: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """The values' dtype, in this machine's byte order."""
        return self.stored.newbyteorder("=")

    @property
    def row(self) -> str:
        """One row's type: `float32[28, 28]`."""
        return spell(self.shape[1:], self.dtype)

    def map(self) -> Array:
        """Map the file's values into memory, read-only; pages are loaded when they are read.

        Raises:
            DataError: The file became shorter or went away since its header was read.
        """
        order: Any = "F" if self.fortran else "C"
        try:
            return np.memmap(self.path, self.stored, "r", self.offset, self.shape, order)
        except (OSError, ValueError) as error:
            raise DataError(
                self.path,
                found=f"a file that cannot be mapped ({error})",
                expected="the file as it was when its header was read",
                remedy="Put the data back, then go on.",
            ) from error


def read_header(path: Path) -> Npy:
    """Read and check a file's header; values are not read, and pickled objects are never loaded.

    Raises:
        DataError: It is no `.npy` file, holds objects or what torch has no dtype for, has no rows, or is cut off.
    """
    try:
        with path.open("rb") as file:
            shape, fortran, stored = HEADERS[np.lib.format.read_magic(file)](file)
            header = Npy(path, shape, stored, fortran, file.tell())
    except (ValueError, KeyError, OSError) as error:
        raise DataError(
            path,
            found=f"no readable .npy header ({error})",
            expected="a file written by numpy.save (pickled objects are not read)",
            remedy="Write it again with numpy.save(path, array).",
        ) from error
    _check_dtype(header)
    _check_extent(header)
    return header


def _check_dtype(header: Npy) -> None:
    try:
        torch.from_numpy(np.empty(0, header.dtype))
    except TypeError:
        what = "pickled Python objects" if header.stored.hasobject else f"dtype {header.stored}"
        raise DataError(
            header.path,
            found=f"{what}, which are not loaded" if header.stored.hasobject else what,
            expected="numbers or booleans that torch has a dtype for",
            remedy="Convert the array, for example with array.astype(numpy.float32), and save it again.",
        ) from None


def _check_extent(header: Npy) -> None:
    if not header.shape or 0 in header.shape:
        raise DataError(
            header.path,
            found=f"an array of shape {header.shape}, which holds no row",
            expected="at least one row, along the first axis",
            remedy="Remove the file or write its rows.",
        )
    size = header.path.stat().st_size
    needed = header.offset + int(np.prod(header.shape, dtype=object)) * header.stored.itemsize
    if size < needed:
        raise DataError(
            header.path,
            found=f"{size} bytes: the file is cut off",
            expected=f"{needed} bytes for {header.shape} of {header.stored}",
            remedy="Write or copy it again.",
        )


def numbered(directory: Path, skip: Sequence[Path] = ()) -> dict[int, Path]:
    """Find a directory's `.npy` files by their numbers, in numeric order.

    Args:
        directory: Where they lie.
        skip: Files in it that are no sets.

    Raises:
        DataError: It is no directory or has no such files, or a name has no number, the number of another one, or
            another beginning.
    """
    if not directory.is_dir():
        raise DataError(
            directory,
            found="a file" if directory.exists() else "nothing",
            expected="a directory of numbered .npy files (name1.npy, name2.npy, ...)",
            remedy="Check the path.",
        )
    skipped = {path.resolve() for path in skip}
    paths = sorted(path for path in directory.glob("*.npy") if not path.name.startswith("."))
    paths = [path for path in paths if path.resolve() not in skipped]
    if not paths:
        raise DataError(
            directory,
            found="no .npy sets",
            expected="numbered .npy files (name1.npy, name2.npy, ...)",
            remedy="Check the path, or write the sets with numpy.save.",
        )
    return _by_number(directory, paths)


def _by_number(directory: Path, paths: list[Path]) -> dict[int, Path]:
    matches = {path: NUMBER.match(path.stem) for path in paths}
    _refuse_names(directory, [path for path, match in matches.items() if match is None], "without a number")
    found: dict[int, Path] = {}
    begins: dict[str, Path] = {}
    for path, match in matches.items():
        assert match is not None
        other = found.setdefault(int(match[2]), path)
        if other is not path:
            _refuse_names(directory, [other, path], f"that both have the number {int(match[2])}")
        begins.setdefault(match[1], path)
    if len(begins) > 1:
        _refuse_names(directory, list(begins.values()), "that begin differently")
    return dict(sorted(found.items()))


def _refuse_names(directory: Path, paths: list[Path], what: str) -> None:
    if paths:
        raise DataError(
            directory,
            found=f"files {what}: {joined(path.name for path in paths)}",
            expected="one beginning and one number for each set, the last digits of the name (name1.npy, name2.npy, ...)",
            remedy="Rename them, or move what is no set elsewhere.",
        )


@dataclass(slots=True)
class Table:
    """Several files, one after another, as one table of rows.

    Args:
        files: Their headers, all with the same dtype and the same shape beyond the rows.
        nested: Whether rows lie along the first two axes, `(sets, rows, ...)`.
    """

    files: list[Npy]
    nested: bool = False
    _starts: RowIds = field(init=False)
    _maps: dict[int, Array] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        first = self.files[0]
        for file in self.files:
            if file.row != first.row:
                raise DataError(
                    file.path,
                    found=f"rows of {file.row}",
                    expected=f"rows of {first.row}, as in {first.path.name}",
                    remedy="Write all sets with one dtype and one shape beyond the first axis.",
                )
        self._starts = np.cumsum((0, *map(self._count, self.files)), dtype=np.int64)

    @property
    def row(self) -> str:
        """One row's type."""
        return spell(self._shape, self.files[0].dtype)

    @property
    def _shape(self) -> tuple[int, ...]:
        return self.files[0].shape[2 if self.nested else 1 :]

    def _count(self, file: Npy) -> int:
        return file.shape[0] * file.shape[1] if self.nested else file.shape[0]

    def gather(self, rows: RowIds) -> torch.Tensor:
        """Read rows, in the order given, into one fresh (so 64-byte aligned) tensor; each file is visited once."""
        out = torch.empty(
            (len(rows), *self._shape), dtype=torch.from_numpy(np.empty(0, self.files[0].dtype)).dtype
        )
        view = out.numpy()
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        which = np.searchsorted(self._starts, ascending, side="right") - 1
        cuts = np.flatnonzero(np.diff(which)) + 1
        for places, wanted, file in zip(
            np.split(order, cuts), np.split(ascending, cuts), which[np.r_[0, cuts]].tolist(), strict=True
        ):
            self._copy(view, places, file, wanted - self._starts[file])
        return out

    def _copy(self, view: Array, places: RowIds, file: int, local: RowIds) -> None:
        values = self._values(file)
        first, stop = int(local[0]), int(local[0]) + len(local)
        # Slices on both sides are one memory copy; index arrays go row by row.
        if int(local[-1]) == stop - 1 and np.array_equal(
            places, np.arange(places[0], places[0] + len(places))
        ):
            view[int(places[0]) : int(places[0]) + len(places)] = values[first:stop]
        else:
            view[places] = values[local]

    def _values(self, file: int) -> Array:
        values = self._maps.get(file)
        if values is None:
            header = self.files[file]
            values = header.map()
            if self.nested:
                values = values.reshape(self._count(header), *self._shape)
            if len(self._maps) >= MOST_MAPS:
                self._maps.pop(next(iter(self._maps)))
            self._maps[file] = values
        return values

    def close(self) -> None:
        """Let go of the maps; the next read makes them again."""
        self._maps.clear()
