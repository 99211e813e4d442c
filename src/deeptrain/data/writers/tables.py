"""Tables of rows and columns, written by pyarrow: Parquet, which keeps dtypes, and CSV, which is text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from deeptrain.data.formats.checks import needed

if TYPE_CHECKING:
    from pathlib import Path

    from deeptrain.data.formats.base import Array

MOST_AXES = 2  # rows, and the values of a row side by side


def write_parquet(path: Path, values: Array) -> None:
    """Write one array with a column for each value of a row.

    Raises:
        ValueError: A row has more than one axis, or complex numbers.
    """
    parquet = needed("pyarrow.parquet", "tables")
    table = _table(path, values)
    with path.open("xb") as file:
        parquet.write_table(table, file)


def write_csv(path: Path, values: Array) -> None:
    """Write one array as lines of numbers, below a line of names, with a column for each value of a row.

    Floats are written so that one who reads float64 finds their exact values again.

    Raises:
        ValueError: A row has more than one axis, or complex numbers.
    """
    csv = needed("pyarrow.csv", "tables")
    table = _table(path, values.astype(np.float64) if values.dtype.kind == "f" else values)
    with path.open("xb") as file:
        csv.write_csv(table, file)


def _table(path: Path, values: Array) -> Any:
    if values.ndim > MOST_AXES or values.dtype.kind == "c":
        raise ValueError(
            f"{path.name}: found rows of {values.dtype}{list(values.shape[1:])}, expected real numbers or booleans and at "
            f"most one axis for a table; choose another format, or reshape the rows"
        )
    columns = values.reshape(len(values), -1)
    arrays = {_name(at): np.ascontiguousarray(columns[:, at]) for at in range(columns.shape[1])}
    return needed("pyarrow", "tables").table(arrays)


def _name(index: int) -> str:
    """Name a column a, b, ..., z, aa, ab, ...: without digits, as numbers would be taken for those of sets."""
    name = ""
    index += 1
    while index:
        index, letter = divmod(index - 1, 26)
        name = chr(ord("a") + letter) + name
    return name
