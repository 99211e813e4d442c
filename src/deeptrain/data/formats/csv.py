"""CSV: tables of numbers as text, with a first line of names or without."""

from __future__ import annotations

import csv
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from deeptrain.data.errors import DataError
from deeptrain.data.formats.base import Array, Part
from deeptrain.data.formats.checks import check_shape, needed, unreadable
from deeptrain.data.formats.registry import Format, Hints
from deeptrain.data.formats.tables import Held, columns_of, common_dtype, fill_matrix

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

WHAT = "CSV file of numbers"
DELIMITERS = ",;\t"
FEWEST = 3  # columns; with fewer, a first line that counts 0, 1 or 1, 2 may as well be values
MOST_LINE = 1 << 24


class CsvFormat(Format):
    """Rows of numbers as lines of text.

    A first line with any text is names. So is one that counts its columns, `0,1,2` or `1,2,3`, of three or more. Where
    columns are looked for by the numbers of sets, each first line of different whole numbers is names.
    """

    def entries(self, path: Path, hints: Hints) -> dict[str, Part]:  # noqa: ARG002 - the text tells
        """Read the file once, for its number of rows and the types of its columns."""
        return {"": CsvPart(path)}

    def columns(self, path: Path) -> dict[str, Part]:
        """Read the columns; none where the first line is no names."""
        cells, delimiter = first_line(path)
        if not _are_names(cells) and not _are_numbers(cells):
            return {}
        return columns_of(Held(path, partial(load, path, cells, delimiter)))


def first_line(path: Path) -> tuple[list[str], str]:
    """Give the cells of a file's first line, and what stands between them.

    Raises:
        DataError: It is no text, or empty.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            line = file.readline(MOST_LINE)
        delimiter = max(DELIMITERS, key=line.count)
        cells = next(csv.reader([line], delimiter=delimiter), [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise unreadable(path, WHAT, error) from error
    if not cells:
        raise DataError(
            path, found="an empty file", expected="lines of numbers", remedy="Remove it or write its rows."
        )
    return [cell.strip() for cell in cells], delimiter


def load(path: Path, names: list[str] | None, delimiter: str) -> Any:
    """Read a file with Arrow; where the types that its beginning suggests do not hold, all as floats.

    Args:
        path: The file.
        names: What its first line holds; None where that is values already.
        delimiter: What stands between values.

    Raises:
        DataError: It is not made of numbers.
    """
    arrow, reader = needed("pyarrow", "tables"), needed("pyarrow.csv", "tables")
    width = len(first_line(path)[0])
    labels = names or [str(index) for index in range(width)]
    read = reader.ReadOptions(column_names=labels, skip_rows=0 if names is None else 1, use_threads=False)
    parse = reader.ParseOptions(delimiter=delimiter)
    try:
        return reader.read_csv(str(path), read, parse)
    except (arrow.ArrowInvalid, OSError):
        floats = reader.ConvertOptions(column_types=dict.fromkeys(labels, arrow.float64()))
        try:
            return reader.read_csv(str(path), read, parse, floats)
        except (arrow.ArrowException, OSError, ValueError) as error:
            raise unreadable(path, WHAT, error) from error


def _are_names(cells: list[str]) -> bool:
    """Whether a first line of inputs is names."""
    counts = len(cells) >= FEWEST and any(
        cells == [str(index) for index in range(first, first + len(cells))] for first in (0, 1)
    )
    return counts or not all(map(_is_number, cells))


def _are_numbers(cells: list[str]) -> bool:
    """Whether a first line may be the numbers of sets."""
    return len(set(cells)) == len(cells) and all(cell.isascii() and cell.isdigit() for cell in cells)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return not cell  # an empty cell may be a missing value
    return True


class CsvPart(Part):
    """All columns of a file side by side. The file is read again when its values are: text has no header to trust."""

    whole: ClassVar[bool] = True

    def __init__(self, path: Path) -> None:
        self.path = path
        cells, self._delimiter = first_line(path)
        self._names = cells if _are_names(cells) else None
        table = self._load()
        check_shape(path, (table.num_rows, table.num_columns))
        self.rows, self.shape = table.num_rows, (table.num_columns,)
        self.dtype = common_dtype(path, table.schema)

    def promote(self, dtype: np.dtype[Any]) -> None:
        """Have whole numbers read as floats, where other sets of the same data have floats."""
        self.dtype = dtype

    def read_into(self, out: Array, start: int) -> None:
        """Read the file, and keep the rows that are wanted."""
        table = self._load()
        if (table.num_rows, table.num_columns) != (self.rows, *self.shape):
            raise DataError(
                self.path,
                found=f"{table.num_rows} rows of {table.num_columns} values",
                expected=f"{self.rows} rows of {self.shape[0]}, as when it was opened",
                remedy="Put the data back, then go on.",
            )
        fill_matrix(self.path, table.slice(start, len(out)), out)

    def _load(self) -> Any:
        return load(self.path, self._names, self._delimiter)
