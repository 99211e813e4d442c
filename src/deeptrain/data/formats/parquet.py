"""Parquet: tables of numbers in groups of rows, each of which is decoded when it is needed."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from deeptrain.data.formats.checks import check_shape, needed, unreadable
from deeptrain.data.formats.chunked import ChunkedPart, check_chunk, whole_if_small
from deeptrain.data.formats.registry import Format, Hints
from deeptrain.data.formats.tables import Held, columns_of, common_dtype, fill_matrix

if TYPE_CHECKING:
    from pathlib import Path

    from deeptrain.data.formats.base import Array, Part

WHAT = "Parquet file"


class ParquetFormat(Format):
    """The columns of a table side by side, or as a set each."""

    def entries(self, path: Path, hints: Hints) -> dict[str, Part]:  # noqa: ARG002 - the file tells
        """Read the file's description, which is at its end."""
        return {"": whole_if_small(ParquetPart(path))}

    def columns(self, path: Path) -> dict[str, Part]:
        """Read the columns."""
        return columns_of(Held(path, partial(_load, path)))


def _open(path: Path) -> Any:
    arrow, reader = needed("pyarrow", "tables"), needed("pyarrow.parquet", "tables")
    try:
        return reader.ParquetFile(str(path))
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise unreadable(path, WHAT, error) from error


def _load(path: Path) -> Any:
    file = _open(path)
    return _read(path, lambda: file.read(use_threads=False))


def _read(path: Path, read: Any) -> Any:
    arrow = needed("pyarrow", "tables")
    try:
        return read()
    except (arrow.ArrowException, OSError, ValueError) as error:
        raise unreadable(path, WHAT, error) from error


class ParquetPart(ChunkedPart):
    """A table's rows, decoded group by group."""

    def __init__(self, path: Path) -> None:
        self.path = path
        file = _open(path)
        about = file.metadata
        groups = [about.row_group(index) for index in range(about.num_row_groups)]
        self.rows, self.shape = about.num_rows, (len(file.schema_arrow),)
        check_shape(path, (self.rows, *self.shape))
        self.dtype = common_dtype(path, file.schema_arrow)
        self._starts = np.cumsum([0, *(group.num_rows for group in groups)])
        if min((group.num_rows for group in groups), default=0) < 0 or self._starts[-1] != self.rows:
            raise unreadable(path, WHAT, ValueError(f"{self.rows} rows in groups of {self._starts[-1]}"))
        for group in groups:
            check_chunk(path, group.num_rows * self.shape[0] * self.dtype.itemsize)
        self._file: Any = file
        # A file object is not made for two threads.
        self._lock = threading.Lock()

    def _chunk(self, row: int) -> tuple[int, int]:
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        return int(self._starts[group]), int(self._starts[group + 1])

    def _load(self, out: Array, start: int) -> None:
        stop, at = start + len(out), start
        while at < stop:
            end = self._chunk(at)[1]
            table = self._group(int(np.searchsorted(self._starts, at, side="right")) - 1)
            if table.num_rows != end - at or table.num_columns != self.shape[0]:
                raise unreadable(
                    self.path, WHAT, ValueError(f"{table.num_rows} rows in a group of {end - at}")
                )
            fill_matrix(self.path, table, out[at - start : end - start])
            at = end

    def _group(self, index: int) -> Any:
        with self._lock:
            if self._file is None:
                self._file = _open(self.path)
            file = self._file
            return _read(self.path, lambda: file.read_row_group(index, use_threads=False))

    def close(self) -> None:
        """Close the file."""
        super().close()
        with self._lock:
            self._file = None
