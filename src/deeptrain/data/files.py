"""`Files`: data in files of many formats, in numbered sets, with their labels; found from a path alone."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from deeptrain.data.assembly import CLASSES, SAME, TARGETS, Assembly, Wanted, assemble
from deeptrain.data.buffers import fresh
from deeptrain.data.checks import at_least
from deeptrain.data.column import Column
from deeptrain.data.discover import Opening
from deeptrain.data.errors import DataError, joined
from deeptrain.data.formats.checks import TORCH
from deeptrain.data.formats.custom import FunctionFormat
from deeptrain.data.formats.extents import Extent, common_bytes, extent
from deeptrain.data.formats.registry import Format, Hints
from deeptrain.data.source import table_of_contents

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from deeptrain.data.assembly import Place
    from deeptrain.data.batch import RowIds
    from deeptrain.data.blocks import Stretch
    from deeptrain.data.buffers import Take
    from deeptrain.data.source import Source


class Files:
    """Data in files: a directory of numbered sets, one file that holds them, or one long file of rows.

    The kind of file, the beginning that the names share, the sets' numbers and the labels are found from the path.
    A set's number is the last run of digits in its name, its rows lie along the first axis, and sets may differ in
    how many they have. Headers are read and checked when this is made, values when they are asked for. Nothing is ever
    unpickled or executed.

    Args:
        path: A directory, a file, a pattern (`data/train*.npy`), or an array in a file (`data.h5/train`); a list,
            tuple or dict of these for several inputs, which have the same sets.
        labels: A file with the labels of all sets in the directory, of shape `(rows, ...)` in the sets' order or
            `(sets, rows in a set, ...)`; or arrays, columns or files with the sets' numbers, of which there may be more
            than sets. By default they are looked for in the same files, beside them, and in a directory `labels`.
            False for none; `"inputs"` for the inputs themselves, as an autoencoder wants.
        sets: The sets to use: their numbers, or a function of the name; None for all, which then must have no gaps in
            their numbers. A split into training and validation is two of these.
        dtype: What to cast the inputs to.
        label_dtype: What to cast the labels to.
        class_labels: Where the rows' classes are, if the labels are something else; found and read like labels, and
            given as the third value of `read`.
        layout: Whether one array is `"sets"`, of shape `(sets, rows in a set, ...)`, or `"rows"`; by default what the
            labels' shape says, else rows.
        rows_per_set: Cuts one array of rows into sets of so many; the last one has the rest.
        shape: Of values without a header, stored as `dtype`: one row's shape, or the whole array's; `(-1, ...)` is
            always the shape of many rows.
        reader: For files that no format here reads: a function that makes an array of a path, or a `Format`.
        check_finite: Whether to refuse NaN and infinity when values are read.
        on_bad_set: Whether a set that cannot be used is an error (`"raise"`), or is left out (`"skip"`), warned of
            once, and kept in `skipped` and in the record. A set that is found bad when its values are read is an error
            either way: to leave it out then would change the order in mid-run.

    Attributes:
        path: The first input's path.
        skipped: Sets that were left out, with the reasons.

    Raises:
        DataError: Files are missing, misnamed, damaged or of different kinds, or labels do not match; a `ValueError`.
        ImportError: The format needs a library that is not installed.

    Example:
        >>> train = Files("data", sets=range(1, 9))  # doctest: +SKIP
        >>> train.set_names  # doctest: +SKIP
        ('1', '2', '3', '4', '5', '6', '7', '8')
    """

    def __init__(
        self,
        path: Place | Sequence[Place] | Mapping[str, Place],
        labels: Place | Literal[False] | None = None,
        sets: Iterable[int | str] | Callable[[str], bool] | None = None,
        *,
        dtype: Any = None,
        label_dtype: Any = None,
        class_labels: Place | Literal[False] | None = None,
        layout: Literal["sets", "rows"] | None = None,
        rows_per_set: int | None = None,
        shape: Sequence[int] | None = None,
        reader: Callable[[Path], Any] | Format | None = None,
        check_finite: bool = False,
        on_bad_set: Literal["raise", "skip"] = "raise",
    ) -> None:
        _check_choice("layout", layout, (None, "sets", "rows"))
        _check_choice("on_bad_set", on_bad_set, ("raise", "skip"))
        if rows_per_set is not None:
            rows_per_set = at_least(1, "Files: rows_per_set", rows_per_set)
        places = _places(path)
        self.path = next(iter(places.values()))
        self._container = type(path) if isinstance(path, list | tuple | dict) else None
        self._same, self._check_finite = labels == SAME, check_finite
        stored, label_stored = _dtype("dtype", dtype), _dtype("label_dtype", label_dtype)
        opening = Opening(Hints(None if shape is None else tuple(shape), stored), _format_of(reader))
        wanted = Wanted(labels, class_labels, sets, layout, rows_per_set, skip_bad=on_bad_set == "skip")
        made = assemble(places, opening, wanted)
        self.skipped = made.skipped
        self._names, self._inputs = tuple(map(str, made.numbers)), list(places)
        casts = dict.fromkeys(places, stored) | {TARGETS: label_stored}
        self._columns = {key: Column(parts, dtype=casts.get(key)) for key, parts in made.parts.items()}
        self._sizes = self._columns[self._inputs[0]].sizes
        self._rows = sum(self._sizes)
        self._starts = np.cumsum((0, *self._sizes[:-1]), dtype=np.int64)
        if self.skipped:
            warnings.warn(f"{self.path}: {_skipped_in_words(made)}", stacklevel=2)

    def __repr__(self) -> str:
        rows = ", ".join(f"{key} {column.row}" for key, column in self._columns.items())
        targets = "" if self._same or TARGETS in self._columns else ", no targets"
        return f"Files({str(self.path)!r}: {len(self._names)} sets, {self.n_rows} rows, {rows}{targets})"

    @property
    def n_rows(self) -> int:
        """Rows of the sets in use."""
        return self._rows

    @property
    def set_names(self) -> tuple[str, ...]:
        """The sets' numbers as text, in numeric order."""
        return self._names

    @property
    def set_sizes(self) -> tuple[int, ...]:
        """Their row counts, in the same order."""
        return self._sizes

    @property
    def set_paths(self) -> tuple[str, ...]:
        """The file that each set's first input lies in; one that holds several sets comes again."""
        return tuple(str(part.path) for part in self._columns[self._inputs[0]].parts)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row of everything that is read."""
        return sum(column.row_bytes for column in self._columns.values())

    def describe(self) -> dict[str, Any]:
        """Give counts, hashes of the sets' names and sizes, the row types, and what was left out; no path, so that data
        may be moved.
        """
        rows = {key: column.row for key, column in self._columns.items()}
        same = {TARGETS: SAME} if self._same else {}
        skipped = {"skipped": dict(self.skipped)} if self.skipped else {}
        return table_of_contents(self._names, self._sizes) | rows | same | skipped

    def read(self, rows: RowIds) -> tuple[Any, ...]:
        """Read rows, in the order given, into fresh tensors; each file is visited once.

        Returns:
            Inputs and targets (None where there are none); where there are class labels, these too.

        Raises:
            IndexError: A row id is out of range.
            DataError: Values cannot be read, or are not finite where that is checked.
        """
        rows = np.ascontiguousarray(rows, np.int64)
        self._refuse_beyond(int(rows.min()), int(rows.max()))
        return self.read_stored(rows, None, (), fresh)

    def read_range(self, start: int, stop: int) -> tuple[Any, ...]:
        """Read the rows `start` to `stop - 1`.

        Raises:
            IndexError: The range is not within the data.
            DataError: As in `read`.
        """
        self._refuse_beyond(start, stop - 1)
        return self.read_stored(np.arange(start, stop), (start, stop), (), fresh)

    def read_labels(self, rows: RowIds) -> Any:
        """Read class labels, or targets where there are none, and no inputs but where these are the targets.

        Raises:
            IndexError, DataError: As in `read`.
        """
        if CLASSES not in self._columns and TARGETS not in self._columns:
            return self.read(rows)[1]
        rows = np.ascontiguousarray(rows, np.int64)
        self._refuse_beyond(int(rows.min()), int(rows.max()))
        return self._columns[CLASSES if CLASSES in self._columns else TARGETS].read(
            rows, fresh, (), near=True
        )

    def read_stored(
        self,
        rows: RowIds,
        span: tuple[int, int] | None,
        stretches: tuple[Stretch, ...],
        take: Take,
        *,
        near: bool = False,
    ) -> tuple[Any, ...]:
        """Read rows as `read` does, into lent memory; several threads may call it at once.

        Args:
            rows: int64 row ids of shape `(n,)`, n at least 1, all of them there.
            span: The first row and one after the last, where the rows follow each other and that is known.
            stretches: What to read together, as it will be asked for soon: the first rows lie in these, one after another.
            take: Gives the memory for a tensor of some shape and dtype.
            near: Whether the other rows of their sets will be asked for soon too; then sets are read whole.

        Raises:
            DataError: As in `read`.
        """
        columns = self._columns.items()
        if span is not None:
            values = {key: column.read_range(*span, take, near=near) for key, column in columns}
        else:
            values = {key: column.read(rows, take, stretches, near=near) for key, column in columns}
        if self._check_finite:
            for key, read in values.items():
                self._refuse_not_finite(key, read, rows)
        inputs = self._nested(values)
        targets = inputs if self._same else values.get(TARGETS)
        return (inputs, targets, values[CLASSES]) if CLASSES in values else (inputs, targets)

    def keep(self, sets: Sequence[int]) -> None:
        """Keep sets, by their indices, in memory once they are read."""
        for column in self._columns.values():
            column.keep(sets)

    def close(self) -> None:
        """Let go of files, maps and what is kept in memory; the next read opens them again."""
        for column in self._columns.values():
            column.close()

    def extents(self) -> list[Extent]:
        """Say where the first input's rows lie; see `shared_rows`."""
        return [extent(part) for part in self._columns[self._inputs[0]].parts]

    def _refuse_beyond(self, low: int, high: int) -> None:
        if not 0 <= low <= high < self._rows:
            raise IndexError(
                f"{self.path}: no rows {low} to {high}; there are the rows 0 to {self._rows - 1}"
            )

    def _nested(self, values: dict[str, torch.Tensor]) -> Any:
        if self._container is None:
            return values[self._inputs[0]]
        if self._container is dict:
            return {key.partition(".")[2]: values[key] for key in self._inputs}
        return tuple(values[key] for key in self._inputs)

    def _refuse_not_finite(self, key: str, values: torch.Tensor, rows: RowIds) -> None:
        if not (values.is_floating_point() or values.is_complex()):
            return
        finite = torch.isfinite(values).reshape(len(values), -1).all(1)
        if bool(finite.all()):
            return
        row = int(rows[int(torch.argmin(finite.to(torch.uint8)))])
        which = int(np.searchsorted(self._starts, row, side="right")) - 1
        raise DataError(
            self._columns[key].parts[which].path,
            found=f"NaN or infinity in the {key}, set {self._names[which]}, row {row - int(self._starts[which])}",
            expected="finite values, as check_finite is on",
            remedy="Mend the values; or begin a run without this set: Files(path, sets=...).",
        )


def shared_rows(one: Source, other: Source) -> int:
    """Count the rows that two sources read from the same place in the same files, through whatever links.

    Args:
        one: A source; what is not `Files` shares nothing that could be known here.
        other: Another one.

    Example:
        >>> shared_rows(Files("data", sets=[1, 2]), Files("data", sets=[3]))  # doctest: +SKIP
        0
    """
    if not isinstance(one, Files) or not isinstance(other, Files):
        return 0
    mine = one.extents()
    row = sum(place.stop - place.start for place in mine) // one.n_rows
    return -(-common_bytes(mine, other.extents()) // row)


def _check_choice(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise ValueError(f"Files: found {name}={value!r}, expected one of {', '.join(map(repr, choices))}")


def _dtype(name: str, value: Any) -> np.dtype[Any] | None:
    if value is None:
        return None
    dtype = np.dtype(str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else value)
    if dtype not in TORCH:
        raise ValueError(
            f"Files: found {name}={dtype}, expected numbers or booleans that torch has a dtype for"
        )
    return dtype


def _places(path: Place | Sequence[Place] | Mapping[str, Place]) -> dict[str, Path]:
    """Give the inputs' paths by the names that they have in a description."""
    if isinstance(path, dict):
        places = {f"inputs.{key}": Path(place) for key, place in path.items()}
    elif isinstance(path, list | tuple):
        places = {f"inputs.{index}": Path(place) for index, place in enumerate(path)}
    else:
        places = {"inputs": Path(path)}  # type: ignore[arg-type]
    if not places:
        raise ValueError("Files: found no path, expected at least one")
    return places


def _format_of(reader: Callable[[Path], Any] | Format | None) -> Format | None:
    if reader is None or isinstance(reader, Format):
        return reader
    if isinstance(reader, type) and issubclass(reader, Format):
        return reader()
    if callable(reader):
        return FunctionFormat(reader)
    raise TypeError(
        f"Files: found {type(reader).__name__} as reader, expected a function of a path, or a Format"
    )


def _skipped_in_words(made: Assembly) -> str:
    reasons = joined(f"{name}: {reason}" for name, reason in made.skipped.items())
    return f"{len(made.skipped)} of {len(made.skipped) + len(made.numbers)} sets are left out ({reasons})"
