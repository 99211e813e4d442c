"""Tables of numbers: what CSV and Parquet files have in common, and their columns as sets."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from deeptrain.data.errors import DataError, joined
from deeptrain.data.formats.base import Array, Part
from deeptrain.data.formats.checks import check_shape, needed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def column_dtype(path: Path, name: str, kind: Any) -> np.dtype[Any]:
    """Give the dtype of a column of an Arrow type.

    Raises:
        DataError: It holds no numbers or booleans.
    """
    types = needed("pyarrow", "tables").types
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        dtype: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
        return dtype
    raise DataError(
        path,
        found=f"the column {name!r} of {kind}",
        expected="numbers or booleans in all columns",
        remedy="Write the file without it, or bring a reader: Files(path, reader=...).",
    )


def column_values(path: Path, name: str, column: Any, dtype: np.dtype[Any]) -> Array:
    """Give a column's values; empty cells are NaN, and refused where the dtype has none.

    Args:
        path: The file, for messages.
        name: The column's name.
        column: Arrow's column.
        dtype: What its values are to be.

    Raises:
        DataError: Cells are empty, or the column is now of another type.
    """
    stored = column_dtype(path, name, column.type)
    if column.null_count and (dtype.kind != "f" or stored.kind == "b"):
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise DataError(
            path,
            found=f"an empty cell in column {name!r}, row {row}, of {dtype}",
            expected="a value in each",
            remedy="Fill the cells, or write them as nan in a column of floats.",
        )
    values: Array = column.to_numpy(zero_copy_only=False) if hasattr(column, "chunks") else column.to_numpy()
    return values.astype(dtype, copy=False)


def common_dtype(path: Path, schema: Any) -> np.dtype[Any]:
    """Give the dtype that holds all columns of an Arrow schema."""
    return np.result_type(*(column_dtype(path, field.name, field.type) for field in schema))


def fill_matrix(path: Path, table: Any, out: Array) -> None:
    """Write a table's columns side by side into an array of shape `(rows, columns)`."""
    for index, name in enumerate(table.column_names):
        out[:, index] = column_values(path, name, table.column(index), out.dtype)


class Held:
    """A table that is read once, for all the columns that are taken out of it.

    Args:
        path: The file.
        load: Reads it.
    """

    def __init__(self, path: Path, load: Callable[[], Any]) -> None:
        self.path = path
        self._load = load
        self._table: Any = None
        self._lock = threading.Lock()

    def get(self) -> Any:
        """Give the table."""
        with self._lock:
            if self._table is None:
                self._table = self._load()
            return self._table

    def close(self) -> None:
        """Let it go."""
        self._table = None


def columns_of(held: Held) -> dict[str, Part]:
    """Give a table's columns by their names, each without the empty cells at its end.

    Raises:
        DataError: Two columns have one name.
    """
    names: Sequence[str] = held.get().column_names
    twice = (
        sorted({name for name in names if list(names).count(name) > 1})
        if len(set(names)) < len(names)
        else []
    )
    if twice:
        raise DataError(
            held.path,
            found=f"several columns named {joined(twice)}",
            expected="one of each name",
            remedy="Rename them.",
        )
    return {name: ColumnPart(held, index) for index, name in enumerate(names)}


class ColumnPart(Part):
    """One column of a table, up to its last cell that is not empty."""

    whole: ClassVar[bool] = True

    def __init__(self, held: Held, index: int) -> None:
        self.path, self.shape = held.path, ()
        table = held.get()
        self.entry, column = table.column_names[index], table.column(index)
        filled = (
            np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False)) if column.null_count else None
        )
        self.rows = len(column) if filled is None else int(filled[-1]) + 1 if len(filled) else 0
        check_shape(held.path, (self.rows,))
        self.dtype = column_dtype(held.path, self.entry, column.type)
        self._held, self._index = held, index

    def read_into(self, out: Array, start: int) -> None:
        """Copy from the table."""
        column = self._held.get().column(self._index).slice(start, len(out))
        out[...] = column_values(self.path, self.entry, column, self.dtype)

    def close(self) -> None:
        """Let the table go."""
        self._held.close()


class SinglePart(Part):
    """A part with rows of shape `(1,)`, as rows of single values."""

    def __init__(self, base: Part) -> None:
        self.path, self.shape, self.dtype, self.rows = base.path, (), base.dtype, base.rows
        self._base = base

    def read_into(self, out: Array, start: int) -> None:
        """Read from the base."""
        self._base.read_into(out[:, np.newaxis], start)

    def close(self) -> None:
        """Close the base."""
        self._base.close()
