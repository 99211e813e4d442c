"""`Files`: data in a directory of numbered `.npy` sets, with labels in one file or in a directory of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deeptrain.data.npy import DataError, Npy, Table, joined, numbered, read_header
from deeptrain.data.source import table_of_contents

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike

    from deeptrain.data.batch import RowIds

LABELS = "labels.npy"


class Files:
    """Data in a directory of numbered `.npy` files: `name1.npy`, `name2.npy`, ..., each a set of rows.

    A set's number is the last run of digits in its name, its rows lie along the first axis, and sets may differ in how
    many they have. All headers are read and checked when this is made; values are mapped when they are first read.
    Nothing is ever unpickled.

    Args:
        path: The directory.
        labels: One `.npy` file with the labels of all sets in the directory, of shape `(rows, ...)` in the sets' order
            or `(sets, rows in a set, ...)`; or a directory of `.npy` files with the sets' numbers. Without it
            `labels.npy` in the directory is taken if it is there; else there are no targets.
        sets: The numbers of the sets to use; None for all. A split into training and validation is two of these.

    Raises:
        DataError: Files are missing, misnamed, cut off or of different kinds, or labels do not match; a `ValueError`.

    Example:
        >>> train = Files("data", sets=range(1, 9))  # doctest: +SKIP
        >>> train.set_names  # doctest: +SKIP
        ('1', '2', '3', '4', '5', '6', '7', '8')
    """

    def __init__(
        self,
        path: str | PathLike[str],
        labels: str | PathLike[str] | None = None,
        sets: Iterable[int | str] | None = None,
    ) -> None:
        self.path = Path(path)
        beside = self.path / LABELS
        self.labels = Path(labels) if labels is not None else beside if beside.is_file() else None
        skip = [beside] if self.labels is None else [beside, self.labels]
        headers = {number: read_header(file) for number, file in numbered(self.path, skip).items()}
        chosen = _choose(self.path, list(headers), sets)
        self._names = tuple(map(str, chosen))
        self._sizes = tuple(headers[number].shape[0] for number in chosen)
        self._starts = np.cumsum((0, *self._sizes[:-1]), dtype=np.int64)
        self._inputs = Table([headers[number] for number in chosen])
        self._targets: Table | None = None
        self._shifts = np.zeros(len(chosen), np.int64)
        if self.labels is not None and self.labels.is_dir():
            self._targets = _labels_by_number(self.labels, headers, chosen)
        elif self.labels is not None:
            self._targets = _labels_in_one(self.labels, headers)
            self._shifts = _starts_of(headers, chosen) - self._starts

    @property
    def n_rows(self) -> int:
        """Rows of the sets in use."""
        return sum(self._sizes)

    @property
    def set_names(self) -> tuple[str, ...]:
        """The sets' numbers as text, in numeric order."""
        return self._names

    @property
    def set_sizes(self) -> tuple[int, ...]:
        """Their row counts, in the same order."""
        return self._sizes

    def describe(self) -> dict[str, Any]:
        """Give counts, hashes of the sets' names and sizes, and the row types; no path, so that data may be moved."""
        targets = {} if self._targets is None else {"targets": self._targets.row}
        return table_of_contents(self._names, self._sizes) | {"inputs": self._inputs.row} | targets

    def read(self, rows: RowIds) -> tuple[Any, Any]:
        """Read rows, in the order given, into fresh tensors; each file is visited once.

        Raises:
            IndexError: A row id is out of range.
        """
        low, high = int(rows.min()), int(rows.max())
        if low < 0 or high >= self.n_rows:
            raise IndexError(
                f"{self.path}: no rows {low} to {high}; there are the rows 0 to {self.n_rows - 1}"
            )
        inputs = self._inputs.gather(rows)
        if self._targets is None:
            return inputs, None
        which = np.searchsorted(self._starts, rows, side="right") - 1
        return inputs, self._targets.gather(rows + self._shifts[which])

    def close(self) -> None:
        """Let go of the memory maps; the next read makes them again."""
        self._inputs.close()
        if self._targets is not None:
            self._targets.close()


def _choose(path: Path, numbers: list[int], sets: Iterable[int | str] | None) -> list[int]:
    if sets is None:
        return numbers
    wanted = {int(number) for number in sets}
    unknown = sorted(wanted - set(numbers))
    if unknown or not wanted:
        raise DataError(
            path,
            found=f"the sets {joined(numbers)}",
            expected=f"the sets {joined(unknown)} too" if unknown else "at least one set to be asked for",
            remedy="Give numbers of sets that are there.",
        )
    return [number for number in numbers if number in wanted]


def _starts_of(headers: dict[int, Npy], chosen: list[int]) -> RowIds:
    """Give the chosen sets' first rows in a table of all sets."""
    starts = np.cumsum([0, *(header.shape[0] for header in headers.values())], dtype=np.int64)
    places = {number: place for place, number in enumerate(headers)}
    return starts[[places[number] for number in chosen]]


def _labels_in_one(path: Path, headers: dict[int, Npy]) -> Table:
    if not path.is_file():
        raise DataError(
            path,
            found="nothing",
            expected="a .npy file of labels, or a directory of numbered ones",
            remedy="Check the path.",
        )
    labels = read_header(path)
    sizes = {number: header.shape[0] for number, header in headers.items()}
    if labels.shape[0] == sum(sizes.values()):
        return Table([labels])
    if len(labels.shape) > 1 and labels.shape[0] == len(sizes):
        odd = [f"{number} ({size} rows)" for number, size in sizes.items() if size != labels.shape[1]]
        if not odd:
            return Table([labels], nested=True)
        found = f"{labels.shape[1]} labels for each set, but set {joined(odd)}"
    else:
        counts = joined(f"{number}: {size}" for number, size in sizes.items())
        found = (
            f"labels of shape {labels.shape} for {len(sizes)} sets with {sum(sizes.values())} rows ({counts})"
        )
    raise DataError(
        path,
        found=found,
        expected=f"shape ({sum(sizes.values())}, ...), or ({len(sizes)}, rows in a set, ...) for sets of one size",
        remedy="Write one label for each row of each set in the directory.",
    )


def _labels_by_number(path: Path, headers: dict[int, Npy], chosen: list[int]) -> Table:
    labels = {number: read_header(file) for number, file in numbered(path).items()}
    if labels.keys() != headers.keys():
        raise DataError(
            path,
            found=f"no labels for the sets {joined(sorted(headers.keys() - labels.keys())) or '(none)'}, and labels for "
            f"sets that are not there: {joined(sorted(labels.keys() - headers.keys())) or '(none)'}",
            expected="the same numbers as the sets have",
            remedy="Add or remove files so that each set has its labels.",
        )
    odd = [
        f"{number} ({header.shape[0]} rows, {labels[number].shape[0]} labels)"
        for number, header in headers.items()
        if labels[number].shape[0] != header.shape[0]
    ]
    if odd:
        raise DataError(
            path,
            found=f"other numbers of labels than rows in the sets {joined(odd)}",
            expected="one label for each row",
            remedy="Write those sets' labels again.",
        )
    return Table([labels[number] for number in chosen])
